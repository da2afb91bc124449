"""What does a step of m-SAM cost, for every m and engine, in time and in memory?

    python benchmarks/m_sam.py [--device cuda] [--rounds 5] [--models mlp,vit] [--quick]

A step is `SharpnessAware.backward` alone, and the steps of all engines are interleaved. As in
training each follows one of its own kind, which is not timed: after a loop over 128 groups the next
engine's step would be slower. Printed are minimum and median in milliseconds, the minimum relative
to plain SAM's (m = B), the median of the ratios to plain SAM in the same round with its quartiles,
and the peak of live tensor bytes during a step beyond that of plain SAM. For `auto` the last column
names what it took, and how its time compares with the best engine's, as a median of ratios within
rounds. `compiled` (not by default, for the compiler takes its time) is
`SharpnessAware.compiled`, also of plain SAM; its memory is seen on an accelerator only.

Measured at 588b4c2, on 2026-11-27, with torch 2.15.0 and one thread of an x86-64
CPU that ran other work beside it: `--quick --threads 1 --rounds 15 --models mlp --engines
loop,batched,auto`. `auto` took the batched engine each time, so its last figure is that of noise.

    model           B    m  engine      min ms    median  min / SAM  SAM in a round          MiB
    mlp           128  128  sgd            6.5       7.2       0.41    0.42 [0.41, 0.43]      -0.0
    mlp           128  128  sam           15.7      17.0       1.00    1.00 [1.00, 1.00]  +0.0
    mlp           128    1  loop         516.4     668.3      32.84   39.49 [36.99, 43.97]  +7.8
    mlp           128    1  batched       13.2      15.4       0.84    0.90 [0.85, 1.06]  +0.6
    mlp           128    1  auto          12.8      13.8       0.81    0.84 [0.80, 0.96]  +0.6  0.93
    mlp           128    4  loop         150.6     202.1       9.58   12.13 [11.39, 13.62]  +7.8
    mlp           128    4  batched       13.6      15.7       0.86    0.96 [0.86, 1.02]  +0.6
    mlp           128    4  auto          13.4      14.9       0.85    0.87 [0.83, 0.93]  +0.6  0.96
    mlp           128   16  loop          56.7      61.9       3.60    3.65 [3.59, 4.04]  +7.8
    mlp           128   16  batched       14.0      14.8       0.89    0.87 [0.84, 0.91]  +0.6
    mlp           128   16  auto          12.8      14.5       0.81    0.85 [0.80, 0.90]  +0.6  0.97

The other models were last measured just before 13400ec, on 2026-11-21, on one thread as well:
`--quick --threads 1`, 3 rounds, so read the minima. Not measured on an accelerator.

    model           B    m  engine      min ms    median  min / SAM  med / SAM       MiB  auto took
    resnet18_gn    32   32  sgd           76.8      78.0       0.50       0.46      -0.0
    resnet18_gn    32   32  sam          154.9     168.1       1.00       1.00      +0.0
    resnet18_gn    32    1  loop         813.2     843.1       5.25       5.01     -26.0
    resnet18_gn    32    1  batched      299.9     299.9       1.94       1.78     +74.2
    resnet18_gn    32    1  auto         297.9     303.8       1.92       1.81     +74.2  batched
    resnet18_gn    32    4  loop         339.2     345.4       2.19       2.05     -24.8
    resnet18_gn    32    4  batched      283.8     300.2       1.83       1.79     +51.3
    resnet18_gn    32    4  auto         281.3     285.0       1.82       1.69     +51.3  batched
    resnet18_gn    32   16  loop         190.2     194.8       1.23       1.16     -14.5
    resnet18_gn    32   16  batched      235.1     248.9       1.52       1.48     +40.4
    resnet18_gn    32   16  auto         192.5     195.4       1.24       1.16     -14.5  loop
    resnet18_bn    32   32  sgd           54.4      70.8       0.48       0.46      -0.0
    resnet18_bn    32   32  sam          113.2     152.5       1.00       1.00      +0.0
    resnet18_bn    32    1  loop         475.6     795.4       4.20       5.22     -25.9
    resnet18_bn    32    1  batched      203.7     288.2       1.80       1.89     +74.7
    resnet18_bn    32    1  auto         193.3     255.0       1.71       1.67     +74.7  batched
    resnet18_bn    32    4  loop         204.0     368.6       1.80       2.42     -24.8
    resnet18_bn    32    4  batched      180.3     329.6       1.59       2.16     +51.4
    resnet18_bn    32    4  auto         200.1     209.9       1.77       1.38     -24.8  loop
    resnet18_bn    32   16  loop         126.3     127.4       1.12       0.84     -14.4
    resnet18_bn    32   16  batched      159.8     178.0       1.41       1.17     +40.5
    resnet18_bn    32   16  auto         130.3     133.8       1.15       0.88     -14.4  loop
    vit            32   32  sgd          781.8     818.0       0.50       0.49      -0.0
    vit            32   32  sam         1563.2    1657.0       1.00       1.00      +0.0
    vit            32    1  loop        2735.8    2737.5       1.75       1.65    -219.1
    vit            32    1  batched     2077.2    2118.4       1.33       1.28    +340.0
    vit            32    1  auto        2002.9    2091.7       1.28       1.26    +340.0  batched
    vit            32    4  loop        1935.5    2461.8       1.24       1.49    -219.2
    vit            32    4  batched     1913.8    4627.4       1.22       2.79    +365.5
    vit            32    4  auto        1982.2    8792.0       1.27       5.31    -219.2  loop
    vit            32   16  loop        1745.5    4033.4       1.12       2.43    -129.6
    vit            32   16  batched     1784.2    3733.3       1.14       2.25    +119.4
    vit            32   16  auto        1571.2    2690.1       1.01       1.62    -129.6  loop
    gpt            32   32  sgd          148.0     148.1       0.50       0.49      -0.0
    gpt            32   32  sam          298.4     299.2       1.00       1.00      +0.0
    gpt            32    1  loop         627.7     649.9       2.10       2.17     -65.0
    gpt            32    1  batched      362.0     388.2       1.21       1.30    +100.0
    gpt            32    1  auto         384.7     404.7       1.29       1.35    +100.0  batched
    gpt            32    4  loop         373.7     392.0       1.25       1.31     -61.9
    gpt            32    4  batched      326.2     329.2       1.09       1.10     +61.8
    gpt            32    4  auto         345.7     350.8       1.16       1.17     +61.8  batched
    gpt            32   16  loop         335.5     339.7       1.12       1.14     -35.8
    gpt            32   16  batched      332.0     376.5       1.11       1.26     +37.5
    gpt            32   16  auto         325.5     329.6       1.09       1.10     -35.8  loop
"""

