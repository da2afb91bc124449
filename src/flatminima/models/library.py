"""Any network of timm or torchvision by its name, with weights from a local file."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

__all__ = ["Timm", "Torchvision", "load_weights"]


@dataclass(frozen=True, kw_only=True)
class Timm:
    """Settings of a network of `timm`, such as `efficientnet_b7`; nothing is downloaded."""

    name: str
    """What `timm.create_model` calls it."""
    weights: str | None = None
    """A `.safetensors` file to begin with; None begins with random weights."""
    sha256: str | None = None
    """The checksum of that file; with it a run's key says which weights they were."""
    new_head: bool = False
    """Whether the last layer keeps its random weights: for classes other than the file's."""

    def build(self, shape: Sequence[int], classes: int) -> nn.Module:
        """The network for images of a shape, (channels, height, width)."""
        import timm

        if not timm.is_model(self.name):
            raise ValueError(
                f"name must be a model of timm, got {self.name!r}: see timm.list_models()."
            )
        model = timm.create_model(
            self.name, pretrained=False, num_classes=classes, in_chans=shape[0]
        )
        if self.weights is not None:
            head = getattr(model, "pretrained_cfg", {}).get("classifier") if self.new_head else None
            load_weights(model, self.weights, self.sha256, skip=[head] if head else ())
        return model


@dataclass(frozen=True, kw_only=True)
class Torchvision:
    """Settings of a network of `torchvision`, such as `resnet50`; nothing is downloaded."""

    name: str
    """What `torchvision.models.get_model` calls it."""
    weights: str | None = None
    """A `.safetensors` file to begin with; None begins with random weights."""
    sha256: str | None = None
    """The checksum of that file; with it a run's key says which weights they were."""
    new_head: bool = False
    """Whether the last layer keeps its random weights: for classes other than the file's."""

    def build(self, shape: Sequence[int], classes: int) -> nn.Module:
        """The network for images of a shape, (3, height, width)."""
        from torchvision.models import get_model, list_models

        if self.name not in list_models():
            raise ValueError(
                f"name must be a model of torchvision, got {self.name!r}: see "
                "torchvision.models.list_models()."
            )
        if shape[0] != 3:
            raise ValueError(f"images must have 3 channels for torchvision, got {shape[0]}.")
        model = get_model(self.name, weights=None, num_classes=classes)
        if self.weights is not None:
            linear = [name for name, part in model.named_modules() if isinstance(part, nn.Linear)]
            skip = linear[-1:] if self.new_head else ()
            load_weights(model, self.weights, self.sha256, skip=skip)
        return model


def load_weights(
    model: nn.Module, path: str, sha256: str | None = None, *, skip: Sequence[str] = ()
) -> None:
    """Give a network the weights of a file.

    Args:
        model: The network, changed in place.
        path: A `.safetensors` file with the network's own names.
        sha256: What the file's checksum must be; None takes any.
        skip: Modules that keep their weights.

    Raises:
        ValueError: If the file is missing, is another one, or does not fit.
    """
    from safetensors.torch import load_file

    if not Path(path).is_file():
        raise ValueError(f"weights must be a file that exists, got {path!r}.")
    found = hashlib.sha256(Path(path).read_bytes()).hexdigest() if sha256 else None
    if found != sha256:
        raise ValueError(f"weights must have the SHA-256 {sha256}, got {found} of {path!r}.")
    wanted = model.state_dict()
    kept = {name for name in wanted if name.rpartition(".")[0] in skip}
    given = {name: value for name, value in load_file(path).items() if name not in kept}
    if wrong := _misfits(given, {name: wanted[name] for name in wanted if name not in kept}):
        raise ValueError(
            f"weights must fit the network, got {', '.join(wrong[:3])} ({len(wrong)} in all) from "
            f"{path!r}: new_head=True leaves out the last layer."
        )
    model.load_state_dict({name: wanted[name] for name in kept} | given)


def _misfits(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """What is missing, of another shape, or too much."""
    missing = [f"no {name}" for name in wanted if name not in given]
    shaped = [
        f"{name} of shape {tuple(value.shape)}"
        for name, value in given.items()
        if name not in wanted or value.shape != wanted[name].shape
    ]
    return missing + shaped
