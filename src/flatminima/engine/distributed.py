"""Several processes: over whose examples a pass is taken, and the one mean over the ranks.

    global     every pass is reduced, by DDP or FSDP2 themselves: one displacement for all ranks
    replica    no pass is reduced, each rank has a displacement of its own (m-SAM with its part of
               the batch as the group); then one reduction, of the direction

Every rank asks the same questions: the generator that rules draw from is that of the first rank.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from flatminima.engine.buffers import Buffers
from flatminima.vector import Part, Vector, is_sharded

__all__ = ["Ranks", "Sync", "mean_over_ranks"]

Sync: TypeAlias = Literal["global", "replica"]


@dataclass
class Ranks:
    """The other processes that train the same model, if there are any.

    Args:
        model: The model, or `None` where only its parameters are known.
        params: The parameters.
        sync: `global` or `replica`.
        buffers: Knows which modules a pass called, where the model is not known.

    Raises:
        TypeError: If the model is sharded by the older FSDP, which shows no parameters.
        ValueError: If `sync` is unknown, or each rank cannot have a displacement of its own.
    """

    model: nn.Module | None
    params: Sequence[Tensor]
    sync: Sync
    buffers: Buffers
    _owes: bool = False  # whether `.grad` may hold what was not reduced yet
    _agreed: bool = False
    _sharded: bool = False
    _wrappers: list[DistributedDataParallel] = field(default_factory=list[DistributedDataParallel])
    _gathering: list[Any] = field(default_factory=list[Any])  # FSDP2's modules

    def __post_init__(self) -> None:
        if self.sync not in ("global", "replica"):
            raise ValueError(f"sync must be 'global' or 'replica', got {self.sync!r}")
        self._sharded = any(map(is_sharded, self.params))
        known = [] if self.model is None else list(self.model.modules())
        self._wrappers = _wrappers(known)
        self._gathering = [module for module in known if hasattr(module, "reshard")]
        names = {type(module).__name__ for module in known}
        if "FullyShardedDataParallel" in names:
            raise TypeError(
                "model must be sharded by torch.distributed.fsdp.fully_shard, "
                "got FullyShardedDataParallel, which hides the parameters that are to move"
            )
        if self.sync == "global":
            return
        if self._sharded:
            raise ValueError(
                "sync must be 'global' with sharded parameters, got 'replica'; each rank holds a "
                "part of the weights only, so it cannot displace them on its own: use m instead"
            )
        if not self._parallel():
            raise ValueError(
                "sync must be 'global' unless the model is DistributedDataParallel, got 'replica' "
                f"with {type(self.model).__name__}; hand over the wrapped model"
            )
        if any(module.static_graph for module in self._wrappers):
            raise ValueError(
                "static_graph must be False with sync='replica', got True; "
                "such a graph is reduced in its first pass, whatever no_sync says"
            )

    def forget(self) -> None:
        """Agree again on random numbers, after a state was loaded."""
        self._agreed = False

    def agree(self, generator: torch.Generator) -> None:
        """Draw the same numbers on all ranks from now on: those of the first one.

        Without it a rule that tosses a coin would ask for two gradients here and one there, and the
        ranks would wait for each other for ever.
        """
        groups = self._groups()
        if self._agreed or not groups:
            return
        state = generator.get_state().to(self.params[0].device)
        for group in groups:
            distributed.broadcast(state, group=group, group_src=0)
        generator.set_state(state.cpu())
        self._agreed = True

    @contextmanager
    def passes(self) -> Generator[None]:
        """Around all passes of a step: no reduction in `replica`, forward and backward alike."""
        with ExitStack() as stack:
            if self.sync == "replica":
                for module in self._parallel():
                    if module.require_backward_grad_sync:
                        # The first pass sends the buffers of rank 0 to all, as it does in a plain
                        # step; without a reduction DDP would leave it out.
                        module.require_forward_param_sync = True
                    stack.enter_context(module.no_sync())
            yield

    def reduced(self, kept: list[Part], direction: Vector) -> Vector:
        """The direction that all ranks descend; `kept` is reduced in place where that is due.

        Args:
            kept: What `.grad` held before the step. Steps under `no_sync` leave there what is this
                rank's own, and the first step after them reduces it.
            direction: This rank's direction.

        Returns:
            The mean over the ranks, or `direction` itself where it is that already.

        Raises:
            RuntimeError: If FSDP2 was told to keep the gradients.
        """
        modules = self._parallel()
        if not modules:
            if self._sharded and not any(direction.present):
                raise RuntimeError(
                    "gradients must be reduced in every pass, got none from FSDP2; leave "
                    "set_requires_gradient_sync on, and accumulate by calling backward again"
                )
            return direction
        if not all(module.require_backward_grad_sync for module in modules):
            self._owes = True
            return direction
        due = list(kept) if self._owes else []
        mine = list(direction.parts) if self.sync == "replica" else []
        self._owes = False
        if not due and not mine:
            return direction
        likes = [*self.params] * (bool(due) + bool(mine))
        mean = mean_over_ranks([*due, *mine], likes, modules[0].process_group)
        self._settle(kept, mean[: len(due)])
        return Vector(mean[len(due) :]) if mine else direction

    def reshard(self) -> None:
        """Let FSDP2 gather the weights anew: they have moved."""
        for module in self._gathering:
            module.reshard()

    @torch.no_grad()
    def _settle(self, kept: list[Part], mean: Sequence[Part]) -> None:
        for index, part in enumerate(mean):
            grad = kept[index]
            if grad is not None and part is not None:
                grad.copy_(part)
            elif part is not None and self.params[index].requires_grad:
                kept[index] = part  # another rank's alone

    def _parallel(self) -> list[DistributedDataParallel]:
        """The wrappers of the model; if it is not known, those that the last step called."""
        return self._wrappers if self.model is not None else _wrappers(self.buffers.called)

    def _groups(self) -> list[Any]:
        """The process groups that train this model together."""
        groups = [module.process_group for module in self._parallel()][:1]
        first = next((param for param in self.params if is_sharded(param)), None)
        return groups if first is None else first.device_mesh.get_all_groups()  # pyright: ignore


def _wrappers(modules: Iterable[nn.Module]) -> list[DistributedDataParallel]:
    return [module for module in modules if isinstance(module, DistributedDataParallel)]


@torch.no_grad()
def mean_over_ranks(parts: Sequence[Part], likes: Sequence[Tensor], group: Any) -> list[Part]:  # noqa: ANN401 - torch's group has no type
    """The mean of each part over the ranks, by one reduction for each dtype.

    Args:
        parts: This rank's tensors; `None` counts as zeros.
        likes: A tensor of the same shape, dtype and device for each part.
        group: The process group.

    Returns:
        The means; `None` where every rank has `None`.
    """
    mean: list[Part] = [None] * len(parts)
    kinds: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for index, like in enumerate(likes):
        kinds.setdefault((like.device, like.dtype), []).append(index)
    for indices in kinds.values():
        like = likes[indices[0]]
        there = torch.tensor([parts[i] is not None for i in indices]).to(like)
        rows = [_flat(parts[i], likes[i]) for i in indices]
        bucket = torch.cat([*rows, there]).div_(group.size())  # first, so that no sum overflows
        distributed.all_reduce(bucket, group=group)
        *rows, there = bucket.split([*(likes[i].numel() for i in indices), len(indices)])
        # Only a rank that lacks a gradient has to ask whether another one has it.
        absent = any(parts[i] is None for i in indices)
        present = (there > 0).tolist() if absent else [True] * len(indices)
        for i, row, somewhere in zip(indices, rows, present, strict=True):
            mean[i] = row.view(likes[i].shape) if somewhere else None
    return mean


def _flat(part: Part, like: Tensor) -> Tensor:
    return like.new_zeros(like.numel()) if part is None else part.reshape(-1)
