"""Which numbers of a parameter make up one filter, by the kind of its layer.

A filter is what feeds one output: a row of a linear layer, of packed queries, keys and values or of
an embedding, and one output channel of a convolution, in groups or not. These are the slices along
the first axis. A transposed convolution is stored the other way round: its output channels lie
along the second axis, group by group.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["Filters", "filters_of"]

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class Filters:
    """How the filters of one parameter lie in it.

    Args:
        transposed: Whether they lie along the second axis, as in a transposed convolution.
        groups: The groups of a transposed convolution, which divide its first axis.

    Example:
        >>> Filters().norms(torch.tensor([[3.0, 4.0], [0.0, 1.0]])).flatten()
        tensor([5., 1.])
        >>> Filters(transposed=True).norms(torch.tensor([[3.0, 0.0], [4.0, 1.0]])).flatten()
        tensor([5., 1.])
    """

    transposed: bool = False
    groups: int = 1

    def norms(self, part: Tensor) -> Tensor:
        """The 2-norm of every filter, in float32 at least, in a shape that `spread` takes."""
        dtype = torch.float64 if part.dtype == torch.float64 else torch.float32
        apart = self._apart(part)
        own = 2 if self.transposed else 0  # the axis that counts filters, beside the groups
        within = tuple(d for d in range(apart.dim()) if d not in {own, 0})
        return torch.linalg.vector_norm(apart, dim=within, keepdim=True, dtype=dtype)

    def spread(self, part: Tensor, factor: Tensor) -> Tensor:
        """A parameter with every filter multiplied by its factor."""
        return (self._apart(part) * factor).to(part.dtype).reshape(part.shape)

    def _apart(self, part: Tensor) -> Tensor:
        """The parameter as (groups, inputs of a group, outputs of a group, ...), if transposed."""
        return part.reshape(self.groups, -1, *part.shape[1:]) if self.transposed else part


def filters_of(model: nn.Module) -> list[Filters]:
    """How the filters lie in each trainable parameter of a model, in the order of an objective.

    A parameter that several layers share counts once, as in the weights of `Objective.of_model`.

    Args:
        model: The model.

    Returns:
        One entry per trainable parameter.

    Example:
        >>> filters_of(nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False))
        [Filters(transposed=True, groups=2)]
    """
    turned = {
        id(module.weight): Filters(transposed=True, groups=module.groups)
        for module in model.modules()
        if isinstance(module, TRANSPOSED)
    }
    return [turned.get(id(param), Filters()) for param in model.parameters() if param.requires_grad]