from __future__ import annotations

import argparse
import math
import platform
import statistics
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

import flatminima as fm
from flatminima.models.resnet import resnet18

Batch = tuple[Tensor, Tensor]
Made = tuple[nn.Module, Batch]
SIZES = (1, 2, 4, 8, 16, 32)
ENGINES = ("loop", "vmap", "batched", "auto")


class GPT(nn.Module):
    """A small language model: 4 layers of width 128, 64 tokens, head tied to the embedding."""

    def __init__(self, words: int = 512, width: int = 128, depth: int = 4) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(words, width), nn.Embedding(64, width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, 4, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, words, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, x: Tensor) -> Tensor:
        time = x.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(time, device=x.device)
        y = self.tokens(x) + self.places(torch.arange(time, device=x.device))
        for layer in self.layers:
            y = layer(y, src_mask=mask, is_causal=True)
        return self.head(self.norm(y)).transpose(1, 2)


def mlp(size: int) -> Made:
    """784-512-512-10."""
    net = nn.Sequential(
        nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
    )
    return net, (torch.randn(size, 784), torch.randint(10, (size,)))


def images(net: nn.Module, size: int) -> Made:
    return net, (torch.randn(size, 3, 32, 32), torch.randint(10, (size,)))


def vit(size: int) -> Made:
    """ViT-tiny for 32x32 images: patches of 4 (65 tokens), width 192, depth 12."""
    net = VisionTransformer(
        img_size=32, patch_size=4, embed_dim=192, depth=12, num_heads=3, num_classes=10
    )
    return images(net, size)


def gpt(size: int) -> Made:
    return GPT(), (torch.randint(512, (size, 64)), torch.randint(512, (size, 64)))


MODELS: dict[str, tuple[Callable[[int], Made], int]] = {  # with the batch size on a CPU
    "mlp": (mlp, 128),
    "resnet18_gn": (lambda size: images(resnet18(width=16), size), 32),
    "resnet18_bn": (lambda size: images(resnet18(width=16, norm="batch"), size), 32),
    "vit": (vit, 32),
    "gpt": (gpt, 32),
}
WIDE: dict[str, Callable[[int], Made]] = {  # on an accelerator, with a batch size of 128
    "resnet18_gn": lambda size: images(resnet18(), size),
    "resnet18_bn": lambda size: images(resnet18(norm="batch"), size),
}


