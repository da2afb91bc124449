"""Small networks, their losses and batches, and what it means that a step changed nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

torch.set_num_threads(1)  # networks so small take longer on several

Batch = tuple[Tensor, Tensor]

OPTIMIZERS: dict[str, Callable[[Iterable[Tensor]], torch.optim.Optimizer]] = {
    "SGD": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=1e-2),
    "Adam": lambda params: torch.optim.Adam(params, lr=1e-2, weight_decay=1e-2),
    "AdamW": lambda params: torch.optim.AdamW(params, lr=1e-2, weight_decay=1e-1),
    "Adagrad": lambda params: torch.optim.Adagrad(params, lr=1e-1, weight_decay=1e-2),
}


def smooth(dtype: torch.dtype | None = None, seed: int = 1) -> nn.Sequential:
    """No buffers, no randomness, no kinks."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).to(dtype=dtype)


def noisy(dtype: torch.dtype | None = None, seed: int = 1) -> nn.Sequential:
    """With batch normalisation and dropout."""
    torch.manual_seed(seed)
    layers = (nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.3), nn.Linear(6, 3))
    return nn.Sequential(*layers).to(dtype=dtype)


def batches(count: int, size: int = 6, dtype: torch.dtype | None = None) -> list[Batch]:
    generator = torch.Generator().manual_seed(2)
    return [
        (
            torch.randn(size, 4, generator=generator).to(dtype=dtype),
            torch.randint(3, (size,), generator=generator),
        )
        for _ in range(count)
    ]


def loss_of(model: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, y: functional.cross_entropy(model(x), y)


class Counted:
    """A loss that counts its calls, keeps what `look` sees at each, and may raise or be spoilt."""

    def __init__(
        self,
        loss_fn: Callable[..., Tensor],
        *,
        look: Callable[[], Any] = lambda: None,
        raise_at: int | None = None,
        spoil: Callable[[int], float] = lambda call: 1.0,
    ) -> None:
        self.loss_fn, self.look, self.raise_at, self.spoil = loss_fn, look, raise_at, spoil
        self.seen: list[Any] = []

    def __call__(self, *batch: Any) -> Tensor:
        self.seen.append(self.look())
        loss = self.loss_fn(*batch) * self.spoil(len(self.seen))
        if len(self.seen) == self.raise_at:
            raise ArithmeticError(f"pass {self.raise_at}")
        return loss


def copied(tensors: Iterable[Tensor | None]) -> list[Tensor | None]:
    return [None if tensor is None else tensor.detach().clone() for tensor in tensors]


def weights(model: nn.Module) -> list[Tensor]:
    return [param.detach().clone() for param in model.parameters()]


def gradients(model: nn.Module) -> list[Tensor | None]:
    return copied(param.grad for param in model.parameters())


def same_bits(one: Any, two: Any) -> bool:
    """Whether two tensors, or trees of them, agree in every bit: 0 is not -0, and NaN is NaN."""
    if isinstance(one, Tensor) and isinstance(two, Tensor):
        if (one.shape, one.dtype) != (two.shape, two.dtype):
            return False
        ones, twos = (t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (one, two))
        return torch.equal(ones, twos)
    if isinstance(one, dict) and isinstance(two, dict):
        return one.keys() == two.keys() and all(same_bits(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(two, list | tuple):
        return len(one) == len(two) and all(map(same_bits, one, two))
    return type(one) is type(two) and one == two


def leaves(tree: Any) -> Iterator[Any]:
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, list | tuple):
        for item in tree:
            yield from leaves(item)
    else:
        yield tree


@contextmanager
def restored(params: Iterable[Tensor], *, and_gradients: bool = False) -> Iterator[None]:
    """Assert that the weights have the same bits at the same addresses afterwards; with
    `and_gradients`, that `.grad` holds the same objects with the same values as well."""
    params = list(params)
    before, grads = copied(params), [param.grad for param in params]
    addresses, values = [param.data_ptr() for param in params], copied(grads)
    yield
    assert same_bits(copied(params), before), "the weights are not what they were"
    assert [param.data_ptr() for param in params] == addresses, "the weights have moved in memory"
    if and_gradients:
        pairs = zip(params, grads, strict=True)
        assert all(param.grad is grad for param, grad in pairs), "another object is in .grad"
        assert same_bits(copied(grads), values), "the gradients are not what they were"
