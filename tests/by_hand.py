"""The members of the family written out from the formulas of their papers, on lists of tensors.

Nothing here knows the library (a test says so): these are the oracles. Letters as everywhere: `w`
weights, `g` gradient at w, `e` displacement, `p` gradient at w + e, `d` direction, `r` = p / g.
Each oracle takes a `Scene`, which is one step of a loop, and a radius, and returns `d`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

Tensors: TypeAlias = list[Tensor]
Batch: TypeAlias = tuple[Tensor, ...]
Oracle: TypeAlias = Callable[["Scene", float], Tensors]

SHAPES = ((5, 3), (5,), (4, 5), (4,), (3, 4), (3,))


def network(w: Sequence[Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Two smooth hidden layers, tanh and GELU, and the cross-entropy: no kink anywhere."""
    hidden = torch.tanh(x @ w[0].T + w[1])
    hidden = functional.gelu(hidden @ w[2].T + w[3])
    return functional.cross_entropy(hidden @ w[4].T + w[5], y)


def weights(seed: int = 1) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    return [0.7 * torch.randn(s, generator=generator, dtype=torch.float64) for s in SHAPES]


def batches(count: int = 7, size: int = 8, seed: int = 2) -> list[Batch]:
    """Mini-batches with labels at random, so that the gradient doesn't vanish."""
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(size, 3, generator=generator, dtype=torch.float64),
            torch.randint(3, (size,), generator=generator),
        )
        for _ in range(count)
    ]


@dataclass
class Scene:
    """One step of a loop, as somebody who writes it out by hand sees it.

    `own` holds the radius of each parameter's group, `None` where it sets none. `margins` collects
    how far every quantity stays from the jumps of a discontinuous rule.
    """

    w: Tensors
    batch: Batch
    before: Batch
    step: int
    lr: float
    own: Sequence[float | None]
    weight_decay: float
    memory: dict[str, Any]
    generator: torch.Generator
    margins: list[float] = field(default_factory=list)

    def slope(self, e: Sequence[Tensor] | None = None, batch: Batch | None = None) -> Tensors:
        """The gradient at w + e, of the batch at hand unless told."""
        points = self.w if e is None else [a + b for a, b in zip(self.w, e, strict=True)]
        leaves = [point.detach().clone().requires_grad_() for point in points]
        loss = network(leaves, *(self.batch if batch is None else batch))
        return list(torch.autograd.grad(loss, leaves))

    def climbed(self, g: Tensors) -> Tensors:
        """The ascent gradient: with the weight decay in it, where the loop wants that."""
        return [a + self.weight_decay * b for a, b in zip(g, self.w, strict=True)]

    def radii(self, rho: float) -> list[float]:
        return [rho if own is None else own for own in self.own]

    def far(self, *tensors: Tensor) -> None:
        """Note how near to 0 the coordinates come."""
        self.margins.extend(float(tensor.abs().min()) for tensor in tensors)


def length(tensors: Sequence[Tensor], q: float = 2.0) -> Tensor:
    """The q-norm of all coordinates together."""
    if q == math.inf:
        return torch.stack([tensor.abs().max() for tensor in tensors]).max()
    return torch.stack([(tensor.abs() ** q).sum() for tensor in tensors]).sum() ** (1.0 / q)


def inner(one: Sequence[Tensor], two: Sequence[Tensor]) -> Tensor:
    return torch.stack([(a * b).sum() for a, b in zip(one, two, strict=True)]).sum()


# ------------------------------------------------------------------------------------ where to look


def sphere(scene: Scene, g: Tensors, rho: float) -> Tensors:
    """e_i = rho_i g_i / ||g over the perturbed parameters||."""
    radii = scene.radii(rho)
    norm = length([part for part, radius in zip(g, radii, strict=True) if radius != 0.0])
    return [radius * part / norm for part, radius in zip(g, radii, strict=True)]


