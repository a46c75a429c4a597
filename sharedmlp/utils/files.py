"""Files that are complete or absent, also after a kill or a power cut; and their checksums."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a path to write to, and move the file there to its place if the block succeeds.

    Whoever opens the file sees the old or the new one. The new one is written beside its place as
    `<name>.partial`, synced to disk and renamed. If the process is killed meanwhile, the next
    writer overwrites what is left of it.

    Args:
        path: The file to write or replace; missing folders above it are made.

    Yields:
        The path of the partial file.

    Raises:
        OSError: If the file cannot be written; what was there is still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        publish(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def atomic_write(path: Path, content: bytes) -> None:
    """Write a file, or replace it, in one step (`atomic_path`).

    Args:
        path: The file to write or replace; missing folders above it are made.
        content: All of its bytes.

    Raises:
        OSError: If the file cannot be written, with its name in the message; what was there is
            still there.
    """
    try:
        with atomic_path(path) as partial:
            partial.write_bytes(content)
    except OSError as error:
        raise OSError(error.errno, f"{path} cannot be written ({error.strerror})") from error


def publish(partial: Path, path: Path) -> None:
    """Rename a finished file to its final name once all of it is on the disk."""
    with partial.open("rb+") as file:
        sync_file(file)
    os.replace(partial, path)  # noqa: PTH105 (3.10's Path.replace holds on to the function)
    sync_folder(path.parent)


def sync_file(file: IO[Any]) -> None:
    """Return when all that was written to a file is on the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Return when the names in a folder are on the disk."""
    # Not every system lets a folder be opened; there the rename alone has to do.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
