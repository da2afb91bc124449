"""A page as a browser without a network sees it."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND", "--remote-debugging-pipe",
]  # fmt: skip
NOISE = ("GL Driver Message", "willReadFrequently")  # of a software renderer, not of the page
PATIENCE = 120.0
"""Seconds of real time before a page counts as one that hangs; a quick one never waits for them."""


@dataclass(frozen=True, kw_only=True)
class Visit:
    """What a page did."""

    dom: str
    console: list[str]
    requested: set[str]


def visit(page: Path, tmp_path: Path, *, until: str = "html[data-drawn]") -> Visit:
    """Open a page, wait until an element is there, and look.

    The wait is in real time. A browser's virtual time runs out while its renderer, which is
    another process, still draws: on a busy machine such a test fails for no fault of the page.
    """
    with _browser(tmp_path / "profile") as browser:
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        browser.session = browser.call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log", "Network"):
            browser.call(f"{domain}.enable")
        browser.call("Page.navigate", url=page.as_uri())
        found = f"document.readyState === 'complete' && !!document.querySelector({until!r})"
        while not browser.value(found):
            time.sleep(0.05)
        dom = browser.value("document.documentElement.outerHTML")
        return Visit(
            dom=dom,
            console=[line for line in _said(browser.events) if not any(n in line for n in NOISE)],
            requested={
                event["params"]["request"]["url"]
                for event in browser.events
                if event["method"] == "Network.requestWillBeSent"
                and event["params"]["request"]["url"].startswith(("http", "ws"))
            },
        )


def _said(events: list[dict[str, Any]]) -> Iterator[str]:
    """What a page wrote to its console, and what the browser wrote there about it."""
    for event in events:
        params = event["params"]
        if event["method"] == "Runtime.consoleAPICalled":
            yield " ".join(
                str(part.get("value", part.get("description"))) for part in params["args"]
            )
        elif event["method"] == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            yield details.get("exception", {}).get("description", details["text"])
        elif event["method"] == "Log.entryAdded":
            yield params["entry"]["text"]


class _Browser:
    """The two pipes of a browser: each message is JSON, and ends with a zero byte."""

    def __init__(self, asked: int, told: int) -> None:
        self.asked, self.told = asked, told
        self.session: str | None = None
        self.events: list[dict[str, Any]] = []
        self.last, self.rest = 0, b""
        self.until = time.monotonic() + PATIENCE

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Ask the browser for something, and keep what it tells of its own accord meanwhile."""
        self.last += 1
        message = {"id": self.last, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.asked, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self.last:
            if "method" in answer:
                self.events.append(answer)
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def value(self, expression: str) -> Any:
        """The value of an expression in the page."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"][
            "value"
        ]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self.rest:
            left = self.until - time.monotonic()
            assert left > 0, f"the page was not ready after {PATIENCE:.0f} s"
            if select.select([self.told], [], [], left)[0]:
                part = os.read(self.told, 1 << 20)
                assert part, "the browser ended"
                self.rest += part
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)


@contextmanager
def _browser(profile: Path) -> Iterator[_Browser]:
    """A browser that reads from its file 3 and writes to its file 4, as its protocol wants."""
    from_us, asked = os.pipe()
    told, to_us = os.pipe()
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}"]
    # A shell moves the pipes to those numbers; ours may be any, and must not be taken twice.
    moved = f'exec 8<&{from_us} 9>&{to_us}; exec "$@" 3<&8 4>&9 8<&- 9>&-'
    with subprocess.Popen(
        ["bash", "-c", moved, "browser", *command],
        pass_fds=(from_us, to_us),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        os.close(from_us)
        os.close(to_us)
        try:
            yield _Browser(asked, told)
        finally:
            process.kill()
            os.close(asked)
            os.close(told)


def json_in(dom: str, name: str) -> dict:
    """The JSON of a script element."""
    found = re.search(
        rf'<script id="{name}" type="application/json">(.*?)</script>', dom, re.DOTALL
    )
    assert found, f"no script element {name}"
    return json.loads(found[1])
