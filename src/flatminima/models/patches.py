"""Networks that see an image as patches: a vision transformer and an MLP-Mixer, by timm."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

__all__ = ["Mixer", "ViT"]


@dataclass(frozen=True, kw_only=True)
class ViT:
    """Settings of a vision transformer; the defaults are a small one for 32x32 images.

    Source: Dosovitskiy et al. 2021, arXiv:2010.11929; built by `timm`.
    """

    patch: int = 4
    """Height and width of a patch, which divide those of the image."""
    width: int = 192
    """Numbers per patch."""
    depth: int = 12
    """How many blocks there are."""
    heads: int = 3
    """Heads of each attention; they divide the width."""
    drop_path: float = 0.0
    """The probability to leave out the last block for an image; it grows linearly with depth."""

    def __post_init__(self) -> None:
        _check(patch=self.patch, width=self.width, depth=self.depth, heads=self.heads)
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads {self.heads}, got {self.width}.")

    def build(self, shape: Sequence[int], classes: int) -> nn.Module:
        """The network for images of a shape, (channels, height, width)."""
        from timm.models.vision_transformer import VisionTransformer

        _check_patches(shape, self.patch)
        return VisionTransformer(
            img_size=shape[1],
            patch_size=self.patch,
            in_chans=shape[0],
            num_classes=classes,
            embed_dim=self.width,
            depth=self.depth,
            num_heads=self.heads,
            drop_path_rate=self.drop_path,
        )


@dataclass(frozen=True, kw_only=True)
class Mixer:
    """Settings of an MLP-Mixer; the defaults are a small one for 32x32 images.

    Source: Tolstikhin et al. 2021, arXiv:2105.01601; built by `timm`.
    """

    patch: int = 4
    """Height and width of a patch, which divide those of the image."""
    width: int = 256
    """Numbers per patch."""
    depth: int = 8
    """How many blocks there are."""

    def __post_init__(self) -> None:
        _check(patch=self.patch, width=self.width, depth=self.depth)

    def build(self, shape: Sequence[int], classes: int) -> nn.Module:
        """The network for images of a shape, (channels, height, width)."""
        from timm.models.mlp_mixer import MlpMixer

        _check_patches(shape, self.patch)
        return MlpMixer(
            img_size=shape[1],
            patch_size=self.patch,
            in_chans=shape[0],
            num_classes=classes,
            embed_dim=self.width,
            num_blocks=self.depth,
        )


def _check(**sizes: int) -> None:
    """Raise a ValueError unless every size is at least 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}.")


def _check_patches(shape: Sequence[int], patch: int) -> None:
    """Raise a ValueError unless the image is a square of whole patches."""
    if shape[1] != shape[2] or shape[1] % patch:
        raise ValueError(
            f"patch must divide a square image, got {patch} for {shape[1]} by {shape[2]}."
        )
