"""What does a step of m-SAM cost, for every m and engine, in time and in memory?

    python benchmarks/m_sam.py [--device cuda] [--rounds 5] [--models mlp,vit] [--quick]

A step is `SharpnessAware.backward` alone, and the steps of all engines are interleaved. Printed are
minimum and median in milliseconds, both relative to plain SAM (m = B), and the peak of live tensor
bytes during a step beyond that of plain SAM. For `auto` the last column names what it took.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

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
ENGINES = ("loop", "batched", "auto")


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
    for m in [m for m in options.m if m < size]:
        for engine in options.engines:
            made[engine, m] = fm.SharpnessAware(net, fm.sam(0.05), m=m, engine=engine)
    for key, sharp in made.items():
        steps[key] = lambda sharp=sharp: sharp.backward(loss_fn, *batch)
    for step in steps.values():  # the first step of `auto` is its trial
        net.zero_grad()
        step()
    bytes_of = {key: peak(step, net, device) for key, step in steps.items()}
    times: dict[tuple[str, int], list[float]] = {key: [] for key in steps}
    for _ in range(options.rounds):
        for key, step in steps.items():
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
    least, sam = (pick(times["sam", size]) for pick in (min, statistics.median))
    for (engine, m), seconds in times.items():
        low, middle = min(seconds), statistics.median(seconds)
        verdicts = made[engine, m].state_dict()["engines"] if engine == "auto" else {}
        chosen = "".join(verdicts.values())
        extra = (bytes_of[engine, m] - bytes_of["sam", size]) / 2**20
        print(
            f"{name:<12}{size:>5}{m:>5}  {engine:<8}{1e3 * low:>10.1f}{1e3 * middle:>10.1f}"
            f"{low / least:>11.2f}{middle / sam:>11.2f}{extra:>+10.1f}  {chosen}",
            flush=True,
        )


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
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--m", default=",".join(map(str, SIZES)))
    parser.add_argument("--batch", type=int, default=None, help="examples in a batch")
    parser.add_argument("--quick", action="store_true", help="m of 1, 4 and 16, three rounds")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.m = [1, 4, 16] if options.quick else [int(m) for m in options.m.split(",")]
    options.rounds = 3 if options.quick else options.rounds
    options.engines = options.engines.split(",")
    device = torch.device(options.device)
    threads = f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    where = torch.cuda.get_device_name() if device.type == "cuda" else threads
    print(f"torch {torch.__version__}, {where}, {options.rounds} interleaved rounds")
    print(
        f"{'model':<12}{'B':>5}{'m':>5}  {'engine':<8}{'min ms':>10}{'median':>10}"
        f"{'min / SAM':>11}{'med / SAM':>11}{'MiB':>10}  auto took"
    )
    for name in options.models.split(","):
        measure(name, options)


if __name__ == "__main__":
    main()
