"""Functions of two variables whose minima are known, as objectives like any other.

    easom, eggholder, rosenbrock, beale, himmelblau, ackley, rastrigin     from the literature
    two_valleys(sharp, flat)       a sharp and a flat minimum of the same depth
    Surface(height)                your own

Two variables can be seen whole: where the minima are, how sharp each is, and from which starts a
method ends in which. A surface takes one point as a `Vector`, as everything that measures does, and
thousands of points at once as a tensor whose last axis has the two coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from flatminima.objective import Objective

__all__ = [
    "Box",
    "Minimum",
    "Surface",
    "ackley",
    "beale",
    "easom",
    "eggholder",
    "himmelblau",
    "quadratic",
    "rastrigin",
    "rosenbrock",
    "two_valleys",
]

Box: TypeAlias = tuple[tuple[float, float], tuple[float, float]]
Height: TypeAlias = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Minimum:
    """A known minimum of a surface.

    Args:
        at: Its two coordinates.
        value: The height there.
        kind: `smooth`, where the gradient is 0; `edge`, on the edge of the box, where only the
            slope along the edge is 0 and the one across leads out; `cusp`, the tip of a cone, which
            has no gradient.

    Example:
        >>> easom.minima[0].value
        -1.0
    """

    at: tuple[float, float]
    value: float
    kind: Literal["smooth", "edge", "cusp"] = "smooth"


class Surface(Objective):
    """A function of two variables: an objective, and one that takes many points at once.

        f(w) = height(a, b),   w = (a, b)

    Args:
        height: Takes two tensors of one shape and returns the heights, of that shape; made of torch
            operations, coordinate by coordinate.
        box: Where it is looked at: ((lowest a, highest a), (lowest b, highest b)).
        minima: The lowest points within the box, where they are known.
        name: What it is called.

    Raises:
        TypeError: If `height` returns something else, or something without a gradient.
        ValueError: If the box is none.

    Cost: a few passes over the points; the gradient is torch's own.

    Example:
        >>> from flatminima.vector import Vector
        >>> bowl = Surface(lambda a, b: a**2 + 3 * b**2, name="bowl")
        >>> points = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> bowl.values(points), bowl.gradients(points)
        (tensor([1., 3.]), tensor([[2., 0.],
                [0., 6.]]))
        >>> bowl.value(Vector([points[1]]))
        tensor(3.)
    """

    def __init__(
        self,
        height: Height,
        *,
        box: Box = ((-5.0, 5.0), (-5.0, 5.0)),
        minima: Sequence[Minimum] = (),
        name: str = "surface",
    ) -> None:
        for low, high in box:
            if not -math.inf < low < high < math.inf:
                raise ValueError(f"box must have low < high, both finite, got {(low, high)}")
        self.box = box
        self.minima = tuple(minima)
        self.name = name
        self._height = height
        self._check()
        super().__init__(lambda w: height(*w.tensors[0].unbind(-1)))

    def __repr__(self) -> str:
        (left, right), (low, high) = self.box
        return f"Surface({self.name}, [{left:g}, {right:g}] x [{low:g}, {high:g}])"

    def height(self, point: Tensor) -> Tensor:
        """The heights at some points, differentiable: (..., 2) gives (...)."""
        return self._height(*point.unbind(-1))

    @torch.no_grad()
    def values(self, points: Tensor) -> Tensor:
        """The heights at some points: (..., 2) gives (...)."""
        return self.height(points)

    @torch.enable_grad()
    def gradients(self, points: Tensor) -> Tensor:
        """The gradients at some points: (..., 2) gives (..., 2)."""
        points = points.detach().requires_grad_()
        return torch.autograd.grad(self.height(points).sum(), points)[0]

    @torch.enable_grad()
    def hessians(self, points: Tensor) -> Tensor:
        """The matrices of second derivatives at some points: (..., 2) gives (..., 2, 2)."""
        points = points.detach().requires_grad_()
        slope = torch.autograd.grad(self.height(points).sum(), points, create_graph=True)[0]
        if not slope.requires_grad:  # a plane
            return slope.new_zeros(*points.shape, 2)
        rows = [
            torch.autograd.grad(part.sum(), points, retain_graph=True, materialize_grads=True)[0]
            for part in slope.unbind(-1)
        ]
        return torch.stack(rows, dim=-2)

    def grid(self, side: int) -> Tensor:
        """Points that cover the box evenly, as the pixels of a picture do.

        Args:
            side: How many along each axis.

        Returns:
            The middles of side x side cells, (side, side, 2): rows have the same b, columns the
            same a.

        Raises:
            ValueError: If `side` is not positive.

        Example:
            >>> easom.grid(2)[0, :, 0] / math.pi
            tensor([0.5000, 1.5000])
        """
        if side < 1:
            raise ValueError(f"side must be at least 1, got {side}")
        shares = (torch.arange(side, dtype=torch.get_default_dtype()) + 0.5) / side
        (left, right), (low, high) = self.box
        b, a = torch.meshgrid(
            low + shares * (high - low), left + shares * (right - left), indexing="ij"
        )
        return torch.stack((a, b), dim=-1)

    def _check(self) -> None:
        """Evaluate two points as one tensor, and see whether what returns has a gradient."""
        corner, far = (torch.tensor(ends).requires_grad_() for ends in zip(*self.box, strict=True))
        points = torch.stack((corner, far)).lerp(torch.stack((far, corner)), 0.4)
        heights = self._height(*points.unbind(-1))
        if not isinstance(heights, Tensor) or heights.shape != points.shape[:-1]:
            raise TypeError(
                f"height must return a tensor of the shape of its arguments, got {heights!r}"
            )
        if not heights.requires_grad:
            raise TypeError(
                "height must be made of torch operations on its arguments, got a result without "
                "a gradient: numpy, .item() and .detach() cut it off"
            )


def _easom(a: Tensor, b: Tensor) -> Tensor:
    return -a.cos() * b.cos() * torch.exp(-((a - math.pi) ** 2 + (b - math.pi) ** 2))


def _eggholder(a: Tensor, b: Tensor) -> Tensor:
    one = -(b + 47) * (a / 2 + (b + 47)).abs().sqrt().sin()
    return one - a * (a - (b + 47)).abs().sqrt().sin()


def _rosenbrock(a: Tensor, b: Tensor) -> Tensor:
    return (1 - a) ** 2 + 100 * (b - a**2) ** 2


def _beale(a: Tensor, b: Tensor) -> Tensor:
    return (1.5 - a + a * b) ** 2 + (2.25 - a + a * b**2) ** 2 + (2.625 - a + a * b**3) ** 2


def _himmelblau(a: Tensor, b: Tensor) -> Tensor:
    return (a**2 + b - 11) ** 2 + (a + b**2 - 7) ** 2


def _ackley(a: Tensor, b: Tensor) -> Tensor:
    # The norm, and not a root of squares, has the slope 0 at the tip, as torch's own |.| has.
    away = torch.linalg.vector_norm(torch.stack(torch.broadcast_tensors(a, b)), dim=0)
    cone = -20 * torch.exp(-0.2 * away / math.sqrt(2))
    waves = -torch.exp(((2 * math.pi * a).cos() + (2 * math.pi * b).cos()) / 2)
    return cone + waves + math.e + 20


def _rastrigin(a: Tensor, b: Tensor) -> Tensor:
    waves = (2 * math.pi * a).cos() + (2 * math.pi * b).cos()
    return 20 + a**2 + b**2 - 10 * waves


def _square(reach: float) -> Box:
    return ((-reach, reach), (-reach, reach))


easom = Surface(
    _easom,
    name="Easom",
    box=((0.0, 2 * math.pi), (0.0, 2 * math.pi)),
    minima=[Minimum((math.pi, math.pi), -1.0)],
)
"""A hole in a plain: -cos a cos b exp(-(a - pi)^2 - (b - pi)^2), lowest, -1, at (pi, pi).

Where cos a and cos b change sign together the plain has four shallow minima more, of height -8e-5.
The literature looks at [-100, 100]^2, of which all but this box is level to 1e-4.

Source: Easom 1990; the same formula in every collection of test functions we know of.
"""

eggholder = Surface(
    _eggholder,
    name="Eggholder",
    box=_square(512.0),
    minima=[Minimum((512.0, 404.23180511375784), -959.640662720851, "edge")],
)
"""Many deep minima: -(b + 47) sin sqrt|a/2 + b + 47| - a sin sqrt|a - b - 47|.

The lowest point of the box, -959.6407 at (512, 404.2318), is on its edge: the slope across it is
not 0 and leads out, and out there the function has no bound from below. It has a kink where either
root is 0.

Source: Whitley et al. 1996. Collections write b + a/2 + 47 and a - (b + 47): the same.
"""

rosenbrock = Surface(
    _rosenbrock,
    name="Rosenbrock",
    box=((-2.0, 2.0), (-1.0, 3.0)),
    minima=[Minimum((1.0, 1.0), 0.0)],
)
"""A bent valley with a level floor: (1 - a)^2 + 100 (b - a^2)^2. Source: Rosenbrock 1960."""

beale = Surface(_beale, name="Beale", box=_square(4.5), minima=[Minimum((3.0, 0.5), 0.0)])
"""Steep at the corners, level in the middle: the sum over i = 1, 2, 3 of (c_i - a + a b^i)^2 with
c = 1.5, 2.25, 2.625. Source: Beale 1958.
"""

himmelblau = Surface(
    _himmelblau,
    name="Himmelblau",
    box=_square(5.0),
    minima=[
        Minimum((3.0, 2.0), 0.0),
        Minimum((-2.805118086952745, 3.131312518250573), 0.0),
        Minimum((-3.779310253377747, -3.283185991286170), 0.0),
        Minimum((3.584428340330492, -1.848126526964404), 0.0),
    ],
)
"""Four minima of one depth and of different sharpness: (a^2 + b - 11)^2 + (a + b^2 - 7)^2.