def measure(name: str, options: argparse.Namespace) -> None:
    device = torch.device(options.device)
    build, size = MODELS[name]
    if device.type == "cuda":
        build, size = WIDE.get(name, build), 128
    torch.manual_seed(0)
    net, batch = build(options.batch or size)
    net.to(device)
    batch = (batch[0].to(device), batch[1].to(device))
    size = len(batch[0])

    def loss_fn(x: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(net(x), y)

    steps: dict[tuple[str, int], Callable[[], object]] = {}
    steps["sgd", size] = lambda: loss_fn(*batch).backward()
    made = {("sam", size): fm.SharpnessAware(net, fm.sam(0.05))}
    if "compiled" in options.engines:
        made["compiled", size] = fm.SharpnessAware(net, fm.sam(0.05))
    for m in [m for m in options.m if m < size]:
        for engine in options.engines:
            named = "auto" if engine == "compiled" else engine
            made[engine, m] = fm.SharpnessAware(net, fm.sam(0.05), m=m, engine=named)
    for key, sharp in made.items():
        compiled = key[0] == "compiled"
        step = sharp.compiled(loss_fn) if compiled else partial(sharp.backward, loss_fn)
        steps[key] = partial(step, *batch)
    for key, step in list(steps.items()):  # the first step of `auto` is its trial
        net.zero_grad()
        try:
            step()
        except (RuntimeError, ValueError) as refusal:
            del steps[key]
            print(f"{name:<12}{size:>5}{key[1]:>5}  {key[0]:<8}  refused: {str(refusal)[:60]} ...")
    seen = {key for key in steps if device.type == "cuda" or key[0] != "compiled"}
    bytes_of = {key: peak(steps[key], net, device) if key in seen else math.nan for key in steps}
    times: dict[tuple[str, int], list[float]] = {key: [] for key in steps}
    for _ in range(options.rounds):
        for key, step in steps.items():
            net.zero_grad()
            step()  # in training a step follows one of its own kind
            net.zero_grad()
            times[key].append(timed(step, device))
    report(name, size, times, bytes_of, made)


def report(
    name: str,
    size: int,
    times: dict[tuple[str, int], list[float]],
    bytes_of: dict[tuple[str, int], float],
    made: dict[tuple[str, int], fm.SharpnessAware],
) -> None:
    sam = times["sam", size]
    for (engine, m), seconds in times.items():
        middle, low, high = paired(seconds, sam)
        note = ""
        if engine == "auto":
            chosen = "".join(made[engine, m].state_dict()["engines"].values())
            others = [key for key in times if key[1] == m and key[0] in ENGINES[:3]]
            best = min(others, key=lambda key: statistics.median(times[key]), default=None)
            note = chosen if best is None else f"{chosen} {paired(seconds, times[best])[0]:.2f}"
        extra = (bytes_of[engine, m] - bytes_of["sam", size]) / 2**20
        print(
            f"{name:<12}{size:>5}{m:>5}  {engine:<8}{1e3 * min(seconds):>10.1f}"
            f"{1e3 * statistics.median(seconds):>10.1f}{min(seconds) / min(sam):>11.2f}"
            f"{middle:>8.2f} [{low:.2f}, {high:.2f}]{extra:>+10.1f}  {note}",
            flush=True,
        )


def paired(seconds: list[float], others: list[float]) -> tuple[float, float, float]:
    """The median and the quartiles of the ratios round by round."""
    ratios = [one / other for one, other in zip(seconds, others, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return statistics.median(ratios), low, high


def timed(step: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak(step: Callable[[], object], net: nn.Module, device: torch.device) -> float:
    """The peak of bytes in tensors that a step makes."""
    net.zero_grad()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with watched(net) as live:
        step()
    return live.peak


@contextmanager
def watched(net: nn.Module) -> Generator[Live]:
    with Live(net) as live:
        yield live


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--m", default=",".join(map(str, SIZES)))
    parser.add_argument("--batch", type=int, default=None, help="examples in a batch")
    parser.add_argument("--quick", action="store_true", help="m of 1, 4 and 16, three rounds")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.m = [1, 4, 16] if options.quick else [int(m) for m in options.m.split(",")]
    options.rounds = options.rounds or (3 if options.quick else 5)
    options.engines = options.engines.split(",")
    device = torch.device(options.device)
    threads = f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    where = torch.cuda.get_device_name() if device.type == "cuda" else threads
    print(f"torch {torch.__version__}, {where}, {options.rounds} interleaved rounds")
    print(
        f"{'model':<12}{'B':>5}{'m':>5}  {'engine':<8}{'min ms':>10}{'median':>10}"
        f"{'min / SAM':>11}  SAM in a round   {'MiB':>10}  auto took, to best"
    )
    for name in options.models.split(","):
        measure(name, options)


if __name__ == "__main__":
    main()
