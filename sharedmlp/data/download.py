"""Download one file of known size and checksum, resuming a download that broke off."""

from __future__ import annotations

import errno
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sharedmlp.data.errors import DataError
from sharedmlp.utils.files import file_sha256, publish

if TYPE_CHECKING:
    import requests

_TIMEOUT = 30.0  # seconds without a byte
_PAUSE = 2.0  # seconds before a broken connection is tried again
# What is on the way when a connection breaks is lost.
_CHUNK = 1 << 16


class DownloadError(DataError):
    """Raised when a file cannot be had, or is another one; the message says what to do."""


class RemoteFile(NamedTuple):
    """A file somewhere else: its address, its size and its checksum in hexadecimal digits."""

    url: str
    num_bytes: int
    sha256: str


def check_file(path: Path, expected: RemoteFile) -> None:
    """Compare a file's size and checksum with what they should be.

    Raises:
        DownloadError: If they differ.
        FileNotFoundError: If there is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file")
    num_bytes = path.stat().st_size
    if num_bytes != expected.num_bytes:
        raise DownloadError(
            f"{path} has {num_bytes} bytes, the file at {expected.url} has {expected.num_bytes}"
        )
    sha256 = file_sha256(path)
    if sha256 != expected.sha256:
        raise DownloadError(
            f"{path} has the sha256 {sha256}, the file at {expected.url} has {expected.sha256}"
        )


def download(source: RemoteFile, path: Path, *, progress: bool = True) -> None:
    """Download a file.

    What has come is kept in `<path>.part`, also when the connection breaks, the disk is full or
    the process dies, and the next call asks for the rest alone. A connection that breaks is tried
    again for as long as every attempt brings something. The file appears under its name when its
    size and checksum are right, and not before. One process at a time: the caller sees to it.

    Args:
        source: What to download, by http or https.
        path: Where it goes; its folder has to be there.
        progress: Show a progress bar on stderr.

    Raises:
        DownloadError: If the server does not answer, or not with this file, or the disk is
            full.
    """
    import requests

    part = path.with_name(f"{path.name}.part")
    if _size(part) > source.num_bytes:
        part.unlink()
    missing, free = source.num_bytes - _size(part), shutil.disk_usage(part.parent).free
    if free < missing:
        raise DownloadError(
            f"{part.parent} has room for {free} bytes, {missing} are still to come from "
            f"{source.url}: make room or choose another folder"
        )
    while (have := _size(part)) < source.num_bytes:
        try:
            _append(source, part, progress)
        except requests.RequestException as error:
            if _size(part) <= have:
                reason = str(error) or type(error).__name__
                raise DownloadError(
                    f"{source.url} cannot be reached or breaks off ({reason[:200]}); "
                    f"{_kept(part, source)}: run again to go on from there, or download it "
                    "elsewhere and name it by --archive"
                ) from error
            time.sleep(_PAUSE)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise DownloadError(
                f"the disk is full; {_kept(part, source)}: make room and run again to go on "
                "from there"
            ) from error
    try:
        check_file(part, source)
    except DownloadError as error:
        part.unlink()
        raise DownloadError(
            f"what came was not what was expected and is deleted: {error}; run again, or "
            "download it elsewhere and name it by --archive"
        ) from error
    publish(part, path)


def _append(source: RemoteFile, part: Path, progress: bool) -> None:
    """Ask for the rest of a part once, and write what comes."""
    import requests
    from tqdm import tqdm

    have = _size(part)
    # Not compressed on the way: bytes are counted, and asked for by their position.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(source.url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
        if have and response.status_code == requests.codes.requested_range_not_satisfiable:
            part.unlink()  # it is of another file; the next attempt asks for all of it
            return
        if not response.ok:
            raise DownloadError(
                f"{source.url}: the server answers {response.status_code} {response.reason}; "
                "download the file elsewhere and name it by --archive"
            )
        # A server that knows no ranges sends all of it, with 200 instead of 206.
        if response.status_code != requests.codes.partial_content:
            have = 0
        _check_offer(source, response, have)
        with (
            part.open("ab" if have else "wb") as file,
            tqdm(
                desc=part.stem,
                total=source.num_bytes,
                initial=have,
                unit="B",
                unit_scale=True,
                disable=not progress,
                mininterval=1,
            ) as bar,
        ):
            for chunk in response.iter_content(_CHUNK):
                have += len(chunk)
                if have > source.num_bytes:
                    raise DownloadError(
                        f"{source.url}: the server sends more than {source.num_bytes} bytes; "
                        "download the file elsewhere and name it by --archive"
                    )
                file.write(chunk)
                bar.update(len(chunk))


def _check_offer(source: RemoteFile, response: requests.Response, start: int) -> None:
    """Refuse another file by what the server announces, before anything is written."""
    first = response.headers.get("Content-Range", "").partition("-")[0]
    if start and first != f"bytes {start}":
        raise DownloadError(
            f"{source.url}: asked for the bytes from {start}, the server sends {first!r}; delete "
            "the .part file and run again"
        )
    length = response.headers.get("Content-Length")
    if length is not None and start + int(length) != source.num_bytes:
        raise DownloadError(
            f"{source.url}: the server offers {start + int(length)} bytes where "
            f"{source.num_bytes} are expected, so it is another file; download the right one "
            "elsewhere and name it by --archive"
        )


def _kept(part: Path, source: RemoteFile) -> str:
    return f"{_size(part)} of {source.num_bytes} bytes are kept in {part}"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
