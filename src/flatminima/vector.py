"""Parameter-shaped vectors with arithmetic, so that formulas read as they do in the papers.

A `Vector` holds one tensor per parameter. Weights, gradients, displacements and eigenvectors are
all this, and `p - alpha * (g - g.onto(p))` is code. Two conventions carry the rest of the library:

- A part may be `None`: zero there, at no cost in memory, and "no gradient" where torch would say
  so.
- A multiple of a vector stays a multiple until somebody reads its parts, so that `rho / norm * g`
  allocates nothing, and a multiple by exactly 0 is exactly 0 even where the vector is not finite:
  what is not used cannot contaminate.

Norms and dot products are accumulated in float32 at least, on the device, without asking the host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias, TypeGuard, Union

import torch
from torch import Tensor

__all__ = ["Part", "Scale", "Vector", "copy_each", "has_value", "is_sharded", "local"]

Part: TypeAlias = Tensor | None
Scale: TypeAlias = Union[float, Tensor, "tuple[float | Tensor, ...]"]


class Vector:
    """One tensor per parameter, with the arithmetic of a vector.

        a * u + b * v,   u * v (coordinate by coordinate),   <u, v>,   ||u||_p

    Args:
        parts: One tensor per parameter, of any shapes; `None` stands for zero ("no gradient").

    Vectors that meet in an expression must have as many parts as each other, and parts of the same
    shapes. The tensors are neither copied nor changed: every operation returns a new vector.

    Raises:
        TypeError: If a part is neither a tensor nor `None`.

    Cost: one pass over the coordinates for each operation; a multiple by a number costs nothing.

    Example:
        >>> g = Vector([torch.tensor([3.0, 0.0]), torch.tensor([4.0])])
        >>> g.norm()
        tensor(5.)
        >>> (0.1 / g.norm() * g).parts[1]
        tensor([0.0800])
    """

    __slots__ = ("_base", "_norm", "_scale")

    def __init__(self, parts: Iterable[Part]) -> None:
        self._base: tuple[Part, ...] = tuple(parts)
        self._scale: Scale | None = None
        self._norm: Tensor | None = None
        for part in self._base:
            if part is not None and not isinstance(part, Tensor):
                raise TypeError(
                    f"parts must be tensors or None, got {type(part).__name__}; "
                    "wrap numbers in torch.tensor"
                )

    # ------------------------------------------------------------------------------- looking inside

    @property
    def parts(self) -> tuple[Part, ...]:
        """The tensors, one per parameter; `None` where the vector is zero by construction."""
        if self._scale is not None:
            if _fusable(self._scale, self._base):
                multiples = iter(_multiples(list(filter(_is_there, self._base)), self._scale))
                self._base = tuple(None if part is None else next(multiples) for part in self._base)
            else:
                pairs = zip(self._base, self._scales(), strict=True)
                self._base = tuple(
                    None if part is None else _multiple(part, scale) for part, scale in pairs
                )
            self._scale = None
        return self._base

    @property
    def tensors(self) -> list[Tensor]:
        """The parts that are there, without the `None`s."""
        return [part for part in self.parts if part is not None]

    def __len__(self) -> int:
        return len(self._base)

    def __iter__(self) -> Iterator[Part]:
        return iter(self.parts)

    def __repr__(self) -> str:
        there = [part for part in self._base if part is not None]
        size = sum(part.numel() for part in there)
        kinds = ", ".join(
            sorted({f"{str(part.dtype).removeprefix('torch.')}, {part.device}" for part in there})
        )
        absent = f", {len(self) - len(there)} absent" if len(there) < len(self) else ""
        return f"Vector({len(self)} parts, {size:,} coordinates{absent}; {kinds or 'empty'})"

    # ----------------------------------------------------------------------------------- arithmetic

    def __neg__(self) -> Vector:
        return self * -1.0

    def __add__(self, other: Vector) -> Vector:
        return self._joined(other, 1.0)

    def __sub__(self, other: Vector) -> Vector:
        return self._joined(other, -1.0)

    def __mul__(self, factor: Vector | Scale) -> Vector:
        if isinstance(factor, Vector):
            pairs = zip(self.parts, self._matching(factor).parts, strict=True)
            return Vector(None if a is None or b is None else a * b for a, b in pairs)
        result = Vector(())
        result._base = self._base
        result._scale = self._times(factor)
        return result

    __rmul__ = __mul__

    def __truediv__(self, divisor: Vector | float | Tensor) -> Vector:
        if isinstance(divisor, Vector):
            pairs = zip(self.parts, self._matching(divisor).parts, strict=True)
            return Vector(
                None if a is None else a / (torch.zeros_like(a) if b is None else b)
                for a, b in pairs
            )
        return self * (1.0 / divisor)

    def map(self, function: Callable[..., Tensor], *others: Vector) -> Vector:
        """Apply `function` to the tensors of each parameter in turn.

        Args:
            function: Takes as many tensors as there are vectors; returns one tensor of the same
                shape.
            *others: Further vectors. A part that is `None` in some of the vectors arrives as zeros;
                one that is `None` in all of them stays `None`, and `function` is not called.

        Returns:
            The vector of the results.

        Example:
            >>> Vector([torch.tensor([-2.0, 1.0]), None]).map(torch.sign).parts
            (tensor([-1.,  1.]), None)
        """
        rows = zip(self.parts, *(self._matching(other).parts for other in others), strict=True)
        return Vector(_filled(function, row) for row in rows)

    # ------------------------------------------------------------------------------- inner products

    def dot(self, other: Vector) -> Tensor:
        """The inner product with `other`.

        Args:
            other: A vector of the same shapes.

        Returns:
            A 0-d tensor, accumulated in float32 at least.

        Example:
            >>> Vector([torch.tensor([1.0, 2.0])]).dot(Vector([torch.tensor([3.0, 4.0])]))
            tensor(11.)
        """
        # The square of the norm has no second derivative at 0, which the sum of squares has.
        if other is self and not any(part.requires_grad for part in self.tensors):
            return self.norm().square()
        pairs = zip(self.parts, self._matching(other).parts, strict=True)
        there = [(a, b) for a, b in pairs if a is not None and b is not None]
        if any(is_sharded(a) for a, _ in there):
            return _sharded_dot(there)
        terms = [_dot(a, b) for a, b in there]
        return _together(terms).sum()

    def norm(self, p: float = 2.0) -> Tensor:
        """The p-norm over all coordinates together: a 0-d tensor, accumulated in float32 at least.

        Args:
            p: The order, 1 <= p <= inf.

        Returns:
            The norm, on the device of the first part; 0 if every part is `None`.

        Example:
            >>> Vector([torch.tensor([3.0, -4.0])]).norm(float("inf"))
            tensor(4.)
        """
        if p == 2.0 and self._norm is not None:
            return self._norm
        if self._scale is not None and not isinstance(self._scale, tuple):
            norm = Vector(self._base).norm(p)
            if not isinstance(self._scale, Tensor):  # which must not wait for its way to a device
                return torch.zeros_like(norm) if self._scale == 0 else norm * abs(self._scale)
            size = self._scale.to(norm).abs()
            return torch.where(size == 0, 0.0, size * norm)
        present = self.tensors
        if any(map(is_sharded, present)):
            norms = _sharded_norms(present, p)
        else:
            norms = [norm for tensors in _by_kind(present) for norm in _norms(tensors, p)]
        norm = torch.linalg.vector_norm(_together(norms), p)
        if p == 2.0:
            self._norm = norm
        return norm

    def onto(self, other: Vector) -> Vector:
        """The projection on the line through `other`.

            <u, v> / <v, v> v

        Args:
            other: A vector of the same shapes.

        Returns:
            The projection; 0 if `other` is 0.

        Example:
            >>> Vector([torch.tensor([1.0, 1.0])]).onto(Vector([torch.tensor([2.0, 0.0])])).parts[0]
            tensor([1., 0.])
        """
        square = other.dot(other)
        share = torch.where(square == 0, torch.zeros_like(square), self.dot(other) / square)
        return other * share

    # --------------------------------------------------------------------------------- new from old

    def only(self, keep: Sequence[bool]) -> Vector:
        """This vector on some of the parameters, and `None` elsewhere.

        Args:
            keep: One truth value per parameter.

        Returns:
            The vector; its tensors are the same ones.

        Example:
            >>> Vector([torch.ones(1), torch.ones(1)]).only([True, False]).parts
            (tensor([1.]), None)
        """
        result = Vector(part if kept else None for part, kept in zip(self._base, keep, strict=True))
        result._scale = self._scale
        return result

    def clone(self) -> Vector:
        """The same vector in memory of its own."""
        return Vector(None if part is None else part.clone() for part in self.parts)

    def detach(self) -> Vector:
        """The same tensors, cut off from autograd's graph."""
        return Vector(None if part is None else part.detach() for part in self.parts)

    def zeros_like(self) -> Vector:
        """A vector of zeros of the same shapes."""
        return Vector(None if part is None else torch.zeros_like(part) for part in self.parts)

    def randn_like(self, generator: torch.Generator) -> Vector:
        """Independent standard normal coordinates of the same shapes.

        The draw depends on the generator alone and not on the device.

        Args:
            generator: A generator on the CPU; the draws are made there, in float32 at least, and
                moved.

        Returns:
            The random vector; `None` stays `None`.
        """
        return Vector(None if part is None else _drawn(part, generator) for part in self.parts)

    # ------------------------------------------------------------------------ how the parts combine

    def _matching(self, other: Vector) -> Vector:
        if len(other) != len(self):
            raise ValueError(
                f"other must have {len(self)} parts like this vector, got {len(other)}; "
                "build both from the same list of parameters"
            )
        for a, b in zip(self._base, other._base, strict=True):
            if a is not None and b is not None and a.shape != b.shape:
                raise ValueError(
                    f"other must have parts of the same shapes, got {tuple(b.shape)} where this "
                    f"vector has {tuple(a.shape)}; build both from the same list of parameters"
                )
        return other

    def _device(self) -> torch.device | None:
        return next((part.device for part in self._base if part is not None), None)

    def _scales(self) -> Sequence[float | Tensor]:
        if isinstance(self._scale, tuple):
            return self._scale
        return [1.0 if self._scale is None else self._scale] * len(self)

    def _times(self, factor: Scale) -> Scale:
        if self._scale is None:
            return factor
        if not isinstance(self._scale, tuple) and not isinstance(factor, tuple):
            return self._scale * factor
        factors = factor if isinstance(factor, tuple) else [factor] * len(self)
        return tuple(a * b for a, b in zip(self._scales(), factors, strict=True))

    def _joined(self, other: Vector, sign: float) -> Vector:
        scales = [scale if sign == 1.0 else -scale for scale in self._matching(other)._scales()]
        rows = list(zip(self.parts, other._base, scales, strict=True))
        both = [(a, b) for a, b, _ in rows if a is not None and b is not None]
        scale = other._scale
        uniform = isinstance(scale, Tensor) and _plain_on_host(both, scale)
        if uniform and len(both) == len(rows) and bool(scale):
            ours, theirs = zip(*both, strict=True)
            return Vector(torch._foreach_add(ours, theirs, alpha=sign * scale.item()))  # pyright: ignore
        return Vector(_sum(a, b, scale) for a, b, scale in rows)

    def add_to(self, targets: Sequence[Tensor], rounding: torch.Generator | None = None) -> None:
        """Add this vector to `targets` in place, without a temporary where there is a scale.

        Args:
            targets: One tensor per part.
            rounding: Draws which of its two neighbours a sum becomes that bfloat16 cannot hold, so
                that it is right in the mean; `None` takes the nearest, which swallows what is less
                than half the distance between them.
        """
        if _fusable(self._scale, self._base):
            rows = zip(targets, self._base, strict=True)
            for some in _chunks([(target, part) for target, part in rows if part is not None]):
                ends, parts = [target for target, _ in some], [part for _, part in some]
                torch._foreach_add_(ends, _multiples(parts, self._scale))  # pyright: ignore
            return
        pairs = zip(targets, self._base, strict=True)
        rows = [(target, part) for target, part in pairs if part is not None]
        if isinstance(self._scale, Tensor) and _plain_on_host(rows, self._scale):
            if scale := self._scale.item():
                ends, parts = zip(*rows, strict=True)
                torch._foreach_add_(ends, parts, alpha=scale)  # pyright: ignore
            return
        for target, part, scale in zip(targets, self._base, self._scales(), strict=True):
            if part is not None and not _is_zero(scale):
                _add_multiple(target, part, scale, rounding)

    def fits(self, targets: Sequence[Tensor]) -> bool:
        """Whether the parts have the shapes, dtypes and devices of these tensors."""
        return len(self._base) == len(targets) and all(
            part is None
            or (part.shape, part.dtype, part.device) == (like.shape, like.dtype, like.device)
            for part, like in zip(self._base, targets, strict=True)
        )

    @property
    def present(self) -> list[bool]:
        """Which parts are there: false where they are `None`."""
        return [part is not None for part in self._base]

    def is_absent(self, index: int) -> bool:
        """Whether part `index` is zero by construction, which the host knows without a look."""
        return self._base[index] is None or _is_zero(self._scales()[index])


