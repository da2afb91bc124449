"""Which code ran, and on which machine."""

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

__all__ = ["code", "code_text", "machine"]

PACKAGE = Path(__file__).parents[1]
CHECKOUT = PACKAGE.parents[1]


@cache
def code() -> dict[str, Any]:
    """The version of the package; in a git checkout the commit and whether files differ from it."""
    try:
        release = version("flatminima")
    except PackageNotFoundError:  # run from its sources, not installed
        release = "not installed"
    commit = _git("rev-parse", "HEAD").strip()
    if not commit:
        return {"version": release}
    return {"version": release, "commit": commit, "dirty": bool(_git("status", "--porcelain"))}


@cache
def code_text() -> str:
    """The version, the commit, the changed files and the difference from the commit."""
    lines = [f"{name}: {value}" for name, value in code().items()]
    return "\n".join([*lines, "", _git("status", "--porcelain"), _git("diff", "HEAD")])


def machine(device: str) -> dict[str, Any]:
    """The machine, its software and the device."""
    card = torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else None
    return {
        "device": device,
        "device_name": card or _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _processor() -> str:
    """What the processor calls itself."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git(*words: str) -> str:
    """What git prints in the checkout that this package is in; empty where it is in none."""
    if not (CHECKOUT / ".git").exists():
        return ""
    try:
        done = subprocess.run(
            ["git", "-C", str(CHECKOUT), *words], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout
