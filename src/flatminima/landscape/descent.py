"""Thousands of descents on a surface at once, each as a training loop would make it.

    g_i, p_i, d_i        the rule's conversation with the surface, mapped over the starts
    w_i <- base step along d_i

Both halves are those of every training here. The rule is the generator of the zoo, carried out by
`torch.func.vmap`; the optimizer is torch's own on one tensor of all the points, which is exact for
optimizers that step each coordinate by itself. So any member that neither remembers nor draws can
be asked, and any of these optimizers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn, optim

from flatminima.landscape.surfaces import Surface
from flatminima.rules.rule import Here, Look, Rule
from flatminima.vector import Vector

__all__ = ["Descents", "descents", "tilts"]

Make: TypeAlias = Callable[[Sequence[nn.Parameter]], optim.Optimizer]
ALONE = (
    optim.SGD,
    optim.Adagrad,
    optim.Adam,
    optim.AdamW,
    optim.RMSprop,
    optim.Adadelta,
    optim.Adamax,
    optim.NAdam,
    optim.RAdam,
)
"""Optimizers that step each coordinate by itself."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Descents:
    """What became of each start."""

    ends: Tensor  # (n, 2), the point after the last step; nan where the descent diverged
    diverged: Tensor  # (n,) int64, the step that diverged, counted from 1; 0 where none did
    path: Tensor  # (k, n, 2), the points after some of the steps; nan after it diverged
    kept: Tensor  # (k,) int64, which steps these are; 0 is the start
    steps: int

    def fate(self, index: int) -> str:
        """What became of one start, in words: where it is, or the step at which it diverged."""
        if step := int(self.diverged[index]):
            return f"diverged at step {step}"
        a, b = self.ends[index].tolist()
        return f"at ({a:g}, {b:g}) after {self.steps} steps"


def descents(
    surface: Surface,
    starts: Tensor,
    optimizer: Make,
    rule: Rule | None = None,
    *,
    steps: int,
    rho: Tensor | None = None,
    tilts: Tensor | None = None,
    m: int | None = None,
    every: int | None = None,
    far: float = 10.0,
) -> Descents:
    """Descend a surface from many starts at once.

    Args:
        surface: The surface.
        starts: The starts, (n, 2).
        optimizer: Makes a `torch.optim` optimizer of a list of parameters, such as
            `functools.partial(torch.optim.Adagrad, lr=0.5)`; one that steps each coordinate by
            itself.
        rule: What each descent does at a step; `None` descends along the gradient. It must neither
            remember nor draw.
        steps: How many steps.
        rho: A radius per start, (n,), in place of the rule's own: radii by the thousand in one
            call.
        tilts: What tells examples apart, (examples, 2), so that there are groups of `m`: example j
            has the loss f(w) + tilt_j . w. See `tilts`.
        m: Examples per group: each group has a displacement of its own, and the directions are
            averaged. `None` is one group of all.
        every: Keep the points after every so many steps; `None` keeps the start and the end.
        far: A descent has diverged when its point is not finite, or further from the middle of the
            box than `far` times the half of its width or height. It isn't followed any further.

    Returns:
        Where each start ended, or the step at which it diverged.

    Raises:
        TypeError: If the optimizer is none, or mixes coordinates.
        ValueError: If an argument is out of its range or has the wrong shape, or a start is not
            finite.

    Cost: per step what the rule asks for, a gradient or two of all points at once; 10 000 points of
        Easom take about 10 ms with SAM on one core.

    Example:
        >>> import flatminima as fm
        >>> from flatminima.landscape.surfaces import quadratic
        >>> starts = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> def sgd(params):
        ...     return torch.optim.SGD(params, lr=0.1)
        >>> descents(quadratic(2.0, 1.0), starts, sgd, fm.sam(rho=0.5), steps=1).ends
        tensor([[0.7000, 0.0000],
                [0.0000, 0.8500]])
    """
    _check(starts, rule, steps, rho, tilts, m, every, far)
    points = nn.Parameter(starts.detach().clone())
    base = optimizer([points])
    if not isinstance(base, ALONE):
        raise TypeError(
            "optimizer must make one that steps each coordinate by itself, such as SGD, Adagrad "
            f"or Adam, got {type(base).__name__}"
        )
    direction = _directions(surface, rule, rho, tilts, m)
    middle, reach = _frame(surface, points, far)
    diverged = torch.zeros(len(points), dtype=torch.int64, device=points.device)
    path, kept = [points.detach().clone()], [0]
    for step in range(1, steps + 1):
        points.grad = direction(points.detach(), step - 1)
        base.step()
        with torch.no_grad():
            inside = ((points - middle).abs() <= reach).all(dim=-1)  # nan is not
            diverged = torch.where(inside | (diverged > 0), diverged, step)
            points[~inside] = torch.nan
        if step == steps or (every and step % every == 0):
            path.append(points.detach().clone())
            kept.append(step)
    return Descents(
        ends=path[-1],
        diverged=diverged,
        path=torch.stack(path),
        kept=torch.tensor(kept),
        steps=steps,
    )


