"""Running statistics, which move once per group, in order, as the loop over the groups has it.

A layer with statistics s_j of group j and momentum f makes r <- (1 - f) r + f s_j of them. One that
is called again in the same pass moves them again before the next group comes, so the calls of a
pass are put together, r <- h r + u_j, and take effect when it is over:

    r <- h^G r + sum_j h^(G - j) u_j,   j = 1 .. G
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from flatminima.engine.batched.layer import Pass

__all__ = ["Running", "follow"]


@dataclass(frozen=True)
class Running:
    """What the calls of a pass do to a running statistic in each group.

    Args:
        r: The statistic.
        h: How much of it a group leaves.
        u: What each group adds, (groups, *shape).
    """

    r: Tensor
    h: float
    u: Tensor

    @torch.no_grad()
    def settle(self) -> None:
        """Let all groups move the statistic."""
        count = len(self.u)
        late = torch.arange(count - 1, -1, -1, device=self.u.device, dtype=self.u.dtype)
        self.r.mul_(self.h**count).add_((self.h**late @ self.u).to(self.r.dtype))


@torch.no_grad()
def follow(run: Pass, r: Tensor, each: Tensor, momentum: float) -> None:
    """One call of a layer, with statistics `each`, (groups, *shape)."""
    if id(r) in run.cumulative:  # all batches weigh the same, in any order
        count = len(each)  # and `momentum` is one over their number by now
        r.mul_(1.0 - count * momentum).add_(each.sum(0).to(r.dtype), alpha=momentum)
        return
    before = run.running.get(id(r))
    h, u = 1.0 - momentum, momentum * each
    run.running[id(r)] = (
        Running(r, h, u) if before is None else Running(r, h * before.h, u + h * before.u)
    )