def ball(scene: Scene, g: Tensors, rho: float, order: float) -> Tensors:
    """Foret et al. 2021, equation 2: rho sign(g) |g|^(q-1) / (||g||_q^q)^(1/p), 1/p + 1/q = 1."""
    radii = scene.radii(rho)
    moved = [part for part, radius in zip(g, radii, strict=True) if radius != 0.0]
    if order == 1.0:  # q = inf, in the limit: the largest coordinate alone
        largest = length(moved, math.inf)
        inside = torch.cat([part.reshape(-1).abs() for part in moved]).sort().values
        scene.far(inside[-1] - inside[-2])
        peaks = [torch.where(part.abs() == largest, part.sign(), 0.0) for part in g]
        return [radius * part for part, radius in zip(peaks, radii, strict=True)]
    if order == math.inf:  # q = 1
        scene.far(*g)
        return [radius * part.sign() for part, radius in zip(g, radii, strict=True)]
    q = order / (order - 1.0)
    scale = (length(moved, q) ** q) ** (1.0 / order)
    return [
        radius * part.sign() * part.abs() ** (q - 1.0) / scale
        for part, radius in zip(g, radii, strict=True)
    ]


def sizes(w: Tensors, scale: str, eta: float) -> Tensors:
    """Kwon et al. 2021: the diagonal of T_w + eta."""
    if scale == "element":
        return [part.abs() + eta for part in w]
    if scale == "layer":
        return [part.square().sum().sqrt().expand_as(part) + eta for part in w]
    rows = [part.reshape(part.shape[0], -1).square().sum(1).sqrt() for part in w]
    return [
        row.reshape(-1, *[1] * (part.dim() - 1)).expand_as(part) + eta
        for row, part in zip(rows, w, strict=True)
    ]


# --------------------------------------------------------------------------------------- the family


def plain(scene: Scene, rho: float) -> Tensors:
    return scene.slope()


def sam(scene: Scene, rho: float) -> Tensors:
    return scene.slope(sphere(scene, scene.climbed(scene.slope()), rho))


def sam_of_order(order: float) -> Oracle:
    return lambda scene, rho: scene.slope(ball(scene, scene.slope(), rho, order))


def usam(scene: Scene, rho: float) -> Tensors:
    g = scene.climbed(scene.slope())
    return scene.slope([r * part for part, r in zip(g, scene.radii(rho), strict=True)])


def asam(scale: str = "element", eta: float = 0.01, order: float = 2.0) -> Oracle:
    """Kwon et al. 2021: e = rho T^2 g / ||T g||; for p = inf, e = rho T sign(g)."""

    def oracle(scene: Scene, rho: float) -> Tensors:
        g, t, radii = scene.climbed(scene.slope()), sizes(scene.w, scale, eta), scene.radii(rho)
        rows = list(zip(radii, t, g, strict=True))
        if order == math.inf:
            scene.far(*g)
            return scene.slope([r * size * part.sign() for r, size, part in rows])
        norm = length([size * part for r, size, part in rows if r != 0.0])
        return scene.slope([r * size**2 * part / norm for r, size, part in rows])

    return oracle


def multi_step(steps: int, size: float) -> Oracle:
    """Andriushchenko & Flammarion 2022: e <- project(e + size rho q / ||q||), again and again."""

    def oracle(scene: Scene, rho: float) -> Tensors:
        e = [torch.zeros_like(part) for part in scene.w]
        q = scene.slope()
        for _ in range(steps):
            norm = length(q)
            e = [a + size * rho * b / norm for a, b in zip(e, q, strict=True)]
            if length(e) > rho:
                e = [rho * part / length(e) for part in e]
            q = scene.slope(e)
        return q

    return oracle


def random_perturbation(scene: Scene, rho: float) -> Tensors:
    z = [torch.randn(s, generator=scene.generator, dtype=torch.float64) for s in SHAPES]
    return scene.slope([rho * part / length(z) for part in z])


