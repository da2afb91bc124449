"""What is measured: a network with its weights, its loss, and the data the loss is the mean of."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatminima import data as data_sets
from flatminima import models, train
from flatminima.objective import BatchNormPolicy, Objective
from flatminima.study.perform import loaded
from flatminima.study.record import read_json
from flatminima.train import Training
from flatminima.vector import Vector

__all__ = ["Target", "found", "of_run", "of_user"]

Json = dict[str, Any]
Batch = tuple[Any, ...]
LOSSES: Mapping[str, Callable[..., Tensor]] = {"cross_entropy": F.cross_entropy, "mse": F.mse_loss}
HOMES = (train, data_sets, models)  # of the components that a run is written down with


@dataclass(frozen=True, kw_only=True, eq=False)
class Target:
    """A network and what it is measured on."""

    name: str
    """What pages call it."""
    model: nn.Module
    """The network with its weights, left as it is."""
    loss_fn: Callable[..., Tensor]
    """`loss_fn(*batch)`: the mean loss over the examples of a batch."""
    batches: Sequence[Batch]
    """The data."""
    batch_norm: BatchNormPolicy = "eval"
    """Which statistics batch norm uses."""
    about: Mapping[str, str]
    """Where the parts are from, for the page."""

    @cached_property
    def objective(self) -> Objective:
        """The mean loss over all examples."""
        return self._pair[0]

    @property
    def w(self) -> Vector:
        """The weights."""
        return self._pair[1]

    @cached_property
    def _pair(self) -> tuple[Objective, Vector]:
        return Objective.of_model(
            self.model, self.loss_fn, self.batches, batch_norm=self.batch_norm
        )

    @property
    def errors(self) -> Objective:
        """The share of examples whose largest output is not that of their label.

        Raises:
            ValueError: If the loss is not cross-entropy.
        """
        if self.about["Loss"] != "cross_entropy":
            raise ValueError(
                f"loss must be cross_entropy for a bound on the errors, got {self.about['Loss']}."
            )

        def errors(*batch: Tensor) -> Tensor:
            *inputs, y = batch
            return (self.model(*inputs).argmax(1) != y).to(torch.get_default_dtype()).mean()

        return Objective.of_model(self.model, errors, self.batches, batch_norm=self.batch_norm)[0]

    @cached_property
    def mark(self) -> str:
        """A name that changes with any weight, buffer or number of the data."""
        digest = hashlib.sha256(json.dumps([dict(self.about), self.batch_norm]).encode())
        held = [*self.model.state_dict().values(), *(x for batch in self.batches for x in batch)]
        for value in held:
            if isinstance(value, Tensor):
                flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
                digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
                digest.update(flat.numpy().tobytes())
        return digest.hexdigest()[:16]


def of_user(
    *,
    model: str,
    weights: Path,
    data: str,
    loss: str = "cross_entropy",
    model_args: str = "{}",
    examples: int = 1000,
    batch_size: int = 250,
    batch_norm: BatchNormPolicy = "eval",
    device: str = "cpu",
) -> Target:
    """A network that anybody defined, from a file of weights.

    Args:
        model: `package.module:factory`, a function that returns the network.
        weights: A `.safetensors` file with the names of its state dict, or a `.pt` or `.pth` file
            of that dict.
        data: A `.npz` or `.safetensors` file with `x` and `y`, or `package.module:function`, which
            returns two tensors, or a sequence of batches.
        loss: `cross_entropy` or `mse` of the network's output and y, or `package.module:function`,
            which takes the network and a batch and returns the mean loss.
        model_args: The arguments of the factory by name, in JSON.
        examples: How many examples at most: the first ones.
        batch_size: Examples per pass.
        batch_norm: Which statistics batch norm uses.
        device: Where to measure.

    Returns:
        The network with its data.

    Raises:
        ValueError: If a part cannot be found, or the file has other weights than the network.
    """
    settings = json.loads(model_args)
    network: nn.Module = found("model", model)(**settings).to(device)
    network.load_state_dict(_fitting(network, _weights(weights, device), weights))
    batches = _batches(data, examples, batch_size, device)
    if loss in LOSSES:
        between = LOSSES[loss]

        def loss_fn(*batch: Any) -> Tensor:  # noqa: ANN401 - a batch is whatever the data hold
            *inputs, y = batch
            return between(network(*inputs), y)
    else:
        own = found("loss", loss)

        def loss_fn(*batch: Any) -> Tensor:  # noqa: ANN401
            return own(network, *batch)

    told = ", ".join(f"{name}={value!r}" for name, value in settings.items())
    return Target(
        name=f"{model.partition(':')[2]}({told})",
        model=network,
        loss_fn=loss_fn,
        batches=batches,
        batch_norm=batch_norm,
        about={"Model": f"{model}({told})", "Weights": weights.name, "Data": data, "Loss": loss},
    )


def of_run(
    folder: Path,
    *,
    examples: int = 1000,
    batch_size: int = 250,
    batch_norm: BatchNormPolicy = "eval",
    device: str = "cpu",
    data_root: str | None = None,
    log: Callable[[str], None] = lambda _: None,
) -> Target:
    """A network that a study trained, from the folder of its run.

    A run that left no weights is trained again from its record, which gives the same numbers bit
    for bit on the same machine; its weights are then kept in its folder.

    Args:
        folder: The folder with `run.json`.
        examples: How many training examples at most: the first ones.
        batch_size: Examples per pass.
        batch_norm: Which statistics batch norm uses.
        device: Where to measure.
        data_root: The folder of the data.
        log: Told what takes long.

    Returns:
        The network with the examples it was trained on, and their given labels.

    Raises:
        ValueError: If the folder holds no readable run.
    """
    from safetensors.torch import load_file, save_file

    told = read_json(folder / "run.json")
    if told is None or "training" not in told:
        raise ValueError(f"folder must hold a readable run.json, got {folder}.")
    training: Training = _component(told["training"])
    parts = loaded(training.data, data_root).to(device)
    file = folder / "weights.safetensors"
    if file.exists():
        model = training.model.build(parts.train.shape, parts.classes).to(device)
        model.load_state_dict(load_file(file, device=device))
    else:
        log(f"{folder.name} left no weights: it is trained again from its record")
        model = train.train(training, parts, device=device, name=f"run {folder.name}").model
        save_file({name: t.contiguous() for name, t in model.state_dict().items()}, file)
    part = parts.train.take(slice(examples))
    return Target(
        name=f"{told.get('label', told.get('method', 'run'))}, seed {told.get('seed')}",
        model=model,
        loss_fn=lambda x, y: F.cross_entropy(model(x), y),
        batches=_split([part.inputs(), part.labels], batch_size),
        batch_norm=batch_norm,
        about={
            "Model": type(training.model).__name__,
            "Weights": f"run {folder.name} of {told.get('study')}",
            "Data": f"{type(training.data).__name__}, training part",
            "Loss": "cross_entropy",
        },
    )


def found(role: str, name: str) -> Callable[..., Any]:
    """What a name of the form `package.module:name` stands for.

    Args:
        role: What it is wanted for.
        name: The name.

    Returns:
        The function or class.

    Raises:
        ValueError: If there is none.
    """
    module, _, attribute = name.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{role} must be package.module:name that can be imported, got {name!r} ({error}); "
            "a file beside you is found with PYTHONPATH=."
        ) from None


def _component(told: Any) -> Any:  # noqa: ANN401 - settings have any shape
    """A component from what `as_json` wrote."""
    if isinstance(told, Mapping):
        held = {name: _component(value) for name, value in told.items() if name != "type"}
        kind = next(
            (vars(home)[told["type"]] for home in HOMES if told.get("type") in vars(home)), None
        )
        return held if kind is None else kind(**held)
    return tuple(told) if isinstance(told, list) else told


def _weights(file: Path, device: str) -> dict[str, Tensor]:
    if not file.is_file():
        raise ValueError(f"weights must be a file, got {file}.")
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(file, device=device)
    return torch.load(file, map_location=device, weights_only=True)


def _fitting(network: nn.Module, held: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    """The weights of a file, if they are those of the network."""
    own = network.state_dict()
    odd = sorted(own.keys() ^ held.keys()) or sorted(
        name for name in own if own[name].shape != held[name].shape
    )
    if odd:
        raise ValueError(
            f"weights must fit the model in name and shape, got {len(odd)} that do not in {file}: "
            f"{', '.join(odd[:3])}; check --model-args, the number of classes for one"
        )
    return held


def _batches(data: str, examples: int, batch_size: int, device: str) -> list[Batch]:
    """The data in batches on the device."""
    if data.endswith((".npz", ".safetensors")):
        held = _arrays(Path(data))
        if not {"x", "y"} <= held.keys():
            raise ValueError(f"data must hold x and y, got {', '.join(sorted(held))} in {data}.")
        given: Any = (held["x"], held["y"])
    else:
        given = found("data", data)()
    if isinstance(given, tuple) and all(isinstance(part, Tensor) for part in given):
        return _split([part[:examples].to(device) for part in given], batch_size)
    return [
        tuple(part.to(device) if isinstance(part, Tensor) else part for part in batch)
        for batch in given
    ]


def _arrays(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise ValueError(f"data must be a file or package.module:function, got {file}.")
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(file)
    with np.load(file) as held:
        return {name: torch.from_numpy(held[name]) for name in held.files}


def _split(parts: Sequence[Tensor], batch_size: int) -> list[Batch]:
    count = math.ceil(len(parts[0]) / batch_size)
    return [
        tuple(part[i * batch_size : (i + 1) * batch_size] for part in parts) for i in range(count)
    ]
