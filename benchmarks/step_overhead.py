"""What does a SAM step cost beyond its two gradients, in time and in memory?

    python benchmarks/step_overhead.py [--device cuda] [--rounds 30] [--rules sam,asam,gsam]

Time: a step of `SharpnessAware.backward` and the optimizer, over two plain gradient evaluations and
the same optimizer step. All are interleaved, in changing order; reported are the ratio of their
medians with the interval that drawing the rounds anew gives, that of their minima, and the
quartiles of the ratios pair by pair. Two yardsticks stand beside it, because a shared machine
drifts by more than what is asked: SAM written out by hand, which must move the weights as well, and
`within`, a step over its own two gradients and its own optimizer step, so that a drift cancels (but
what a gradient's memory costs to free counts there as ours). Memory: the peak of live tensor bytes
during the step beyond that of one plain gradient evaluation, in units of the parameters' size.

The last tables (2026-11-27, commit 44e5044, AMD EPYC, 2 cores, shared machine), of `--rounds 40`
as far as the ResNet, and of `--rounds 30 --rules sam --models vit_192x6,mlp_4m`:

    torch 2.15.0+cu132, CPU, 2 threads, 40 interleaved rounds
    a step over two plain gradients and the same optimizer step; buffers beyond them
    model          step      medians   95 % interval  minima           pairs  within  buffers
    resnet18_gn_32 sam         1.000  0.962 to 1.030   1.019  0.940 to 1.075   1.021     1.00
    resnet18_gn_32 by hand     0.969  0.936 to 1.004   1.050  0.959 to 1.063
    resnet18_gn_32 asam        1.050  1.009 to 1.085   1.043  0.958 to 1.097   1.033     1.00
    resnet18_gn_32 gsam        1.042  0.981 to 1.086   1.018  0.966 to 1.096   1.030     2.00
    resnet18_gn_32 same        1.063  1.008 to 1.120   1.006  0.990 to 1.137   1.065     2.00

    torch 2.15.0+cu132, CPU, 2 threads, 30 interleaved rounds
    a step over two plain gradients and the same optimizer step; buffers beyond them
    model          step      medians   95 % interval  minima           pairs  within  buffers
    vit_192x6      sam         1.018  0.960 to 1.076   0.984  0.950 to 1.073   1.016     1.00
    vit_192x6      by hand     1.049  0.967 to 1.100   0.974  0.979 to 1.093
    mlp_4m         sam         1.085  1.054 to 1.151   1.085  1.021 to 1.156   1.125     1.00
    mlp_4m         by hand     1.080  1.043 to 1.141   1.090  1.021 to 1.130

With `--cheap` the members with few gradients are measured in turns of five steps, one of LookSAM's
cycles, against plain steps (or SAM's): `--cheap --rounds 10` printed at commit 0fac33c (2026-11-27,
same machine; n = 10 turns of 5 steps)

    torch 2.15.0+cu132, CPU, 2 threads, 10 interleaved rounds
    resnet18_gn_32: 5 steps over 5 of the other kind
    member                    over  of medians   of minima             pairs   wanted
    momentum_sam             plain       0.966       0.905    0.881 to 1.095  <= 1.05
    s2_sam                   plain       1.009       1.039    0.983 to 1.072  <= 1.05
    lpf_sgd                  plain       1.048       1.018    0.965 to 1.139  <= 1.05
    random_perturbation      plain       1.104       1.068    1.035 to 1.171  <= 1.05
    looksam                  plain       1.169       1.119    1.087 to 1.300  <= 1.25
    friendly_sam               sam       1.010       0.906    0.982 to 1.078  <= 1.05
    vit_192x6: 5 steps over 5 of the other kind
    member                    over  of medians   of minima             pairs   wanted
    momentum_sam             plain       1.015       0.991    0.977 to 1.071  <= 1.05
    s2_sam                   plain       1.035       1.019    0.978 to 1.069  <= 1.05
    lpf_sgd                  plain       1.068       1.055    1.037 to 1.149  <= 1.05
    random_perturbation      plain       1.080       1.005    0.954 to 1.171  <= 1.05
    looksam                  plain       1.179       1.269    1.151 to 1.289  <= 1.25
    friendly_sam               sam       1.048       0.989    0.988 to 1.105  <= 1.05
    mlp_4m: 5 steps over 5 of the other kind
    member                    over  of medians   of minima             pairs   wanted
    momentum_sam             plain       1.527       1.363    1.243 to 1.499  <= 1.05
    s2_sam                   plain       1.385       1.433    1.240 to 1.393  <= 1.05
    lpf_sgd                  plain       1.970       1.983    1.644 to 1.922  <= 1.05
    random_perturbation      plain       2.098       1.913    1.644 to 2.059  <= 1.05
    looksam                  plain       1.466       1.492    1.347 to 1.496  <= 1.25
    friendly_sam               sam       1.079       1.155    1.040 to 1.152  <= 1.05

The quartiles say how far to trust the medians. On the ResNet, whose limits these are, two earlier
measurements of that day gave lpf_sgd 1.058 and 1.080, looksam 1.255 and 1.179, random_perturbation
1.017 and 1.013. The two that draw a normal number for every weight are at their limit: one thread
draws them. In the perceptron a weight takes part in one product per example, so that whatever
passes over the weights is dear.

On a GPU it was not measured.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

import flatminima as fm
from flatminima.models.resnet import resnet18

CYCLE = 5  # steps in a turn: one of LookSAM's, from one SAM step to the next
CHEAP: dict[str, tuple[str, float, Callable[[], fm.Rule]]] = {  # against what, at most, the rule
    "momentum_sam": ("plain", 1.05, fm.momentum_sam),
    "s2_sam": ("plain", 1.05, fm.s2_sam),
    "lpf_sgd": ("plain", 1.05, fm.lpf_sgd),
    "random_perturbation": ("plain", 1.05, fm.random_perturbation),
    "looksam": ("plain", 1.25, lambda: fm.looksam(every=CYCLE)),
    "friendly_sam": ("sam", 1.05, fm.friendly_sam),
}

RULES: dict[str, Callable[[], fm.Rule]] = {
    "sam": fm.sam,
    "asam": fm.asam,
    "gsam": fm.gsam,
    "same": lambda: fm.same({fm.Region.GENTLER: 0.5}),
}


def mlp() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """784-1408-1408-690-10: 4 million parameters, batch 128."""
    widths = (784, 1408, 1408, 690, 10)
    layers = [nn.Linear(low, high) for low, high in itertools.pairwise(widths)]
    net = nn.Sequential(*(module for layer in layers for module in (layer, nn.ReLU())))[:-1]
    return net, (torch.randn(128, 784), torch.randint(10, (128,)))


def resnet() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """ResNet-18 with GroupNorm, width 32, batch 32."""
    return resnet18(width=32), (torch.randn(32, 3, 32, 32), torch.randint(10, (32,)))


def vit() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """ViT for 32x32 images: patches of 4, width 192, depth 6, batch 32."""
    net = VisionTransformer(
        img_size=32, patch_size=4, embed_dim=192, depth=6, num_heads=3, num_classes=10
    )
    return net, (torch.randn(32, 3, 32, 32), torch.randint(10, (32,)))


MODELS = {"resnet18_gn_32": resnet, "vit_192x6": vit, "mlp_4m": mlp}


def measure(
    name: str, rule: str, rounds: int, device: torch.device
) -> tuple[dict[str, list[float]], list[float], float]:
    """Times of each kind of step, round by round; what is ours of a step; the peak of memory."""
    torch.manual_seed(0)
    net, batch = MODELS[name]()
    net.to(device)
    batch = tuple(tensor.to(device) for tensor in batch)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-4, momentum=0.9)
    sharp = fm.SharpnessAware(net, RULES[rule]())

    def loss_fn(x: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(net(x), y)

    def plain() -> None:
        for _ in range(2):
            optimizer.zero_grad()
            loss_fn(*batch).backward()
        optimizer.step()

    def aware() -> None:
        optimizer.zero_grad()
        sharp.backward(loss_fn, *batch)
        optimizer.step()

    spent = 0.0

    def counted(work: Callable[..., Any]) -> Callable[..., Any]:
        """The same work, with its time added to what was spent."""

        def call(*values: Any) -> Any:  # noqa: ANN401 - whatever the work takes and gives
            nonlocal spent
            if device.type == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            result = work(*values)
            if device.type == "cuda":
                torch.cuda.synchronize()
            spent += time.perf_counter() - start
            return result

        return call

    def watched() -> None:
        counted(optimizer.zero_grad)()
        sharp.backward(counted(loss_fn), *batch, backward_fn=counted(torch.Tensor.backward))
        counted(optimizer.step)()

    def by_hand() -> None:
        """SAM as one writes it down, and nothing else: the least that its update can cost."""
        params = list(net.parameters())
        optimizer.zero_grad()
        loss_fn(*batch).backward()
        grads = [param.grad for param in params if param.grad is not None]
        with torch.no_grad():
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
            away = torch._foreach_mul(grads, 0.05 / (norm + 1e-12))
            torch._foreach_add_(params, away)
        optimizer.zero_grad()
        loss_fn(*batch).backward()
        with torch.no_grad():
            torch._foreach_sub_(params, away)
        optimizer.step()

    optimizer.zero_grad()
    with peak(net, device) as plain_peak:
        loss_fn(*batch).backward()
    optimizer.zero_grad()
    with peak(net, device) as aware_peak:
        sharp.backward(loss_fn, *batch)
    size = sum(param.nbytes for param in net.parameters())
    buffers = (aware_peak[0] - plain_peak[0]) / size
    steps = {"plain": plain, "aware": aware} | ({"by hand": by_hand} if rule == "sam" else {})
    for step in [*steps.values()] * 3:
        step()
    times: dict[str, list[float]] = {kind: [] for kind in steps}
    kinds, within = list(steps), []
    for turn in range(rounds):  # the order changes, so that none always comes second
        random.Random(turn).shuffle(kinds)
        for kind in kinds:
            times[kind].append(timed(steps[kind], device))
        spent = 0.0
        within.append(timed(watched, device) / spent)
    return times, within, buffers


def interval(base: list[float], other: list[float], draws: int = 2000) -> tuple[float, float]:
    """The 95 % interval of the ratio of medians, by drawing rounds again with replacement."""
    chance = random.Random(0)
    rounds = list(zip(base, other, strict=True))
    ratios = []
    for _ in range(draws):
        first, second = zip(*chance.choices(rounds, k=len(rounds)), strict=True)
        ratios.append(statistics.median(second) / statistics.median(first))
    cuts = statistics.quantiles(ratios, n=40)
    return cuts[0], cuts[-1]


def timed(step: Callable[[], None], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


@contextmanager
def peak(net: nn.Module, device: torch.device) -> Generator[list[float]]:
    """The peak of bytes in tensors that were made inside and are alive."""
    result = [0.0]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield result
        torch.cuda.synchronize()
        result[0] = torch.cuda.max_memory_allocated() - before
        return
    with Live(net) as live:
        yield result
    result[0] = live.peak


class Live(TorchDispatchMode):
    """Follow the storages that operations make until they are freed; the model's do not count."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.storages: WeakIdKeyDictionary = WeakIdKeyDictionary()
        for tensor in [*net.parameters(), *net.buffers()]:
            self.storages[tensor.untyped_storage()] = 0
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
        result = func(*args, **(kwargs or {}))
        for item in result if isinstance(result, list | tuple) else [result]:
            if isinstance(item, Tensor):
                storage = item.untyped_storage()
                if storage not in self.storages:
                    self.storages[storage] = storage.nbytes()
        self.peak = max(self.peak, sum(self.storages.values()))
        return result


