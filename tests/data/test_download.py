"""A download from a server on this machine that fails in every way that servers fail in."""

import hashlib
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from sharedmlp.data import DownloadError
from sharedmlp.data.modelnet import MODELNETS

from .tiny_modelnet import TREE, ZIP, describe, fetch, written

pytest.importorskip("requests", reason="needs the extra download")


def test_a_cut_connection_is_taken_up_where_it_ended(web, tmp_path):
    web.faults = ["cut=100000", "cut=80000"]
    folder = fetch(tmp_path)
    assert written(folder.parent) == sorted([*TREE, "Tiny.zip"])
    starts = [int(asked.removeprefix("bytes=").rstrip("-")) for asked in web.asked[1:]]
    assert len(starts) == 2
    assert 0 < starts[0] <= 100_000 < starts[1] <= 180_000
    assert (tmp_path / "Tiny.zip").read_bytes() == ZIP


def test_what_came_is_kept_for_the_next_run(web, tmp_path):
    web.faults = ["cut=100000", "cut=0"]
    with pytest.raises(DownloadError, match="run again to go on from there") as caught:
        fetch(tmp_path)
    part = tmp_path / "Tiny.zip.part"
    kept = part.stat().st_size
    assert 0 < kept <= 100_000
    assert f"{kept} of {len(ZIP)} bytes are kept in {part}" in str(caught.value)
    assert not (tmp_path / "Tiny").exists()
    fetch(tmp_path)
    assert web.asked[-1] == f"bytes={kept}-"
    assert not part.exists()


def test_a_server_without_ranges_sends_all_of_it(web, tmp_path):
    web.faults = ["cut=100000", "no-range"]
    fetch(tmp_path)
    assert (tmp_path / "Tiny.zip").read_bytes() == ZIP


def test_a_server_that_always_breaks_off_at_the_same_place_ends_in_an_error(web, tmp_path):
    web.faults = ["no-range cut=100000"] * 5
    with pytest.raises(DownloadError, match="breaks off"):
        fetch(tmp_path)
    assert len(web.faults) == 3


@pytest.mark.parametrize("status", [403, 404, 500, 503])
def test_a_server_that_has_no_such_file(web, tmp_path, status):
    web.faults = [f"status={status}"]
    with pytest.raises(DownloadError, match=rf"the server answers {status} .*--archive"):
        fetch(tmp_path)
    assert written(tmp_path) == []


def test_no_server(tmp_path, monkeypatch):
    monkeypatch.setitem(MODELNETS, "modelnet10", describe(ZIP))  # the discard port
    with pytest.raises(DownloadError, match=r"cannot be reached .*--archive"):
        fetch(tmp_path)
    assert written(tmp_path) == []


def test_a_wrong_checksum(web, tmp_path):
    web.content = ZIP[:-1] + b"x"
    with pytest.raises(DownloadError, match=r"is deleted: .* has the sha256") as caught:
        fetch(tmp_path)
    assert hashlib.sha256(ZIP).hexdigest() in str(caught.value)
    assert hashlib.sha256(web.content).hexdigest() in str(caught.value)
    assert written(tmp_path) == []
    web.content = ZIP
    fetch(tmp_path)


@pytest.mark.parametrize("length", [0, 5, -1])
def test_another_file_is_refused_by_its_size(web, tmp_path, length):
    web.content = ZIP[:length] if length else ZIP + b"x"
    with pytest.raises(DownloadError, match=rf"offers {len(web.content)} bytes where {len(ZIP)}"):
        fetch(tmp_path)
    assert written(tmp_path) == []


def test_a_server_that_never_stops(web, tmp_path):
    web.faults = ["endless"]
    with pytest.raises(DownloadError, match=f"sends more than {len(ZIP)} bytes"):
        fetch(tmp_path)
    assert (tmp_path / "Tiny.zip.part").stat().st_size <= len(ZIP)
    assert not (tmp_path / "Tiny.zip").exists()


def test_another_range_than_was_asked_for(web, tmp_path):
    web.faults = ["cut=100000", "another-range"]
    with pytest.raises(DownloadError, match=r"asked for the bytes from \d+, the server sends"):
        fetch(tmp_path)


@pytest.mark.parametrize("part", [ZIP + b"more", b"x" * 1000])
def test_a_part_of_something_else(web, tmp_path, part):
    (tmp_path / "Tiny.zip.part").write_bytes(part)
    if len(part) < len(ZIP):
        with pytest.raises(DownloadError, match="sha256"):
            fetch(tmp_path)
    fetch(tmp_path)
    assert (tmp_path / "Tiny.zip").read_bytes() == ZIP


def test_a_part_that_is_longer_than_what_the_server_has(web, tmp_path):
    (tmp_path / "Tiny.zip.part").write_bytes(b"x" * 1000)
    web.content = ZIP[:500]
    with pytest.raises(DownloadError, match="offers 500 bytes"):
        fetch(tmp_path)
    web.content = ZIP
    fetch(tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_fills_up_while_downloading(web, tmp_path):
    (tmp_path / "Tiny.zip.part").symlink_to("/dev/full")
    with pytest.raises(DownloadError, match=r"the disk is full; 0 of .* make room and run again"):
        fetch(tmp_path)
    assert not (tmp_path / "Tiny.zip").exists()


def test_a_disk_without_room_is_noticed_before_anything_is_written(web, tmp_path, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100))
    with pytest.raises(DownloadError, match=rf"room for 100 bytes, {len(ZIP)} are still to come"):
        fetch(tmp_path)
    assert web.asked == []
    (tmp_path / "Tiny.zip").write_bytes(ZIP)
    with pytest.raises(DownloadError, match=r"room for 100 bytes, the meshes of Tiny\.zip take"):
        fetch(tmp_path)
    assert written(tmp_path) == ["Tiny.zip"]