# ------------------------------------------------------------------ tensors: sums, multiples, norms


def _wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which sums over `dtype` are accumulated."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _is_narrow(tensor: Tensor) -> bool:
    return tensor.dtype in (torch.float16, torch.bfloat16)


def _is_zero(scale: float | Tensor) -> bool:
    """Whether a scale is the number 0; a 0-d tensor is asked on its own device instead."""
    return not isinstance(scale, Tensor) and scale == 0


def has_value(tensor: Tensor) -> bool:
    """Whether a tensor holds numbers, at an address; while a step is traced it stands for some.

    Args:
        tensor: The tensor.

    Returns:
        Whether it is torch's own class and none that is made from it.

    Example:
        >>> has_value(torch.zeros(())), has_value(torch.nn.Parameter(torch.zeros(())))
        (True, False)
    """
    return type(tensor) is Tensor


def _on_host(part: Tensor, scale: Tensor) -> bool:
    """Whether reading the scale costs nothing."""
    kinds = {part.device.type, scale.device.type}
    readable = has_value(scale) and not torch.compiler.is_compiling() and not _is_mapped()
    return readable and kinds == {"cpu"}


def _is_mapped() -> bool:
    """Whether `torch.func` is at work, under which no value can be read and foreach is unknown."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._functorch.peek_interpreter_stack() is not None  # pyright: ignore


def _multiple(part: Tensor, scale: float | Tensor) -> Tensor:
    """`scale * part`, in float32 for half precision, and exactly 0 where the scale is 0."""
    if not isinstance(scale, Tensor):
        return torch.zeros_like(part) if scale == 0 else part * scale
    scale = scale.to(part.device)
    wide = part.to(_wide(part.dtype)) if _is_narrow(part) else part
    scaled = (wide * scale).to(part.dtype)
    if _on_host(part, scale):  # a look, and mostly nothing else to do
        return scaled if scaled.requires_grad or bool(scale != 0) else torch.zeros_like(part)
    return torch.where(scale == 0, torch.zeros((), dtype=part.dtype, device=part.device), scaled)


CHUNK = 2**21
"""Coordinates of a temporary, so that few kernels do not cost the memory of all parameters."""


def _is_there(part: Part) -> TypeGuard[Tensor]:
    return part is not None


def _fusable(scale: Scale | None, parts: Sequence[Part]) -> TypeGuard[Tensor]:
    """Whether one 0-d tensor off the host scales parts of one kind, by kernels for all of them."""
    there = list(filter(_is_there, parts))
    if not isinstance(scale, Tensor) or not there or _on_host(there[0], scale) or _is_mapped():
        return False
    like = there[0]
    return not (_is_narrow(like) or is_sharded(like) or scale.requires_grad) and all(
        part.dtype == like.dtype and part.device == like.device and not part.requires_grad
        for part in there
    )


def _plain_on_host(rows: Sequence[tuple[Tensor, Tensor]], scale: Tensor) -> bool:
    """Whether one call can add the multiples of all parts, by a scale that the host may read."""
    if not rows or scale.requires_grad or not _on_host(like := rows[0][0], scale):
        return False
    return not _is_narrow(like) and all(
        tensor.dtype == like.dtype and tensor.is_cpu and not is_sharded(tensor)
        for row in rows
        for tensor in row
    )


def _multiples(parts: list[Tensor], scale: Tensor) -> list[Tensor]:
    """As `_multiple` of each part, with fewer kernels; all are of one kind."""
    scale = scale.detach().to(parts[0].device, parts[0].dtype)
    zero, nothing = scale == 0, torch.zeros_like(scale)
    multiples = [torch.where(zero, nothing, part) for part in parts]  # for 0 inf is not 0
    torch._foreach_mul_(multiples, scale)  # pyright: ignore
    return multiples


def _chunks(rows: list[tuple[Tensor, Tensor]]) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """The rows in order, `CHUNK` coordinates at a time."""
    some: list[tuple[Tensor, Tensor]] = []
    count = 0
    for row in rows:
        if some and count + row[0].numel() > CHUNK:
            yield some
            some, count = [], 0
        some.append(row)
        count += row[0].numel()
    if some:
        yield some


def _sum(a: Part, b: Part, scale: float | Tensor) -> Part:
    """`a + scale * b`, where `None` is zero."""
    if b is None:
        return a
    if a is None:
        return b if not isinstance(scale, Tensor) and scale == 1 else _multiple(b, scale)
    if not isinstance(scale, Tensor):
        return a if scale == 0 else torch.add(a, b, alpha=scale)
    if _on_host(a, scale) and not _is_narrow(a) and bool(scale != 0):
        return torch.addcmul(a, b, scale.to(a.dtype))  # one pass, no temporary
    return a + _multiple(b, scale)


def _add_multiple(
    target: Tensor, part: Tensor, scale: float | Tensor, rounding: torch.Generator | None = None
) -> None:
    """`target += scale * part` in place; a scale of 0 leaves `target` bit for bit as it was."""
    if isinstance(scale, Tensor) and _on_host(target, scale) and bool(scale == 0):
        return
    if _is_narrow(target):
        wide = _wide(target.dtype)
        exact = target.to(wide) + _multiple(part.to(wide), scale)
        if rounding is not None and target.dtype == torch.bfloat16:
            exact = _either_neighbour(exact, rounding)
        target.copy_(exact)
    elif not isinstance(scale, Tensor):
        target.add_(part, alpha=scale)
    elif _on_host(target, scale):
        target.addcmul_(part, scale.to(target.dtype))  # one pass, no temporary
    else:
        target.add_(_multiple(part, scale))


def _either_neighbour(exact: Tensor, generator: torch.Generator) -> Tensor:
    """float32 rounded to one of its neighbours in bfloat16, to the nearer with more probability."""
    # bfloat16 is the upper half of float32: a draw is added to the lower half, and its carry counts
    values = local(exact).contiguous()
    seed = int(torch.randint(2**62, (), generator=generator))  # one draw, however many are here
    own = torch.Generator().manual_seed(seed)
    draws = torch.randint(2**16, values.shape, generator=own, dtype=torch.int32)
    bits = (values.view(torch.int32) + draws.to(values.device)) & -(2**16)
    local(exact).copy_(torch.where(values.isfinite(), bits.view(torch.float32), values))
    return exact


def _dot(a: Tensor, b: Tensor) -> Tensor:
    wide = _wide(a.dtype)
    return torch.dot(a.reshape(-1).to(wide), b.reshape(-1).to(wide))


def _together(terms: Sequence[Tensor]) -> Tensor:
    """0-d tensors as one 1-d tensor, on the device of the first, in the widest of their dtypes."""
    if not terms:
        return torch.zeros(1)
    wide = torch.float64 if any(term.dtype == torch.float64 for term in terms) else torch.float32
    return torch.stack([term.to(terms[0].device, wide) for term in terms])


def _by_kind(tensors: list[Tensor]) -> list[list[Tensor]]:
    """The tensors by device and dtype, as the fused kernels want them."""
    kinds: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault((tensor.device, tensor.dtype), []).append(tensor)
    return list(kinds.values())


def _norms(tensors: list[Tensor], p: float) -> Iterable[Tensor]:
    wide = _wide(tensors[0].dtype)
    if _is_mapped():
        return [torch.linalg.vector_norm(tensor, p, dtype=wide) for tensor in tensors]
    return torch._foreach_norm(tensors, p, dtype=wide)  # pyright: ignore


def copy_each(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy each source into its target, in place, by one fused kernel where there is one."""
    if any(map(is_sharded, targets)):  # this one kernel does not know them
        targets, sources = [local(tensor) for tensor in targets], [local(t) for t in sources]
    if targets:
        torch._foreach_copy_(targets, sources)  # pyright: ignore