def previous_batch(scene: Scene, rho: float) -> Tensors:
    return scene.slope(sphere(scene, scene.slope(batch=scene.before), rho))


def two_gradients(scene: Scene, rho: float) -> tuple[Tensors, Tensors]:
    g = scene.slope()
    return g, scene.slope(sphere(scene, scene.climbed(g), rho))


def coordinatewise(combine: Callable[[Scene, Tensor, Tensor], Tensor]) -> Oracle:
    def oracle(scene: Scene, rho: float) -> Tensors:
        g, p = two_gradients(scene, rho)
        return [combine(scene, a, b) for a, b in zip(g, p, strict=True)]

    return oracle


def gsam(alpha: float) -> Oracle:
    """Zhuang et al. 2022: d = p - alpha (g - <g, p> / ||p||^2 p)."""

    def oracle(scene: Scene, rho: float) -> Tensors:
        g, p = two_gradients(scene, rho)
        share = inner(g, p) / inner(p, p)
        return [b - alpha * (a - share * b) for a, b in zip(g, p, strict=True)]

    return oracle


def lerp(a: float) -> Oracle:
    return coordinatewise(lambda scene, g, p: (1.0 - a) * g + a * p)


def weighted(gamma: float) -> Oracle:
    """Yue et al. 2023, coupled: w <- w - lr ((1 - a) g + a p), a = gamma / (1 - gamma)."""
    return lerp(gamma / (1.0 - gamma))


def magnitude(scene: Scene, g: Tensor, p: Tensor) -> Tensor:
    scene.far(g)
    return p.abs() * g.sign()


def direction(scene: Scene, g: Tensor, p: Tensor) -> Tensor:
    scene.far(p)
    return p.sign() * g.abs()


def clipped(times: float) -> Oracle:
    return coordinatewise(
        lambda scene, g, p: p.sign() * torch.minimum(p.abs(), times * g.abs())  # continuous
    )


# ---------------------------------------------------------------- the metric, the mask, the radius


def awp(scene: Scene, rho: float) -> Tensors:
    """Wu et al. 2020: each tensor moves by rho ||w_l|| along its own gradient."""
    rows = zip(scene.w, scene.climbed(scene.slope()), scene.radii(rho), strict=True)
    return scene.slope([r * length([w]) * g / length([g]) for w, g, r in rows])


def centred(parts: Tensors) -> Tensors:
    """Less the mean of each output row, for matrices."""
    return [part - part.mean(1, keepdim=True) if part.dim() == 2 else part for part in parts]


def gcsam(scene: Scene, rho: float) -> Tensors:
    return centred(scene.slope(sphere(scene, centred(scene.climbed(scene.slope())), rho)))


def ssam(share: float) -> Oracle:
    """The largest coordinates of |g|, all parameters together, in the number ceil(share n)."""

    def oracle(scene: Scene, rho: float) -> Tensors:
        g = scene.slope()
        order = torch.cat([part.flatten().abs() for part in g]).sort(descending=True).values
        count = math.ceil(share * len(order))
        if count < len(order):
            scene.far(order[count - 1] - order[count])
        h = [torch.where(part.abs() >= order[count - 1], part, 0.0) for part in g]
        return scene.slope([rho * part / length(h) for part in h])

    return oracle


def zsharp(quantile: float) -> Oracle:
    """Yun 2025: |z| at or above its quantile within each tensor, z = (g - mean g) / std g."""

    def oracle(scene: Scene, rho: float) -> Tensors:
        h = []
        for part in scene.slope():
            z = ((part - part.mean()) / part.std()).abs()
            edge = torch.quantile(z.flatten(), quantile, interpolation="higher")
            others = (z - edge).abs().flatten().sort().values
            scene.far(others[1])  # the edge itself is one of them
            h.append(torch.where(z >= edge - 1e-12, part, 0.0))
        return scene.slope([rho * part / length(h) for part in h])

    return oracle


