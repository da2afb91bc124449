"""Where the network ends and the loss begins, found while the loss is computed.

The Gauss-Newton matrix and the Fisher matrix need the outputs z of a network and the loss as a
function of them. They are what `cross_entropy`, `mse_loss` and `binary_cross_entropy_with_logits`
are handed, the functions or the modules; for any other loss, mark them:

    z = flatminima.sharpness.outputs(model(x))
    return my_loss(z, y)
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, NamedTuple

from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

__all__ = ["Split", "outputs", "split"]

LOSSES = (
    functional.cross_entropy,
    functional.mse_loss,
    functional.binary_cross_entropy_with_logits,
)
NAMES = "cross_entropy, mse_loss or binary_cross_entropy_with_logits"


class Split(NamedTuple):
    """A loss in two halves: outputs with the graph to the weights, and the loss of a copy."""

    outputs: Tensor
    """z, with its graph down to the weights."""
    copy: Tensor
    """z once more, as a leaf."""
    loss: Tensor
    """The loss, with its graph down to the copy."""


def outputs(z: Tensor) -> Tensor:
    """Mark a network's outputs for `GGN` and `EmpiricalFisher`; for anything else the identity.

    Args:
        z: The outputs, examples along the first axis.

    Returns:
        The same.

    Example:
        >>> from torch import ones
        >>> outputs(ones(2))
        tensor([1., 1.])
    """
    listener = _listening.get()
    return z if listener is None else listener.mark(z)


def split(loss_fn: Callable[[], Tensor]) -> Split:
    """Compute a loss and cut it at the network's outputs.

    Args:
        loss_fn: Computes the loss, a 0-d tensor.

    Returns:
        The two halves.

    Raises:
        ValueError: If there are no outputs that this module knows, or more than one place.
    """
    listener = _Listener()
    token = _listening.set(listener)
    try:
        with listener:
            loss = loss_fn()
    finally:
        _listening.reset(token)
    if len(listener.found) != 1:
        raise ValueError(
            f"the loss must call {NAMES} once, got {len(listener.found)} calls; "
            "mark the network's outputs with sharpness.outputs"
        )
    return Split(*listener.found[0], loss)


class _Listener(TorchFunctionMode):
    """Cuts the graph at the outputs, as they pass by on their way into the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[Tensor, Tensor]] = []
        self.marked = False

    def mark(self, z: Tensor) -> Tensor:
        self.marked = True
        return self._cut(z)

    def _cut(self, z: Tensor) -> Tensor:
        copy = z.detach().requires_grad_()
        self.found.append((z, copy))
        return copy

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,  # noqa: ANN401 - as torch calls it
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        kwargs = kwargs or {}
        if func in LOSSES and not self.marked:
            if args:
                args = (self._cut(args[0]), *args[1:])
            else:
                kwargs["input"] = self._cut(kwargs["input"])
        return func(*args, **kwargs)


_listening: ContextVar[_Listener | None] = ContextVar("listening", default=None)
