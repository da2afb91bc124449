"""A page as a browser without a network sees it."""

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--v=0", "--dump-dom",
]  # fmt: skip
NOISE = ("GL Driver Message", "willReadFrequently")  # of a software renderer, not of the page


@dataclass(frozen=True, kw_only=True)
class Visit:
    """What a page did."""

    dom: str
    console: list[str]
    requested: set[str]


def visit(page: Path, tmp_path: Path, *, milliseconds: int = 9000) -> Visit:
    """Open a page, let its scripts run for a while of its own time, and look."""
    net = tmp_path / "net.json"
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", f"--log-net-log={net}",
               f"--virtual-time-budget={milliseconds}", page.as_uri()]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    lines = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return Visit(
        dom=done.stdout,
        console=[line for line in lines if not any(noise in line for noise in NOISE)],
        requested=_requested(json.loads(net.read_text())),
    )


def _requested(log: dict) -> set[str]:
    """What pages asked the network for; the browser's own questions have no origin."""
    asked = [event.get("params", {}) for event in log["events"]]
    return {
        asked_for["url"]
        for asked_for in asked
        if asked_for.get("initiator", "not an origin") != "not an origin"
        and asked_for.get("url", "").startswith(("http:", "https:", "ws:", "wss:"))
    }


def json_in(dom: str, name: str) -> dict:
    """The JSON of a script element."""
    found = re.search(
        rf'<script id="{name}" type="application/json">(.*?)</script>', dom, re.DOTALL
    )
    assert found, f"no script element {name}"
    return json.loads(found[1])
