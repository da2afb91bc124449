"""Draw the top of a report as the picture of the README: `python docs/picture.py REPORT.html`."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

WIDTH, HEIGHT = 1180, 2800


def main(report: Path, out: Path) -> None:
    """Take the picture with Chromium, drop the middle, and write a PNG of a README's width."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise SystemExit("chromium must be installed, got none on the PATH")
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder, "page.png")
        subprocess.run(
            [
                *(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
                *("--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
                *(f"--user-data-dir={folder}", "--virtual-time-budget=9000"),
                *(f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={shot}", report.as_uri()),
            ],
            check=True,
            capture_output=True,
        )
        page = Image.open(shot).convert("RGB")
    top, figures = page.crop((0, 40, WIDTH, 175)), page.crop((0, 1758, WIDTH, 2758))
    whole = Image.new("RGB", (WIDTH, top.height + figures.height), "white")
    whole.paste(top, (0, 0))
    whole.paste(figures, (0, top.height))
    whole.quantize(128).save(out, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(__file__).parent / "images" / "report.png")