def cheap(model: str, members: list[str], rounds: int, device: torch.device) -> None:
    """Print what members with few gradients cost, in turns of `CYCLE` steps each."""
    rules = {"plain": lambda: None, "sam": fm.sam} | {name: CHEAP[name][2] for name in members}
    needed = {CHEAP[name][0] for name in members} | set(members)
    turns = {name: trained(model, rules[name](), device) for name in rules if name in needed}
    times: dict[str, list[float]] = {name: [] for name in turns}
    for turn in turns.values():
        turn()
    order = list(turns)
    for number in range(rounds):
        random.Random(number).shuffle(order)
        for name in order:
            times[name].append(timed(turns[name], device))
    print(f"{'member':<22}{'over':>8}{'of medians':>12}{'of minima':>12}{'pairs':>18}{'wanted':>9}")
    for name in members:
        base, most, _ = CHEAP[name]
        pairs = [b / a for a, b in zip(times[base], times[name], strict=True)]
        low, _, high = statistics.quantiles(pairs, n=4)
        median = statistics.median(times[name]) / statistics.median(times[base])
        least = min(times[name]) / min(times[base])
        print(f"{name:<22}{base:>8}{median:>12.3f}{least:>12.3f}", end="")
        print(f"{f'{low:.3f} to {high:.3f}':>18}{f'<= {most}':>9}", flush=True)


