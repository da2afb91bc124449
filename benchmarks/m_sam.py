"""What does a step of m-SAM cost, for every m and engine, in time and in memory?

    python benchmarks/m_sam.py [--device cuda] [--rounds 5] [--models mlp,vit] [--quick]

A step is `SharpnessAware.backward` alone, and the steps of all engines are interleaved. As in
training each follows one of its own kind, which is not timed: after a loop over 128 groups the next
engine's step would be slower. Printed are minimum and median in milliseconds, the minimum relative
to plain SAM's (m = B), the median of the ratios to plain SAM in the same round with its quartiles,
and the peak of live tensor bytes during a step beyond that of plain SAM. For `auto` the last column
names the engine that it took, and how that engine's time compares with the best one's, as a median
of ratios within rounds; the row itself is the same engine once more, and shows the noise.
`compiled` (not by default, for the compiler takes its time) is `SharpnessAware.compiled`, also of
plain SAM; its memory is seen on an accelerator only.

Measured at af2fc18, on 2026-11-27, with torch 2.15.0, on an x86-64 CPU whose two cores share
their units, in a slow hour: `--quick --rounds 15 --models mlp --engines
loop,batched,auto,compiled`, with `--threads 1` and, below, `--threads 2`. `auto` took the batched
engine each time, so its last figure, its own row over that engine's, is that of noise.

    model         B   m  engine    min ms  median  / SAM  SAM in a round           MiB  auto took
    mlp         128 128  sgd          7.2     8.4   0.40   0.41 [0.36, 0.42]      -0.0
    mlp         128 128  sam         18.0    23.2   1.00   1.00 [1.00, 1.00]      +0.0
    mlp         128 128  compiled    14.5    17.8   0.81   0.79 [0.73, 0.83]
    mlp         128   1  loop       855.1  1139.4  47.59  49.10 [46.26, 52.12]    +7.8
    mlp         128   1  batched     13.6    19.1   0.76   0.77 [0.74, 0.90]      +0.6
    mlp         128   1  auto        14.0    18.6   0.78   0.80 [0.75, 0.87]      +0.6  batched 1.03
    mlp         128   1  compiled    11.6    14.8   0.65   0.62 [0.57, 0.67]
    mlp         128   4  loop       237.5   343.5  13.22  14.61 [12.77, 16.19]    +7.8
    mlp         128   4  batched     15.1    19.9   0.84   0.88 [0.76, 1.00]      +0.6
    mlp         128   4  auto        15.3    19.1   0.85   0.86 [0.71, 1.00]      +0.6  batched 0.94
    mlp         128   4  compiled    11.6    14.2   0.65   0.64 [0.56, 0.73]
    mlp         128  16  loop        71.3    92.6   3.97   3.99 [3.54, 4.71]      +7.8
    mlp         128  16  batched     14.1    18.7   0.79   0.76 [0.66, 0.90]      +0.6
    mlp         128  16  auto        14.5    18.5   0.81   0.81 [0.63, 0.86]      +0.6  batched 0.99
    mlp         128  16  compiled    11.9    15.4   0.66   0.62 [0.55, 0.76]

    mlp         128 128  sgd          4.8     6.1   0.39   0.40 [0.37, 0.42]      -0.0
    mlp         128 128  sam         12.2    15.2   1.00   1.00 [1.00, 1.00]      +0.0
    mlp         128 128  compiled     9.7    11.5   0.80   0.78 [0.73, 0.82]
    mlp         128   1  loop       687.0  1014.9  56.33  66.67 [55.58, 79.32]    +7.8
    mlp         128   1  batched     10.5    14.8   0.86   1.00 [0.89, 1.15]      +0.6
    mlp         128   1  auto        10.5    13.4   0.86   0.90 [0.77, 1.05]      +0.6  batched 0.91
    mlp         128   1  compiled     7.6     9.4   0.62   0.60 [0.56, 0.68]
    mlp         128   4  loop       217.9   296.2  17.86  18.46 [16.46, 21.96]    +7.8
    mlp         128   4  batched     11.1    15.8   0.91   1.03 [0.93, 1.25]      +0.6
    mlp         128   4  auto        11.7    16.8   0.96   1.03 [0.99, 1.22]      +0.6  batched 1.03
    mlp         128   4  compiled     7.7    10.2   0.63   0.67 [0.58, 0.77]
    mlp         128  16  loop        64.1    86.5   5.26   5.41 [5.05, 6.13]      +7.8
    mlp         128  16  batched     12.6    14.8   1.03   0.98 [0.87, 1.09]      +0.6
    mlp         128  16  auto        11.8    15.0   0.97   0.89 [0.86, 1.11]      +0.6  batched 0.95
    mlp         128  16  compiled     7.6    10.2   0.62   0.66 [0.58, 0.75]

The others at 681c3cf, with two threads: `--quick --rounds 6 --models
mlp,gpt,resnet18_gn,resnet18_bn --engines loop,batched,auto`, and `--quick --rounds 5 --models vit`
with the same engines. `auto` took the engine with the least median each time; beside it stands, in
these tables, its own row over that engine's, which is the same code: the noise.

    gpt          32  32  sgd        142.7   172.3   0.51   0.49 [0.48, 0.50]      -0.0
    gpt          32  32  sam        281.7   341.7   1.00   1.00 [1.00, 1.00]      +0.0
    gpt          32   1  loop      1037.4  1225.0   3.68   3.61 [3.37, 3.68]     -65.0
    gpt          32   1  batched    369.6   432.4   1.31   1.26 [1.15, 1.37]     +97.0
    gpt          32   1  auto       381.8   402.5   1.36   1.30 [1.22, 1.36]     +97.0  batched 1.01
    gpt          32   4  loop       481.3   508.4   1.71   1.47 [1.40, 1.61]     -61.9
    gpt          32   4  batched    355.2   369.3   1.26   1.18 [1.07, 1.19]     +58.8
    gpt          32   4  auto       318.0   381.2   1.13   1.09 [1.02, 1.17]     +58.8  batched 0.98
    gpt          32  16  loop       307.1   352.4   1.09   1.10 [0.89, 1.23]     -35.8
    gpt          32  16  batched    322.0   392.6   1.14   1.25 [0.95, 1.29]     +38.5
    gpt          32  16  auto       309.8   340.5   1.10   1.03 [0.86, 1.16]     -35.8  loop 0.98
    resnet18_gn  32  32  sgd         94.4   107.9   0.57   0.50 [0.49, 0.51]      -0.0
    resnet18_gn  32  32  sam        165.9   223.4   1.00   1.00 [1.00, 1.00]      +0.0
    resnet18_gn  32   1  loop      1003.3  1274.1   6.05   5.94 [5.11, 6.01]     -26.0
    resnet18_gn  32   1  batched    231.1   296.9   1.39   1.32 [1.12, 1.56]     +74.2
    resnet18_gn  32   1  auto       250.6   312.4   1.51   1.33 [1.17, 1.58]     +74.2  batched 1.05
    resnet18_gn  32   4  loop       402.8   519.7   2.43   2.10 [1.97, 2.41]     -24.8
    resnet18_gn  32   4  batched    249.9   332.5   1.51   1.36 [1.23, 1.68]     +53.3
    resnet18_gn  32   4  auto       257.8   363.8   1.55   1.49 [1.27, 1.63]     +53.3  batched 1.04
    resnet18_gn  32  16  loop       194.8   281.7   1.17   1.17 [0.97, 1.39]     -14.5
    resnet18_gn  32  16  batched    221.2   336.8   1.33   1.45 [1.14, 1.68]     +42.4
    resnet18_gn  32  16  auto       194.6   261.0   1.17   1.17 [0.99, 1.23]     -14.5  loop 0.98
    resnet18_bn  32  32  sgd         84.4   119.9   0.37   0.46 [0.42, 0.49]      -0.0
    resnet18_bn  32  32  sam        229.6   244.6   1.00   1.00 [1.00, 1.00]      +0.0
    resnet18_bn  32   1  loop      1002.3  1226.0   4.36   4.98 [4.46, 5.54]     -25.9
    resnet18_bn  32   1  batched    305.7   343.7   1.33   1.45 [1.36, 1.47]     +75.0
    resnet18_bn  32   1  auto       294.9   368.7   1.28   1.50 [1.38, 1.53]     +75.0  batched 1.04
    resnet18_bn  32   4  loop       467.8   566.1   2.04   2.43 [2.25, 2.56]     -24.8
    resnet18_bn  32   4  batched    299.8   393.3   1.31   1.61 [1.54, 1.68]     +53.4
    resnet18_bn  32   4  auto       288.0   386.7   1.25   1.56 [1.40, 1.69]     +53.4  batched 0.94
    resnet18_bn  32  16  loop       215.6   240.4   0.94   0.98 [0.92, 1.21]     -14.4
    resnet18_bn  32  16  batched    278.3   349.1   1.21   1.43 [1.27, 1.57]     +42.5
    resnet18_bn  32  16  auto       207.8   260.1   0.91   1.08 [0.88, 1.14]     -14.4  loop 0.98
    vit          32  32  sgd        672.6   779.0   0.49   0.49 [0.49, 0.53]      -0.0
    vit          32  32  sam       1386.6  1648.0   1.00   1.00 [1.00, 1.00]      +0.0
    vit          32   1  loop      4082.9  5184.5   2.94   3.26 [2.96, 3.37]    -219.1
    vit          32   1  batched   1720.6  2014.5   1.24   1.24 [1.22, 1.26]    +337.0
    vit          32   1  auto      1871.2  2103.7   1.35   1.35 [1.28, 1.35]    +337.0  batched 1.08
    vit          32   4  loop      2029.6  2280.6   1.46   1.46 [1.31, 1.61]    -219.2
    vit          32   4  batched   1660.3  1803.1   1.20   1.13 [1.10, 1.13]    +362.4
    vit          32   4  auto      1717.7  1996.0   1.24   1.19 [1.19, 1.26]    +362.4  batched 1.11
    vit          32  16  loop      1421.5  1836.3   1.03   1.11 [1.09, 1.15]    -129.6
    vit          32  16  batched   1585.7  1842.2   1.14   1.16 [1.14, 1.22]    +116.4
    vit          32  16  auto      1403.1  1816.5   1.01   1.14 [1.07, 1.20]    -129.6  loop 0.99

At 810d2f9, `--m 1 --rounds 9 --models vit --engines loop,batched,auto,compiled`, two threads (the
compiler takes minutes):

    vit          32  32  sgd        819.5   940.0   0.46   0.50 [0.47, 0.52]      -0.0
    vit          32  32  sam       1770.4  1886.3   1.00   1.00 [1.00, 1.00]      +0.0
    vit          32  32  compiled  1831.8  1950.4   1.03   1.00 [0.97, 1.05]
    vit          32   1  loop      4660.2  5929.4   2.63   2.97 [2.87, 3.35]    -219.1
    vit          32   1  batched   2111.6  2399.8   1.19   1.25 [1.17, 1.29]    +337.0
    vit          32   1  auto      2065.7  2426.3   1.17   1.24 [1.18, 1.43]    +337.0  batched 1.00
    vit          32   1  compiled  1631.8  2099.5   0.92   1.11 [1.01, 1.25]

Not measured on an accelerator.
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


def vit_b32(size: int) -> Made:
    """ViT-B/32 for 224x224 images: 50 tokens, width 768, depth 12."""
    net = VisionTransformer(patch_size=32, num_classes=1000)
    return net, (torch.randn(size, 3, 224, 224), torch.randint(1000, (size,)))


WIDE: dict[str, Callable[[int], Made]] = {  # on an accelerator, with a batch size of 128
    "vit": vit_b32,
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
            print(f"{name:<12}{size:>3}{key[1]:>4}  {key[0]:<8}  refused: {str(refusal)[:60]} ...")
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
            note = chosen
            if best is not None and (chosen, m) in times:
                note = f"{chosen} {paired(times[chosen, m], times[best])[0]:.2f}"
        extra = (bytes_of[engine, m] - bytes_of["sam", size]) / 2**20
        memory = "" if math.isnan(extra) else f"{extra:+.1f}"
        quartiles = f"[{low:.2f}, {high:.2f}]"
        print(
            f"{name:<12}{size:>3}{m:>4}  {engine:<8}{1e3 * min(seconds):>8.1f}"
            f"{1e3 * statistics.median(seconds):>8.1f}{min(seconds) / min(sam):>7.2f}"
            f"  {middle:>5.2f} {quartiles:<14}{memory:>8}  {note}".rstrip(),
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
        f"{'model':<12}{'B':>3}{'m':>4}  {'engine':<8}{'min ms':>8}{'median':>8}{'/ SAM':>7}"
        f"  {'SAM in a round':<20}{'MiB':>8}  auto took"
    )
    for name in options.models.split(","):
        measure(name, options)


if __name__ == "__main__":
    main()