def tilts(examples: int, size: float, generator: torch.Generator) -> Tensor:
    """Slopes that make examples of a surface, and cancel on the mean.

        f_j(w) = f(w) + tilt_j . w,   sum_j tilt_j = 0

    The mean over all examples is the surface itself, bit for bit but for rounding; a group of few
    sees another slope, and so looks in another direction, as a small batch does.

    Args:
        examples: How many.
        size: The standard deviation of a coordinate, in units of the gradient.
        generator: A generator on the CPU.

    Returns:
        The tilts, (examples, 2).

    Raises:
        ValueError: If there are no examples, or `size` is negative.

    Example:
        >>> tilts(4, 1.0, torch.Generator().manual_seed(0)).sum(dim=0).abs().max() < 1e-6
        tensor(True)
    """
    if examples < 1 or not size >= 0:
        raise ValueError(
            f"tilts must be of one example or more and of a size >= 0, got {examples} of {size}"
        )
    drawn = torch.randn(examples, 2, generator=generator, dtype=torch.get_default_dtype())
    return size * (drawn - drawn.mean(dim=0))


def _directions(
    surface: Surface, rule: Rule | None, rho: Tensor | None, tilts: Tensor | None, m: int | None
) -> Callable[[Tensor, int], Tensor]:
    """The direction of every start, as a function of the points and the number of the step."""
    if rule is None:
        lean = 0.0 if tilts is None else tilts.mean(dim=0)
        return lambda points, _: surface.gradients(points) + lean
    slope = torch.func.grad(surface.height)

    def direction(w: Tensor, own: Tensor | None, lean: Tensor, step: int) -> Tensor:
        look = Look(w=Vector([w]), memory=None, step=step, own=() if own is None else (own,))
        talk = rule(look)
        question = next(talk)
        try:
            while True:
                at = w if isinstance(question, Here) else w + _only(question)
                question = talk.send(Vector([slope(at) + lean]))
        except StopIteration as end:
            return _only(end.value)

    groups = [torch.zeros(1, 2)] if tilts is None else list(tilts.split(m or len(tilts)))
    leans = torch.stack([group.mean(dim=0) for group in groups])
    shares = torch.tensor([len(group) for group in groups], dtype=leans.dtype)[:, None]
    own = None if rho is None else 0

    def directions(points: Tensor, step: int) -> Tensor:
        here = torch.func.vmap(direction, in_dims=(None, None, 0, None))
        every = torch.func.vmap(here, in_dims=(0, own, None, None))
        each = every(points, rho, leans.to(points), step)  # (n, groups, 2)
        return (each * (shares / shares.sum()).to(points)).sum(dim=1)

    return directions


def _only(answer: object) -> Tensor:
    """The one tensor of a displacement or of a direction."""
    if not isinstance(answer, Vector):
        raise TypeError(
            f"rule must ask for displacements of the weights on a surface, got {answer!r}; "
            "there is no other batch"
        )
    return answer.tensors[0]


def _frame(surface: Surface, like: Tensor, far: float) -> tuple[Tensor, Tensor]:
    """The middle of the box, and how far from it a point may be."""
    ends = torch.tensor(surface.box).to(like)
    return ends.mean(dim=1), far * (ends[:, 1] - ends[:, 0]) / 2


def _check(
    starts: Tensor,
    rule: Rule | None,
    steps: int,
    rho: Tensor | None,
    tilts: Tensor | None,
    m: int | None,
    every: int | None,
    far: float,
) -> None:
    """Refuse what describes no descent."""
    if starts.dim() != 2 or starts.shape[-1] != 2:
        raise ValueError(f"starts must have the shape (n, 2), got {tuple(starts.shape)}")
    if not bool(starts.isfinite().all()):
        row = int((~starts.isfinite()).any(dim=-1).nonzero()[0])
        raise ValueError(f"starts must be finite, got {starts[row].tolist()} in row {row}")
    if steps < 1 or (every is not None and every < 1):
        raise ValueError(f"steps and every must be at least 1, got {steps} and {every}")
    if not far > 1:
        raise ValueError(f"far must be above 1, a multiple of the box, got {far}")
    if (rule is None and rho is not None) or (tilts is None and m is not None):
        lone, needed = ("rho", "rule") if rule is None and rho is not None else ("m", "tilts")
        raise ValueError(f"{needed} must be given with {lone}, got None")
    if rho is not None and (rho.shape != starts.shape[:1] or not bool((rho >= 0).all())):
        raise ValueError(f"rho must be {len(starts)} radii >= 0, one per start, got {rho}")
    if m is not None and m < 1:
        raise ValueError(f"m must be at least 1, got {m}")