def le_sam(budget: Callable[[int], float]) -> Oracle:
    """Wang et al. 2026: rho_t = min(sigma_t / ||g||, rho_max)."""

    def oracle(scene: Scene, rho: float) -> Tensors:
        g = scene.climbed(scene.slope())
        now = float(budget(scene.step) / length(g))
        return scene.slope(sphere(scene, g, min(now, rho)))

    return oracle


def fisher_sam(eta: float, decay: float) -> Oracle:
    """Kim et al. 2022: e = rho F^-1 g / sqrt(g' F^-1 g), F = 1 + eta s."""

    def oracle(scene: Scene, rho: float) -> Tensors:
        g = scene.slope()
        before = scene.memory.get("s", [part**2 for part in g])
        s = [decay * old + (1 - decay) * part**2 for old, part in zip(before, g, strict=True)]
        scene.memory["s"] = s
        h = [part / (1.0 + eta * square) for part, square in zip(g, s, strict=True)]
        return scene.slope([rho * part / inner(g, h).sqrt() for part in h])

    return oracle


# ---------------------------------------------------------------------- by chance, or from the past


def filter_noise(scene: Scene, rho: float) -> Tensors:
    z = [torch.randn(s, generator=scene.generator, dtype=torch.float64) for s in SHAPES]
    t = sizes(scene.w, "filter", 0.0)
    return [rho * size * part for size, part in zip(t, z, strict=True)]


def lpf_sgd(samples: int) -> Oracle:
    """Bisla et al. 2022: the mean gradient over noisy copies of the weights."""

    def oracle(scene: Scene, rho: float) -> Tensors:
        seen = [scene.slope(filter_noise(scene, rho)) for _ in range(samples)]
        return [torch.stack(parts).mean(0) for parts in zip(*seen, strict=True)]

    return oracle


def rwp(alpha: float) -> Oracle:
    """Li et al. 2022: a share alpha of the noisy gradient, on one batch here."""

    def oracle(scene: Scene, rho: float) -> Tensors:
        g, p = scene.slope(), scene.slope(filter_noise(scene, rho))
        return [(1.0 - alpha) * a + alpha * b for a, b in zip(g, p, strict=True)]

    return oracle


def vasso(theta: float) -> Oracle:
    """Li & Giannakis 2023: h <- (1 - theta) h + theta g, at first h = g; e = rho h / ||h||."""

    def oracle(scene: Scene, rho: float) -> Tensors:
        g = scene.slope()
        rows = zip(scene.memory.get("h", g), g, strict=True)
        scene.memory["h"] = [(1.0 - theta) * old + theta * new for old, new in rows]
        return scene.slope(sphere(scene, scene.memory["h"], rho))

    return oracle


def friendly_sam(sigma: float, decay: float) -> Oracle:
    """Li et al. 2024: h = g - sigma m, the old m; then m <- decay m + (1 - decay) g."""

    def oracle(scene: Scene, rho: float) -> Tensors:
        g = scene.slope()
        if "m" not in scene.memory:
            scene.memory["m"] = g
            return scene.slope(sphere(scene, g, rho))
        m = scene.memory["m"]
        h = [new - sigma * old for new, old in zip(g, m, strict=True)]
        scene.memory["m"] = [decay * b + (1.0 - decay) * a for a, b in zip(g, m, strict=True)]
        return scene.slope(sphere(scene, h, rho))

    return oracle


def looksam(every: int, alpha: float) -> Oracle:
    """Liu et al. 2022: the unit vector of p less its projection on g, kept for k steps."""

    def oracle(scene: Scene, rho: float) -> Tensors:
        g = scene.slope()
        if scene.step % every:
            h = scene.memory["h"]
            return [a + alpha * length(g) * b for a, b in zip(g, h, strict=True)]
        p = scene.slope(sphere(scene, g, rho))
        share = inner(p, g) / inner(g, g)
        h = [b - share * a for a, b in zip(g, p, strict=True)]
        scene.memory["h"] = [part / length(h) for part in h]
        return p

    return oracle


