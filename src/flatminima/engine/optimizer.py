"""An optimizer around another one, for loops that the user does not own: by closure, or by replay.

    optimizer.step(closure)     both passes are the closure's
    optimizer.step()            the first pass was the loop's; the further ones repeat its calls

Either way the direction goes into `.grad`, and the optimizer inside takes its step, as it would
after `SharpnessAware.backward`, whose engine this is.
"""

# One engine has two doors: this file carries out the other one's conversations. Groups, state and
# defaults are properties, since torch puts new ones into the base optimizer when it loads a state.
# pyright: reportPrivateUsage=false, reportIncompatibleVariableOverride=false

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.optim import Optimizer

from flatminima.engine.backward import SharpnessAware
from flatminima.engine.buffers import Buffers
from flatminima.engine.owners import check_owners
from flatminima.engine.parameters import Parameters
from flatminima.engine.passes import Source
from flatminima.engine.replay import Closure, Recorder, Replay
from flatminima.engine.weights import Weights
from flatminima.rules.rule import Rule

__all__ = ["SharpnessAwareOptimizer"]


class SharpnessAwareOptimizer(Optimizer):
    """A `torch.optim` optimizer that takes the base optimizer's steps along a rule's directions.

        d = what `rule` returns,   w <- base step along d

    It has the base's parameter groups, state and defaults, the very objects: a scheduler may attach
    to either, and a `rho` in a parameter group is that group's own radius (0 leaves it out).

    Args:
        base: The optimizer that takes the steps.
        rule: What to do: a member of the zoo such as `flatminima.sam()`, or any rule.
        replay: A module that returns its loss (a 0-d tensor, or an output with `loss`), for
            loops that call `step()` without a closure. Its calls since the last step are kept, and
            made again where the rule wants to look; the gradient at the weights is the loop's own,
            accumulated over all its calls. Between the module's loss and `backward` there may be
            constant factors (the 1/4 of an accumulation), and nothing else.
        max_norm: Clip the direction to this norm, in place of the loop's own clipping where that
            cannot see the direction.
        **keywords: As for `SharpnessAware`; `m` has no meaning here.

    Raises:
        TypeError: If `base` or `replay` is of the wrong kind.
        ValueError: If `m` is given, or an option has no such value.

    Cost: as `SharpnessAware`; with `replay`, what the module was called with is kept until the
        step (inputs, not activations).

    Example:
        >>> weight = nn.Parameter(torch.tensor([2.0]))
        >>> base = torch.optim.SGD([weight], lr=0.1)
        >>> from flatminima.rules.zoo import sam
        >>> optimizer = SharpnessAwareOptimizer(base, sam(rho=0.5))
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = 0.5 * weight.square().sum()
        ...     loss.backward()
        ...     return loss
        >>> optimizer.step(closure), weight.data
        (tensor(2.), tensor([1.7500]))
    """

    # GradScaler then leaves `grad_scale` and `found_inf` here, and does not step behind our back.
    _step_supports_amp_scaling = True

    def __init__(
        self,
        base: Optimizer,
        rule: Rule,
        *,
        replay: nn.Module | None = None,
        max_norm: float | None = None,
        **keywords: Any,  # noqa: ANN401 - as SharpnessAware's
    ) -> None:
        if not isinstance(base, Optimizer):
            raise TypeError(f"base must be a torch.optim.Optimizer, got {type(base).__name__}")
        if isinstance(base, SharpnessAwareOptimizer):
            raise TypeError(f"base must be an ordinary optimizer, got {base!r}")
        if replay is not None and not isinstance(replay, nn.Module):
            raise TypeError(f"replay must be a module that returns its loss, got {replay!r}")
        check_owners("base", [base])
        check_owners("replay", () if replay is None else replay.modules())
        if keywords.get("m") is not None:
            raise ValueError(
                f"m must be None for an optimizer, got {keywords['m']!r}; it does not see the "
                "examples: use SharpnessAware.backward"
            )
        if max_norm is not None and not max_norm > 0:
            raise ValueError(f"max_norm must be positive or None, got {max_norm}")
        self.base = base
        self.rule = rule
        self.replay = replay
        self.max_norm = max_norm
        self._keywords = keywords
        super().__setstate__({})  # hooks, without groups and state of its own
        self._sharp = SharpnessAware(base.param_groups, rule, **keywords)
        self._noted: dict[Tensor, _Noted] = {}
        self._recorder = Recorder(self._devices())
        if replay is not None:
            self._sharp._body = replace(self._sharp._body, buffers=Buffers(replay))
            self._recorder.attach(replay)
            for param in self._sharp._body.parameters.trainable:
                param.register_post_accumulate_grad_hook(_Note(self._noted))

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The base optimizer's parameter groups, the very list."""
        return self.base.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self.base.param_groups = groups

    @property
    def state(self) -> Any:  # noqa: ANN401
        """The base optimizer's state, the very dictionary."""
        return self.base.state

    @state.setter
    def state(self, state: Any) -> None:  # noqa: ANN401 - as in torch
        self.base.state = state

    @property
    def defaults(self) -> dict[str, Any]:
        """The base optimizer's defaults, the very dictionary."""
        return self.base.defaults

    @defaults.setter
    def defaults(self, defaults: dict[str, Any]) -> None:
        self.base.defaults = defaults

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the base has
        if name.startswith("_") or name in ("base", "grad_scale", "found_inf"):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(self.base, name)  # `train` and `eval` of schedule-free optimizers

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor | float] | None = None) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Find the rule's direction, and let the base optimizer step along it.

        Args:
            closure: Sets the gradients to zero, runs forward and backward, and returns the loss;
                called once for each gradient that the rule asks for. With `replay` it may be left
                out; if it is given, it is called once, before the replay.

        Returns:
            The loss at the weights, detached; with `replay`, as it was backpropagated.

        Raises:
            RuntimeError: If there is neither a closure nor a call to replay, a `GradScaler` calls,
                or gradients were changed on their way here.
        """
        self._check_scaler()
        self._follow_groups()
        if self.replay is None:
            if closure is None:
                raise RuntimeError(
                    "step must be given a closure, got none: step(closure), where closure sets the "
                    "gradients to zero, runs forward and backward and returns the loss; in a loop "
                    "that gives none, hand over replay=module, a module that returns its loss"
                )
            source: Source = Closure(closure, self._smallest_with_a_gradient())
        else:
            if closure is not None:
                with torch.enable_grad():
                    closure()
            source = self._replay()
        loss = self._sharp._carry_out(lambda: self._sharp._conversation(source, None), add=False)
        if self.max_norm is not None:
            nn.utils.clip_grad_norm_(self._tensors, self.max_norm)
        self.base.step()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Reset the gradients, and with them the calls to replay.

        Args:
            set_to_none: Whether to set them to `None` instead of 0.
        """
        self._recorder.clear()
        self.base.zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group to the base optimizer; its `rho`, if it has one, is its radius.

        Args:
            param_group: As in torch.

        Raises:
            RuntimeError: If the rule remembers something of the parameters that there were.
        """
        if self._sharp._memory:
            raise RuntimeError(
                "add_param_group must come before the first step of a rule that remembers, "
                f"got it after step {self._sharp._step} of {self.rule!r}"
            )
        self.base.add_param_group(param_group)
        self._follow_groups()

    def state_dict(self) -> dict[str, Any]:
        """The base optimizer's state dict, with one more entry, `sharp`.

        Returns:
            State, parameter groups, and under `sharp` what `SharpnessAware.state_dict` returns;
            never a copy of the weights.
        """
        for hook in self._optimizer_state_dict_pre_hooks.values():
            hook(self)
        state = {**self.base.state_dict(), "sharp": self._sharp.state_dict()}
        for hook in self._optimizer_state_dict_post_hooks.values():
            state = hook(self, state) or state
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state that `state_dict` returned.

        Args:
            state_dict: The state. The base optimizer's own is loaded by `optimizer.base`.

        Raises:
            ValueError: If the state is not one of this class, or does not fit the parameters.
        """
        for hook in self._optimizer_load_state_dict_pre_hooks.values():
            state_dict = hook(self, state_dict) or state_dict
        if "sharp" not in state_dict:
            raise ValueError(
                "state must be one that SharpnessAwareOptimizer.state_dict returned, got one "
                "without sharp; load that of a plain optimizer with .base.load_state_dict"
            )
        before = self._sharp.state_dict()
        self._sharp.load_state_dict(state_dict["sharp"])
        try:
            rest = {name: value for name, value in state_dict.items() if name != "sharp"}
            self.base.load_state_dict(rest)
        except BaseException:
            self._sharp.load_state_dict(before)
            raise
        for hook in self._optimizer_load_state_dict_post_hooks.values():
            hook(self)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy is made of anew; hooks and calls to replay stay behind, as in torch."""
        names = ("base", "rule", "replay", "max_norm")
        own = {name: getattr(self, name) for name in names}
        return {**own, "keywords": self._keywords, "sharp": self._sharp.state_dict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make it anew."""
        state = dict(state)
        keywords, sharp = state.pop("keywords"), state.pop("sharp")
        self.__init__(state.pop("base"), state.pop("rule"), **state, **keywords)
        self._sharp.load_state_dict(sharp)

    def __repr__(self) -> str:
        replay = "" if self.replay is None else f", replay={type(self.replay).__name__}"
        return f"SharpnessAwareOptimizer({self.base!r}, {self.rule!r}{replay})"

    @property
    def _tensors(self) -> Sequence[Tensor]:
        return self._sharp._body.parameters.tensors

    def _devices(self) -> set[torch.device]:
        return {param.device for param in self._tensors}

    def _smallest_with_a_gradient(self) -> Tensor | None:
        with_one = [param for param in self._tensors if param.grad is not None]
        return min(with_one, key=Tensor.numel, default=None)

    def _check_scaler(self) -> None:
        if self.__dict__.pop("found_inf", None) is not None:
            self.__dict__.pop("grad_scale", None)
            raise RuntimeError(
                "step must not be called by a GradScaler, got a call of scaler.step(optimizer): "
                "only the first pass would be scaled; use SharpnessAware.backward(..., "
                "scaler=scaler) with the plain optimizer, or bfloat16, which needs no scaler"
            )

    def _follow_groups(self) -> None:
        """Take over what became of the parameter groups: members, and their radii."""
        sharp, parameters = self._sharp, Parameters.of(self.param_groups)
        old = sharp._body.parameters.tensors
        same = len(old) == len(parameters) and all(map(_is, old, parameters.tensors))
        ranks = sharp._ranks
        weights, drawn = sharp._body.weights, sharp._body.weights.rounding
        weights = weights if same else Weights(parameters.tensors, ranks.reshard, drawn)
        sharp._body = replace(sharp._body, parameters=parameters, weights=weights)
        ranks.params = parameters.tensors
        if self.replay is not None and not same:
            known = set(old)
            for param in parameters.trainable:
                if param not in known:
                    param.register_post_accumulate_grad_hook(_Note(self._noted))
            self._recorder.devices = self._devices()

    def _replay(self) -> Replay:
        """The calls since the last step; they are not kept for another."""
        calls = list(self._recorder.calls)
        self._recorder.clear()
        if not calls:
            raise RuntimeError(
                "replay must have returned a loss that was backpropagated since the last step, got "
                f"none from {type(self.replay).__name__}; the loss must be computed within it"
            )
        if distributed.is_available() and distributed.is_initialized():
            count = distributed.get_world_size()
            if count > 1:
                raise RuntimeError(
                    f"replay must run in one process, got {count}; use SharpnessAware.backward"
                )
        grads = [param.grad for param in self._tensors]
        for param, grad in zip(self._tensors, grads, strict=True):
            noted = self._noted.get(param)
            if grad is not None and (noted is None or noted.differs(grad)):
                raise RuntimeError(
                    "gradients must reach step as backward left them, got some that were changed "
                    "in between, which only the first pass would see; instead of clipping them, "
                    "hand max_norm to SharpnessAwareOptimizer"
                )
        self._noted.clear()
        return Replay(self._recorder, calls, grads, self._sharp._body.same_noise)


@dataclass(frozen=True)
class _Noted:
    """A gradient as backward left it: which tensor, and a few of its values."""

    grad: Tensor
    version: int
    some: Tensor

    @staticmethod
    def of(grad: Tensor) -> _Noted:
        return _Noted(grad, grad._version, _few(grad.detach()).clone())

    def differs(self, grad: Tensor) -> bool:
        """Whether somebody scaled it; asks the device only if somebody touched it."""
        if grad is self.grad and grad._version == self.version:
            return False
        return not torch.allclose(_few(grad), self.some, rtol=0.0, atol=0.0, equal_nan=True)


class _Note:
    """A hook that notes each gradient as backward leaves it; a copy of the parameter has none."""

    def __init__(self, noted: dict[Tensor, _Noted] | None = None) -> None:
        self.noted = noted

    def __call__(self, param: Tensor) -> None:
        if self.noted is not None and param.grad is not None:
            self.noted[param] = _Noted.of(param.grad)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Note, ()


def _few(grad: Tensor) -> Tensor:
    """Some of the values: the first row."""
    return grad[(0,) * (grad.dim() - 1)] if grad.dim() > 1 and grad.numel() else grad


def _is(one: Tensor, two: Tensor) -> bool:
    return one is two
