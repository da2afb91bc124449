"""What a run leaves on disk: a folder that can be read by hand and trusted after a crash.

A result is written last and in one piece, so its presence means that the run ended. A folder
without one is half-written: the run begins again, and of what is there only a complete checkpoint
is used, if the same code left it.
"""

import json
import os
import shutil
import time
import traceback
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from flatminima.study.provenance import code, code_text, machine
from flatminima.study.run import CRITERION, Experiment, as_json
from flatminima.study.study import Study

__all__ = ["Record", "StudyRecord", "read_json", "write_json"]

Row = dict[str, Any]
ENDED = {"done", "diverged"}  # a failed run is tried again, since its cause may be mended


class Record:
    """The folder of one run.

    Args:
        root: The folder that holds the records of all studies.
        study: The name of the study.
        run: The run.
    """

    def __init__(self, root: Path, study: str, run: Experiment) -> None:
        self.run = run
        self.study = study
        self.folder = root / study / "runs" / run.key
        self.checkpoints = self.folder / "checkpoints"
        self._claim = root / study / "claims" / run.key

    @property
    def result(self) -> Mapping[str, Any] | None:
        """What the run left when it ended, or None as long as there is no complete result."""
        return read_json(self.folder / "result.json")

    @property
    def ended(self) -> bool:
        """Whether the run ended, well or diverged, and need not be carried out again."""
        return (self.result or {}).get("status") in ENDED

    @contextmanager
    def claimed(self, *, wait: bool) -> Generator[bool]:
        """Keep other sweeps from carrying out the same run at the same time.

        The claim is a lock on a file, which the system lifts however this process ends.

        Args:
            wait: Whether to wait until nobody else has it.

        Yields:
            Whether this process has it.
        """
        self._claim.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self._claim)
        try:
            lock.acquire(timeout=-1 if wait else 0)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def begin(self, device: str) -> None:
        """Write what is known beforehand, and drop what a run that was killed has left.

        Checkpoints stay if the same code left them: the training goes on from there bit for bit.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        text = self.folder / "code.txt"
        if not (text.is_file() and text.read_text(encoding="utf-8") == code_text()):
            shutil.rmtree(self.checkpoints, ignore_errors=True)
        for name in ("result.json", "metrics.jsonl"):
            (self.folder / name).unlink(missing_ok=True)
        about = {"key": self.run.key, "study": self.study, **self.run.about}
        about |= as_json(self.run)
        write_json(self.folder / "run.json", about)
        write_json(self.folder / "machine.json", machine(device))
        _write(text, code_text())

    def log(self, row: Mapping[str, Any]) -> None:
        """Append a row to the metrics; it is on disk when this returns."""
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(as_json(row)) + "\n")

    def end(self, result: Row) -> None:
        """Write the result, which marks the run as ended."""
        write_json(self.folder / "result.json", result)
        if result.get("status") in ENDED:
            shutil.rmtree(self.checkpoints, ignore_errors=True)

    def fail(self, error: Exception, device: str) -> None:
        """Write that the run could not be carried out, unless somebody did it or is doing it."""
        with self.claimed(wait=False) as mine:
            if mine and not self.ended:
                self.begin(device)
                said = "".join(traceback.format_exception(error))
                self.end({"status": "failed", "error": said})


class StudyRecord:
    """The file that describes a study as a whole, above the folders of its runs.

    Args:
        root: The folder that holds the records of all studies.
        study: The study.
        preset: Which of its plans is carried out.
        device: Where.
    """

    def __init__(self, root: Path, study: Study, preset: str, device: str) -> None:
        self.folder = root / study.name
        before = read_json(self._path) or {}
        self._before = before if before.get("preset") == preset else {}
        self._began = time.monotonic()
        self._keys: list[str] = []
        self._worked = False
        self.finished = False
        self._about: Row = {
            "name": study.name,
            "title": study.title,
            **{name: study.field(name) for name in ("question", "source", "expected", "claim")},
            "preset": preset,
            "methods": [asdict(method) for method in study.compared(preset)],
            "chosen_by": CRITERION,
            "differences": list(study.differences(preset)),
            "code": code(),
            "machine": machine(device),
            "started": self._before.get("started") or _now(),
        }

    @property
    def _path(self) -> Path:
        return self.folder / "study.json"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._keys:
            self._write()

    def add(self, keys: Sequence[str], *, worked: bool) -> None:
        """Note a stage.

        Args:
            keys: Its runs. Older runs in the same folder can be told apart by not being noted.
            worked: Whether any of them is carried out now. A launch that finds everything done
                changes neither the time that the study took nor when it finished.
        """
        self._keys += keys
        self._worked = self._worked or worked
        self._write()

    def _write(self) -> None:
        """Write how far the study is."""
        seconds, ended = self._before.get("seconds"), self._before.get("finished")
        if self._worked:
            seconds = (seconds or 0.0) + time.monotonic() - self._began
            ended = _now()
        self.folder.mkdir(parents=True, exist_ok=True)
        about = self._about | {"runs": self._keys, "seconds": seconds}
        write_json(self._path, about | {"finished": ended if self.finished else None})


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401 - JSON has any shape
    """Write a value as JSON in one piece: a reader sees the old file or the new one."""
    _write(path, json.dumps(as_json(value), indent=1) + "\n")


def read_json(path: Path) -> Row | None:
    """The JSON object in a file, or None if it is absent or not complete."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _write(path: Path, text: str) -> None:
    """Write a file in one piece, by way of a second one beside it."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)


def _now() -> str:
    """The time, to the second, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")