def scaled_sphere(scene: Scene, v: Tensors, rho: float, eta: float) -> Tensors:
    """e = rho T^2 v / ||T v||, T = |w| + eta."""
    t = sizes(scene.w, "element", eta)
    norm = length([size * part for size, part in zip(t, v, strict=True)])
    return [rho * size**2 * part / norm for size, part in zip(t, v, strict=True)]


def momentum_sam(momentum: float, *, adaptive: bool) -> Oracle:
    """Becker et al. 2024: e = -rho v / ||v||, and then v <- momentum v + d."""

    def oracle(scene: Scene, rho: float) -> Tensors:
        v = scene.memory.get("v")
        if v is None:
            scene.memory["v"] = d = scene.slope()
            return d
        e = scaled_sphere(scene, v, rho, 0.01) if adaptive else sphere(scene, v, rho)
        d = scene.slope([-part for part in e])
        scene.memory["v"] = [momentum * old + new for old, new in zip(v, d, strict=True)]
        return d

    return oracle


def s2_sam(*, adaptive: bool) -> Oracle:
    """Ji et al. 2024: the ascent is along the perturbed gradient of the step before."""

    def oracle(scene: Scene, rho: float) -> Tensors:
        q = scene.memory.get("p")
        if q is None:
            scene.memory["p"] = scene.slope()
        elif adaptive:  # the weights of now, which is what the metric is about
            scene.memory["p"] = scene.slope(scaled_sphere(scene, q, rho, 0.0))
        else:
            scene.memory["p"] = scene.slope(sphere(scene, q, rho))
        return scene.memory["p"]

    return oracle


def async_sam(scene: Scene, rho: float) -> Tensors:
    """Jo et al. 2025: the ascent is along the gradient at the weights of the step before."""
    g = scene.slope()
    before, scene.memory["g"] = scene.memory.get("g", g), g
    return scene.slope(sphere(scene, before, rho))


# ----------------------------------------------------------------------------- further combinations


def stable_sam(scene: Scene, rho: float) -> Tensors:
    """Tan et al. 2025: d = p ||g|| / ||p||."""
    g, p = two_gradients(scene, rho)
    return [part * length(g) / length(p) for part in p]


def sagm(alpha: float) -> Oracle:
    """Wang et al. 2023: e = (rho / ||g|| - alpha) g, d = (g + p) / 2."""

    def oracle(scene: Scene, rho: float) -> Tensors:
        g = scene.slope()
        p = scene.slope([(rho / length(g) - alpha) * part for part in g])
        return [(a + b) / 2.0 for a, b in zip(g, p, strict=True)]

    return oracle


def xsam(alpha: float) -> Oracle:
    """Chen & Zhou 2026, with alpha fixed: between g / ||g|| and p / ||p|| on the unit sphere."""

    def oracle(scene: Scene, rho: float) -> Tensors:
        g, p = two_gradients(scene, rho)
        angle = math.acos(float(inner(g, p)) / float(length(g) * length(p)))
        one, two = math.sin((1.0 - alpha) * angle), math.sin(alpha * angle)
        rows = zip(g, p, strict=True)
        size = length(p) / math.sin(angle)
        return [size * (one * a / length(g) + two * b / length(p)) for a, b in rows]

    return oracle