# ------------------------------------------------------------------------------ sharded parameters


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is a `DTensor`, of which this process holds a part.

    Args:
        tensor: A tensor.

    Returns:
        The answer, without importing what only sharded training needs.
    """
    kind = type(tensor)
    return kind is not Tensor and kind is not torch.nn.Parameter and hasattr(tensor, "placements")


def local(tensor: Any) -> Any:  # noqa: ANN401 - DTensor is not imported
    """This process's part of a tensor, which shares its memory; all of an ordinary one."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # pyright: ignore


def _whole(tensor: Any, like: Any | None = None) -> Any:  # noqa: ANN401 - DTensor is not imported
    """A `DTensor` without pending sums, or placed like another one."""
    from torch.distributed.tensor import Replicate

    if like is not None:
        return tensor.redistribute(like.device_mesh, like.placements)
    places = [Replicate() if place.is_partial() else place for place in tensor.placements]
    return tensor.redistribute(placements=places)


def _drawn(like: Any, generator: torch.Generator) -> Tensor:  # noqa: ANN401 - DTensor is not imported
    """A normal draw where `like` is; of a `DTensor` every process keeps its part."""
    values = torch.randn(like.shape, generator=generator, dtype=_wide(like.dtype))
    if not is_sharded(like):
        return values.to(like)
    from torch.distributed.tensor import distribute_tensor

    values = values.to(like.device, like.dtype)  # the same on all ranks: nothing is sent
    return distribute_tensor(values, like.device_mesh, like.placements, src_data_rank=None)


