"""Files that are there whole or not at all, also after a kill or a power cut."""

import contextlib
import os
from pathlib import Path
from typing import IO, Any


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, or replace it, in one step: whoever opens it sees the old or the new one.

    It is written under another name beside its place, synced to disk and renamed. What a process
    leaves behind that is killed meanwhile, `<name>.partial`, the next one overwrites.

    Args:
        path: the file; folders above it are made.
        content: all of it.

    Raises:
        OSError: where it cannot be written; what was there is still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            sync_file(file)
        os.replace(partial, path)  # noqa: PTH105
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise OSError(error.errno, f"{path} cannot be written ({error.strerror})") from error
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