def second_order_sam(step: float) -> Oracle:
    """Foret et al. 2021 with the second term: d = p + H v, v = (de / dg)^T p."""

    def oracle(scene: Scene, rho: float) -> Tensors:
        g, radii = scene.climbed(scene.slope()), scene.radii(rho)
        e = sphere(scene, g, rho)
        p = scene.slope(e)
        norm = length([part for part, radius in zip(g, radii, strict=True) if radius != 0.0])
        along = inner(e, p) / norm**2
        v = [
            torch.zeros_like(a) if radius == 0.0 else radius * b / norm - along * a
            for a, b, radius in zip(g, p, radii, strict=True)
        ]
        s = step * length(e) / length(v)
        ahead, behind = scene.slope([s * a for a in v]), scene.slope([-s * a for a in v])
        rows = zip(p, ahead, behind, v, strict=True)
        return [b + (a - c) / (2.0 * s) + scene.weight_decay * d for b, a, c, d in rows]

    return oracle


def cr_sam(gamma: float, beta: float) -> Oracle:
    """Wu et al. 2024: d = p + gamma (p + q - 2 g) + beta (p - q), q at w - e."""

    def oracle(scene: Scene, rho: float) -> Tensors:
        g = scene.slope()
        e = sphere(scene, g, rho)
        p, q = scene.slope(e), scene.slope([-part for part in e])
        rows = zip(g, p, q, strict=True)
        return [b + gamma * (b + c - 2.0 * a) + beta * (b - c) for a, b, c in rows]

    return oracle


# ---------------------------------------------------------------------------------------- by region


def ratio(scene: Scene, g: Tensor, p: Tensor) -> Tensor:
    """r = p / g, and how far the coordinates stay from r = -1, 0, 1 and infinity."""
    scene.far(g, p, p.abs() - g.abs())
    return p / g


def inside(r: Tensor, digits: str) -> Tensor:
    """Where the region is one of the digits: regions 1 to 4 are r > 1, 0..1, < -1, -1..0."""
    masks = {"1": r > 1, "2": (r >= 0) & (r <= 1), "3": r < -1, "4": (r >= -1) & (r < 0)}
    chosen = torch.zeros_like(r, dtype=torch.bool)
    for digit in digits:
        chosen |= masks[digit]
    return chosen


def hybrid(digits: str) -> Oracle:
    return coordinatewise(lambda scene, g, p: torch.where(inside(ratio(scene, g, p), digits), p, g))


def same(factor: dict[str, float | Callable[[int], float]]) -> Oracle:
    """d = F[region] p, the factor a number or a function of the step."""

    def combine(scene: Scene, g: Tensor, p: Tensor) -> Tensor:
        r, d = ratio(scene, g, p), p
        for digit, value in factor.items():
            now = value(scene.step) if callable(value) else value
            d = torch.where(inside(r, digit), now * p, d)
        return d

    return coordinatewise(combine)


def saner(strength: float, warmup: int) -> Oracle:
    """Luong et al. 2026: (1 - alpha) p in region 2, alpha from 0 to `strength`, then constant."""
    return same({"2": lambda step: 1.0 - strength * (min(step / warmup, 1.0) if warmup else 1.0)})


def forget_sam(strength: float) -> Oracle:
    """d = l + strength ||l|| / ||h|| h, with h = p where r < 0, and l = p elsewhere."""

    def oracle(scene: Scene, rho: float) -> Tensors:
        g, p = two_gradients(scene, rho)
        rows = [(b, ratio(scene, a, b)) for a, b in zip(g, p, strict=True)]
        learnt = [torch.where(r >= 0, part, 0.0) for part, r in rows]
        forgotten = [torch.where(r < 0, part, 0.0) for part, r in rows]
        reverse = float(length(forgotten))
        share = strength * length(learnt) / reverse if reverse else 0.0  # there may be none
        return [a + share * b for a, b in zip(learnt, forgotten, strict=True)]

    return oracle


def legacy(published: Callable[[Tensor], Tensor]) -> Oracle:
    """The published mask, of r = p / (g + 1e-8)."""

    def combine(scene: Scene, g: Tensor, p: Tensor) -> Tensor:
        ratio(scene, g, p)
        return torch.where(published(p / (g + 1e-8)), p, g)

    return coordinatewise(combine)


