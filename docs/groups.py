"""Draw what m is, from steps of the library on a problem in the plane: `python docs/groups.py`."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor, nn

import flatminima as fm
from flatminima.engine.observe import Step

COLOURS = [
    *("#0072B2", "#E69F00", "#009E73", "#CC79A7"),
    *("#56B4E9", "#D55E00", "#8C8C00", "#7A5195"),
]
GREY, INK = "#B8B8B8", "#222222"
EXAMPLES, RHO = 8, 0.5
TITLES = {8: "m = 8: one group, plain SAM", 4: "m = 4: two groups", 1: "m = 1: eight groups"}


def problem() -> tuple[nn.Linear, tuple[Tensor, Tensor]]:
    """Eight lines to fit with two weights, and where the weights are."""
    model = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(model.weight)
    angles = torch.tensor([-18.0, 8.0, 34.0, 60.0, 82.0, 108.0, 134.0, 160.0]).deg2rad()
    x = torch.stack([angles.cos(), angles.sin()], 1)
    misses = torch.tensor([[0.5], [0.7], [0.6], [0.6], [0.6], [0.6], [0.7], [0.5]])
    return model, (x, x @ model.weight.detach().T - misses)


def losses(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The loss of each example."""
    return (model(x) - y).square()


def seen(m: int) -> tuple[list[Step], np.ndarray]:
    """The step of every group, and the direction of all of them together."""
    model, batch = problem()
    steps: list[Step] = []
    sharp = fm.SharpnessAware(model, fm.sam(RHO), m=m, observe=[steps.append])
    sharp.backward(lambda x, y: losses(model, x, y).mean(), *batch)
    return steps, model.weight.grad[0].numpy()


def rise(m: int) -> float:
    """How much higher the groups' losses are where they look: the mean over the groups."""
    model, batch = problem()
    rises = []
    for group, step in enumerate(seen(m)[0]):
        part = [tensor[m * group : m * group + m] for tensor in batch]
        before = losses(model, *part).mean().detach()
        e = step.seen[1].at.parts[0]
        moved = nn.Linear(2, 1, bias=False)
        moved.load_state_dict({"weight": model.weight.detach() + e})
        rises.append(float(losses(moved, *part).mean().detach() - before))
    return float(np.mean(rises))


def strip(axes: Axes, m: int) -> None:
    """The batch as boxes, a colour for each group."""
    for index in range(EXAMPLES):
        colour = COLOURS[index // m]
        gap = 0.16 * (index // m)
        axes.add_patch(plt.Rectangle((index + gap, 0), 0.86, 1, color=colour, lw=0))
        middle = {"ha": "center", "va": "center", "color": "white", "fontsize": 9}
        axes.text(index + gap + 0.43, 0.47, f"$x_{index + 1}$", **middle)
    axes.set(xlim=(-0.2, 9.3), ylim=(-0.1, 1.1))
    axes.axis("off")
    axes.set_title(TITLES[m], fontsize=13, color=INK, pad=8, loc="left")


def plane(axes: Axes, m: int) -> None:
    """The weights, where each group looks, and the direction that comes of it."""
    model, (x, y) = problem()
    w = model.weight.detach()[0].numpy()
    ticks = np.linspace(-0.8, 0.8, 120)
    grid = np.stack(np.meshgrid(ticks, ticks - 0.15), -1)
    heights = ((grid @ x.numpy().T - y.numpy()[:, 0]) ** 2).mean(-1)
    axes.contour(*np.moveaxis(grid, -1, 0), heights, levels=14, colors=GREY, linewidths=0.7)
    axes.add_patch(plt.Circle(w, RHO, fill=False, ls=(0, (4, 3)), color=INK, lw=0.9))
    steps, direction = seen(m)
    arrow = {"length_includes_head": True, "lw": 0, "zorder": 3}
    for colour, step in zip(COLOURS, steps, strict=False):
        e = step.seen[1].at.parts[0][0].numpy()
        axes.arrow(*w, *e, color=colour, width=0.018, head_width=0.075, **arrow)
    d = -0.42 * direction / np.linalg.norm(seen(EXAMPLES)[1])
    axes.arrow(*w, *d, color=INK, width=0.024, head_width=0.09, **arrow)
    axes.plot(*w, "o", color="white", mec=INK, ms=7, zorder=4)
    axes.set(aspect="equal", xlim=(ticks[0], ticks[-1]), ylim=(ticks[0] - 0.15, ticks[-1] - 0.15))
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    note = f"where they look, their losses are {rise(m):.2f} higher"
    axes.text(0.0, -0.07, note, transform=axes.transAxes, fontsize=10, color=INK)


def main(out: Path) -> None:
    """Three values of m beside one another."""
    figure, axes = plt.subplots(
        2, 3, figsize=(11, 5.0), height_ratios=[0.13, 1], gridspec_kw={"hspace": 0.06}
    )
    for column, m in enumerate(TITLES):
        strip(axes[0, column], m)
        plane(axes[1, column], m)
    figure.text(
        0.5, 0.015,
        "circle: radius rho around the weights     coloured: where each group looks, straight up "
        "from its own gradient     black: the step, downhill by what they see there, averaged",
        ha="center", fontsize=9, color="#555555",
    )  # fmt: skip
    figure.subplots_adjust(left=0.02, right=0.98, top=0.92, bottom=0.1, wspace=0.06)
    figure.savefig(out, dpi=160, facecolor="white")


if __name__ == "__main__":
    main(Path(__file__).parent / "images" / "groups.png")
