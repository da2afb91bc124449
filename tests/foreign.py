"""Networks and data of somebody else, as the command line finds them by name."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def tiny_net(classes: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, classes))


def points() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 4, generator=generator)
    return x, (x.sum(1) > 0).long()


def batches() -> list[tuple[Tensor, Tensor]]:
    x, y = points()
    return [(x[:30], y[:30]), (x[30:], y[30:])]


def images() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(8, 3, 32, 32, generator=generator), torch.arange(8) % 4


def margin(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return nn.functional.multi_margin_loss(model(x), y)