Source: Himmelblau 1972.
"""

ackley = Surface(
    _ackley, name="Ackley", box=_square(4.0), minima=[Minimum((0.0, 0.0), 0.0, "cusp")]
)
"""Ripples on a funnel whose tip, at the origin, is a cone and has no gradient.

    -20 exp(-0.2 sqrt((a^2 + b^2) / 2)) - exp((cos 2 pi a + cos 2 pi b) / 2) + e + 20

Source: Ackley 1987.
"""

rastrigin = Surface(
    _rastrigin, name="Rastrigin", box=_square(5.12), minima=[Minimum((0.0, 0.0), 0.0)]
)
"""A bowl with a minimum near every pair of whole numbers: 20 + a^2 + b^2 - 10 (cos 2 pi a +
cos 2 pi b). Source: Rastrigin 1974.
"""


def quadratic(one: float, two: float) -> Surface:
    """A bowl, or a saddle, of two curvatures.

        f(w) = (one a^2 + two b^2) / 2

    Args:
        one: The curvature along a.
        two: The curvature along b.

    Returns:
        The surface; its minimum is known if neither curvature is negative.

    Example:
        >>> quadratic(4.0, 1.0).values(torch.tensor([1.0, 2.0]))
        tensor(4.)
    """
    minima = [Minimum((0.0, 0.0), 0.0)] if min(one, two) >= 0 else []
    return Surface(
        lambda a, b: (one * a**2 + two * b**2) / 2,
        name=f"quadratic {one:g}, {two:g}",
        minima=minima,
    )


def two_valleys(sharp: float = 400.0, flat: float = 4.0) -> Surface:
    """A sharp and a flat minimum of the same depth, a distance of 2 apart.

        f(w) = min(sharp ||w - (-1, 0)||^2, flat ||w - (1, 0)||^2) / 2

    Each valley is a parabola up to the ridge, on which both are equally high: a circle around the
    sharp minimum whose nearest point is `2 sqrt(flat) / (sqrt(sharp) + sqrt(flat))` from it. What
    happens within a valley has a closed form; see `flatminima.landscape.stability`.

    Args:
        sharp: The curvature of the sharp valley.
        flat: The curvature of the flat one.

    Returns:
        The surface; the first of its minima is the sharp one.

    Raises:
        ValueError: Unless 0 < flat < sharp.

    Example:
        >>> two_valleys().values(torch.tensor([[-1.0, 0.0], [1.0, 0.0], [-0.9, 0.0]]))
        tensor([0.0000, 0.0000, 2.0000])
    """
    if not 0 < flat < sharp < math.inf:
        raise ValueError(f"flat must be above 0 and below sharp = {sharp:g}, got {flat:g}")

    def height(a: Tensor, b: Tensor) -> Tensor:
        left, right = (a + 1) ** 2 + b**2, (a - 1) ** 2 + b**2
        return torch.minimum(sharp * left, flat * right) / 2

    return Surface(
        height,
        name=f"two valleys, {sharp:g} and {flat:g}",
        box=_square(2.0),
        minima=[Minimum((-1.0, 0.0), 0.0), Minimum((1.0, 0.0), 0.0)],
    )
