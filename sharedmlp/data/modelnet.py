"""ModelNet10 and ModelNet40 as their authors publish them: fetched, checked, unpacked.

Wu et al., "3D ShapeNets: A Deep Representation for Volumetric Shapes", CVPR 2015.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import sys
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

from sharedmlp.data.download import DownloadError, RemoteFile, check_file, download
from sharedmlp.utils.optional_imports import require_modules

TERMS = (
    "ModelNet is for academic research only; the copyright of its models is with their original "
    "authors. See https://modelnet.cs.princeton.edu"
)


class ModelNet(NamedTuple):
    """One of the two sets: its folder within its archive, and how many meshes each split has."""

    name: str
    archive: RemoteFile
    num_meshes: dict[str, int]


# The checksums are those that other loaders of these files record (compressai, tensorflow).
MODELNETS = {
    "modelnet10": ModelNet(
        "ModelNet10",
        RemoteFile(
            "http://3dvision.princeton.edu/projects/2014/3DShapeNets/ModelNet10.zip",
            473402300,
            "9d8679435fc07d1d26f13009878db164a7aa8ea5e7ea3c8880e42794b7307d51",
        ),
        {"train": 3991, "test": 908},
    ),
    "modelnet40": ModelNet(
        "ModelNet40",
        RemoteFile(
            "http://modelnet.cs.princeton.edu/ModelNet40.zip",
            2039180837,
            "42dc3e656932e387f554e25a4eb2cc0e1a1bd3ab54606e2a9eae444c60e536ac",
        ),
        {"train": 9843, "test": 2468},
    ),
}

# Text of meshes shrinks to about a fifth; a bomb to a thousandth.
_LARGEST_RATIO = 25
# What the archives hold beside the meshes.
_IGNORED = re.compile(r"__MACOSX/|.*/$|(?:[^/]+/)*(?:\.[^/.][^/]*|README[^/]*)$")


def fetch_modelnet(
    name: str, root: str | Path, *, archive: str | Path | None = None, progress: bool = True
) -> Path:
    """Return the folder of ModelNet's meshes, after download and unpacking if it is missing.

    The archive stays beside the folder; it may be deleted. Of several processes one works and
    the others wait for it.

    Args:
        name: "modelnet10" or "modelnet40".
        root: The folder above: the meshes go to `<root>/ModelNet10` or `<root>/ModelNet40`.
        archive: The archive, if it is there already; None to download it to the root.
        progress: Show progress bars on stderr.

    Returns:
        The folder, `<class>/{train,test}/<name>.off`, all meshes there.

    Raises:
        DownloadError: If the archive cannot be had or is another file, a folder of that name
            does not hold the set, or there is no room.
        FileNotFoundError: If `archive` is not a file.
        ImportError: If requests, filelock or tqdm are not installed.
    """
    require_modules("requests", "filelock", "tqdm", extra="download", purpose="Fetching ModelNet")
    import filelock

    source = MODELNETS[name]
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    folder = root / source.name
    lock = filelock.FileLock(root / f".{source.name}.lock")
    try:
        held = lock.acquire(timeout=0)
    except filelock.Timeout:
        print(f"waiting for another process that fetches {source.name}", file=sys.stderr)
        held = lock.acquire()
    with held:
        if folder.exists():
            _check_folder(folder, source)
            return folder
        path = root / f"{source.name}.zip" if archive is None else Path(archive)
        if archive is None and not path.exists():
            download(source.archive, path, progress=progress)
        else:
            try:
                check_file(path, source.archive)
            except DownloadError as error:
                raise DownloadError(
                    f"{error}: it is not the original; delete it to download that, or unpack it "
                    "and prepare the folder of meshes"
                ) from error
        unpack(path, folder, source, progress=progress)
    return folder


def unpack(archive: Path, folder: Path, source: ModelNet, *, progress: bool = True) -> None:
    """Unpack the meshes of an archive into a folder that appears when it is complete.

    Nothing is written but regular files `<class>/{train,test}/<name>.off` below the folder, and
    they are as many as the set has: no links, and no names that lead elsewhere.

    Args:
        archive: The zip file.
        folder: Where the meshes go; not there yet.
        source: What the archive has to hold.
        progress: Show a progress bar on stderr.

    Raises:
        DownloadError: If the archive is damaged, holds anything else, or there is no room.
    """
    from tqdm import tqdm

    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    try:
        with zipfile.ZipFile(archive) as file:
            members = _find_members(archive, file, source)
            num_bytes, free = (
                sum(m.file_size for m in members),
                shutil.disk_usage(folder.parent).free,
            )
            if free < num_bytes:
                raise DownloadError(
                    f"{folder.parent} has room for {free} bytes, the meshes of {archive.name} "
                    f"take {num_bytes}: make room or choose another folder"
                )
            for member in tqdm(
                members, desc=f"unpacking {archive.name}", unit="file", disable=not progress
            ):
                target = partial.joinpath(*member.filename.split("/")[1:])
                target.parent.mkdir(parents=True, exist_ok=True)
                # zipfile reads no more than the size that was counted, and checks the CRC.
                with file.open(member) as packed, target.open("xb") as unpacked:
                    shutil.copyfileobj(packed, unpacked, 1 << 20)
        _check_folder(partial, source)
        if hasattr(os, "sync"):
            os.sync()  # the name must not reach the disk before what it names
        partial.rename(folder)
    except DownloadError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
        raise DownloadError(
            f"{archive} cannot be unpacked ({error}): delete it and run again"
        ) from error
    except OSError as error:
        raise DownloadError(
            f"{archive} cannot be unpacked to {folder} ({error.strerror or error}); nothing is "
            "left of it: see to it and run again"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _find_members(archive: Path, file: zipfile.ZipFile, source: ModelNet) -> list[zipfile.ZipInfo]:
    """Return the meshes of an archive; raise if it holds anything that is not known."""
    mesh = re.compile(rf"{source.name}/\w+/(?:train|test)/\w+\.off", re.ASCII)
    members: dict[str, zipfile.ZipInfo] = {}
    for member in file.infolist():
        name = member.filename
        if name in members:
            raise DownloadError(f"{archive} holds {name!r} more than once: nothing is unpacked")
        if mesh.fullmatch(name) and not stat.S_ISLNK(member.external_attr >> 16):
            members[name] = member
        elif not _IGNORED.match(name):
            raise DownloadError(
                f"{archive} holds {name!r}, expected "
                f"{source.name}/<class>/{{train,test}}/<name>.off alone: nothing is unpacked"
            )
    expected = sum(source.num_meshes.values())
    if len(members) != expected:
        raise DownloadError(
            f"{archive} holds {len(members)} meshes where {source.name} has {expected}: nothing "
            "is unpacked"
        )
    num_bytes = sum(member.file_size for member in members.values())
    if num_bytes > _LARGEST_RATIO * archive.stat().st_size:
        raise DownloadError(
            f"{archive} would unpack to {num_bytes} bytes, more than {_LARGEST_RATIO} times its "
            "size: nothing is unpacked"
        )
    return list(members.values())


def _check_folder(folder: Path, source: ModelNet) -> None:
    """Raise unless a folder holds all meshes of a set."""
    for split, expected in source.num_meshes.items():
        found = sum(1 for _ in folder.glob(f"*/{split}/*.off"))
        if found != expected:
            raise DownloadError(
                f"{folder} holds {found} {split} meshes where {source.name} has {expected}: "
                "delete it to fetch it anew, or choose another root"
            )