def _from_all(local: Tensor, like: Any) -> Tensor:  # noqa: ANN401 - DTensor is not imported
    """The 0-d results of all processes that hold another part than this one, in one tensor."""
    from torch.distributed.tensor import DTensor, Replicate, Shard

    places = [Shard(0) if place.is_shard() else Replicate() for place in like.placements]
    return DTensor.from_local(local.reshape(1), like.device_mesh, places).full_tensor()


def _by_place(tensors: list[Any]) -> list[list[int]]:
    """The indices of tensors that are cut in the same way, or not at all."""
    places: dict[object, list[int]] = {}
    for index, tensor in enumerate(tensors):
        cut = is_sharded(tensor)
        key = (
            (tensor.device_mesh, tuple(place.is_shard() for place in tensor.placements))
            if cut
            else None
        )
        places.setdefault(key, []).append(index)
    return list(places.values())


def _sharded_norms(tensors: list[Tensor], p: float) -> list[Tensor]:
    """Norms of which the norm is the whole one: one exchange for all that are cut alike."""
    tensors = [_whole(tensor) if is_sharded(tensor) else tensor for tensor in tensors]
    norms: list[Tensor] = []
    for indices in _by_place(tensors):
        first = tensors[indices[0]]
        parts = [part for part in (local(tensors[i]) for i in indices) if part.numel()]
        here = [norm for kind in _by_kind(parts) for norm in _norms(kind, p)]
        if is_sharded(first):
            wide = _together(here).to(first.device, _wide(first.dtype))
            norms.extend(_from_all(torch.linalg.vector_norm(wide, p), first).unbind())
        else:
            norms.extend(here)
    return norms


def _sharded_dot(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The inner product, with one exchange for all that are cut alike."""
    pairs = [(_whole(a), _whole(b, _whole(a))) if is_sharded(a) else (a, b) for a, b in pairs]
    terms: list[Tensor] = []
    for indices in _by_place([a for a, _ in pairs]):
        first = pairs[indices[0]][0]
        here = _together([_dot(local(a), local(b)) for a, b in (pairs[i] for i in indices)]).sum()
        terms.extend(_from_all(here, first).unbind() if is_sharded(first) else [here])
    return _together(terms).sum()


def _filled(function: Callable[..., Tensor], row: tuple[Part, ...]) -> Part:
    like = next((part for part in row if part is not None), None)
    if like is None:
        return None
    return function(*(torch.zeros_like(like) if part is None else part for part in row))