def trained(name: str, rule: fm.Rule | None, device: torch.device) -> Callable[[], None]:
    """A turn of steps with a rule, or of plain ones, on a model of its own."""
    torch.manual_seed(0)
    net, batch = MODELS[name]()
    net.to(device)
    batch = tuple(tensor.to(device) for tensor in batch)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-4, momentum=0.9)
    sharp = None if rule is None else fm.SharpnessAware(net, rule)

    def loss_fn(x: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(net(x), y)

    def turn() -> None:
        for _ in range(CYCLE):
            optimizer.zero_grad()
            if sharp is None:
                loss_fn(*batch).backward()
            else:
                sharp.backward(loss_fn, *batch)
            optimizer.step()

    return turn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--rules", default=",".join(RULES))
    parser.add_argument("--models", default=",".join(MODELS))
    every = ",".join(CHEAP)
    parser.add_argument("--cheap", nargs="?", const=every, help="members with few gradients")
    options = parser.parse_args()
    device = torch.device(options.device)
    threads = f"CPU, {torch.get_num_threads()} threads"
    where = torch.cuda.get_device_name() if device.type == "cuda" else threads
    print(f"torch {torch.__version__}, {where}, {options.rounds} interleaved rounds")
    if options.cheap:
        for name in options.models.split(","):
            print(f"{name}: {CYCLE} steps over {CYCLE} of the other kind")
            cheap(name, options.cheap.split(","), options.rounds, device)
        return
    print("a step over two plain gradients and the same optimizer step; buffers beyond them")
    print(f"{'model':<15}{'step':<8}{'medians':>9}{'95 % interval':>16}", end="")
    print(f"{'minima':>8}{'pairs':>16}{'within':>8}{'buffers':>9}")
    for name in options.models.split(","):
        for rule in options.rules.split(","):
            times, within, buffers = measure(name, rule, options.rounds, device)
            base = times.pop("plain")
            for kind, other in times.items():
                low, _, high = statistics.quantiles(
                    [b / a for a, b in zip(base, other, strict=True)], n=4
                )
                median = statistics.median(other) / statistics.median(base)
                least, most = interval(base, other)
                print(f"{name:<15}{rule if kind == 'aware' else kind:<8}{median:>9.3f}", end="")
                print(f"{f'{least:.3f} to {most:.3f}':>16}{min(other) / min(base):>8.3f}", end="")
                print(f"{f'{low:.3f} to {high:.3f}':>16}", end="")
                ours = f"{statistics.median(within):>8.3f}{buffers:>9.2f}"
                print(ours if kind == "aware" else "", flush=True)


if __name__ == "__main__":
    main()
