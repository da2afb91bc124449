"""Where data are read from: the root, its files, their checksums, and what is said of bad ones."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

__all__ = ["ROOT_VARIABLE", "check_listed", "check_sha256", "fetched", "found", "root_folder"]

ROOT_VARIABLE = "FLATMINIMA_DATA"


def root_folder(root: str | None, name: str) -> str:
    """The folder of all data: as given, or from the environment variable FLATMINIMA_DATA.

    Args:
        root: The folder; None takes it from the environment.
        name: What is looked for, for the message.

    Returns:
        The folder.

    Raises:
        ValueError: If there is neither.
    """
    folder = root or os.environ.get(ROOT_VARIABLE)
    if not folder:
        raise ValueError(
            f"data root must be given, got none: pass --data-root PATH or set {ROOT_VARIABLE}; "
            f"--download fetches {name} into it."
        )
    return folder


def found(paths: list[Path], *, download: bool = True) -> Path:
    """The first of some paths that exists.

    Args:
        paths: Where a file or folder may be, the usual place first.
        download: Whether the message may speak of a download.

    Returns:
        The path.

    Raises:
        ValueError: If none of them exists.
    """
    for path in paths:
        if path.exists():
            return path
    fetch = "pass --download to fetch it, or --data-root PATH" if download else "pass --data-root"
    others = "".join(f" (or {path.name})" for path in paths[1:])
    raise ValueError(
        f"data root must hold the file {paths[0].name}{others}, got none in "
        f"{str(paths[0].parent)!r}: {fetch}."
    )


def check_sha256(path: Path, digest: str | None) -> None:
    """Raise a ValueError unless a file has a checksum; None takes any."""
    if digest is None:
        return
    with path.open("rb") as file:
        is_there = hashlib.file_digest(file, "sha256").hexdigest()
    if is_there != digest:
        raise ValueError(
            f"{path.name} must have the SHA-256 {digest}, got {is_there} of {str(path)!r}: "
            "remove it and fetch it again."
        )


def fetched(fetch: Callable[[], object], name: str, root: str) -> None:
    """Download a data set, which checks its files, unless it is there.

    Args:
        fetch: What downloads it.
        name: The data set.
        root: The folder.

    Raises:
        ValueError: If it cannot.
    """
    try:
        fetch()
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"data root must be a folder that {name} can be downloaded into, got {root!r}: {error}"
        ) from error


def check_listed(path: Path, root: Path) -> None:
    """Check a file against the line of `SHA256SUMS` in the root that names it, if there is one."""
    sums = root / "SHA256SUMS"
    if not sums.is_file():
        return
    for line in sums.read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition("  ")
        if root / name == path:
            check_sha256(path, digest)