# --------------------------------------------------------------------------------- how far, when


def with_radius(oracle: Oracle, radius: Callable[[Scene], float]) -> Oracle:
    def oracle_of_now(scene: Scene, rho: float) -> Tensors:
        now = radius(scene)
        return oracle(scene, now) if now > 0.0 else plain(scene, now)  # w + 0 is w

    return oracle_of_now


def when(chosen: Callable[[Scene], bool], oracle: Oracle) -> Oracle:
    return lambda scene, rho: (oracle if chosen(scene) else plain)(scene, rho)


def heads(scene: Scene) -> bool:
    return float(torch.rand((), generator=scene.generator, dtype=torch.float64)) < 0.5


def is_large(c: float, decay: float) -> Callable[[Scene], bool]:
    """Jiang et al. 2023: ||g||^2 >= mu + c sigma; both start at what is seen first."""

    def chosen(scene: Scene) -> bool:
        square = float(inner(scene.slope(), scene.slope()))
        if scene.step == 0:
            scene.memory.update(mean=square, variance=0.0)
            return True
        mean = scene.memory["mean"] = decay * scene.memory["mean"] + (1 - decay) * square
        variance = scene.memory["variance"] = (
            decay * scene.memory["variance"] + (1 - decay) * (square - mean) ** 2
        )
        scene.margins.append(abs(square - mean - c * math.sqrt(variance)))
        return square >= mean + c * math.sqrt(variance)

    return chosen


def in_groups(m: int, oracle: Oracle) -> Oracle:
    """m-SAM: a displacement for each group of m examples, and the mean over the examples."""

    def oracle_of_groups(scene: Scene, rho: float) -> Tensors:
        whole, total = scene.batch, [torch.zeros_like(part) for part in scene.w]
        count = whole[0].shape[0]
        for start in range(0, count, m):
            scene.batch = tuple(item[start : start + m] for item in whole)
            share = scene.batch[0].shape[0] / count
            parts = zip(total, oracle(scene, rho), strict=True)
            total = [a + share * b for a, b in parts]
        scene.batch = whole
        return total

    return oracle_of_groups


# --------------------------------------------------------------------------------- the optimizers


def sgd(momentum: float, weight_decay: float, *, nesterov: bool = False) -> Callable[..., Tensor]:
    def stepped(w: Tensor, d: Tensor, state: dict[str, Any], lr: float) -> Tensor:
        d = d + weight_decay * w
        buffer = state["buffer"] = momentum * state["buffer"] + d if "buffer" in state else d
        return w - lr * (d + momentum * buffer if nesterov else buffer)

    return stepped


def adamw(weight_decay: float) -> Callable[..., Tensor]:
    """Loshchilov & Hutter 2019 with torch's defaults: betas 0.9 and 0.999, epsilon 1e-8."""

    def stepped(w: Tensor, d: Tensor, state: dict[str, Any], lr: float) -> Tensor:
        t = state["t"] = state.get("t", 0) + 1
        first = state["first"] = 0.9 * state.get("first", 0.0) + (1 - 0.9) * d
        second = state["second"] = 0.999 * state.get("second", 0.0) + (1 - 0.999) * d**2
        unbiased = (second / (1 - 0.999**t)).sqrt() + 1e-8
        return (1 - lr * weight_decay) * w - lr * (first / (1 - 0.9**t)) / unbiased

    return stepped


def adagrad(weight_decay: float) -> Callable[..., Tensor]:
    """Duchi et al. 2011 with torch's defaults: the sum begins at 0, epsilon 1e-10."""

    def stepped(w: Tensor, d: Tensor, state: dict[str, Any], lr: float) -> Tensor:
        d = d + weight_decay * w
        total = state["total"] = state.get("total", 0.0) + d**2
        return w - lr * d / (total.sqrt() + 1e-10)

    return stepped
