"""From an archive to a folder of meshes that is whole, or to an error and nothing."""

import errno
import hashlib
import os
import random
import shutil
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from sharedmlp.data import DownloadError, fetch_modelnet, modelnet, prepare_mesh_tree
from sharedmlp.data.modelnet import MODELNETS, unpack

from .io.meshes import TETRAHEDRON
from .tiny_modelnet import COUNTS, JUNK, TREE, ZIP, describe, fetch, make_zip, written

pytest.importorskip("requests", reason="needs the extra download")


def test_it_is_downloaded_unpacked_and_ready_to_be_sampled(web, tmp_path):
    folder = fetch(tmp_path / "new" / "root")
    assert folder == tmp_path / "new" / "root" / "Tiny"
    assert written(folder.parent) == sorted([*TREE, "Tiny.zip"])
    assert (folder / "chair" / "train" / "chair_0001.off").read_text() == TETRAHEDRON
    pool = prepare_mesh_tree(folder, "train", pool_size=8, num_workers=0, progress=False)
    assert (len(pool), pool.class_names, pool.failures) == (6, ("chair", "night_stand"), ())
    assert web.asked == [None]


def test_what_is_there_is_not_fetched_again(web, tmp_path):
    fetch(tmp_path)
    (tmp_path / "Tiny.zip").unlink()
    fetch(tmp_path)
    assert len(web.asked) == 1
    shutil.rmtree(tmp_path / "Tiny")
    (tmp_path / "Tiny.zip").write_bytes(ZIP)
    fetch(tmp_path)
    assert len(web.asked) == 1


def test_a_disk_that_fills_up_while_unpacking_leaves_nothing(web, tmp_path, monkeypatch):
    copies = []

    def copy(source, target, length):
        copies.append(target.write(b"half"))
        if len(copies) == 4:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", copy)
        with pytest.raises(DownloadError, match="No space left on device"):
            fetch(tmp_path)
    assert written(tmp_path) == ["Tiny.zip"]
    fetch(tmp_path)
    assert written(tmp_path) == sorted([*TREE, "Tiny.zip"])


def test_an_interrupt_while_unpacking_leaves_nothing(web, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "copyfileobj", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch(tmp_path)
    assert written(tmp_path) == ["Tiny.zip"]


def test_what_a_killed_process_left_is_cleared(web, tmp_path):
    left = tmp_path / ".Tiny.partial" / "chair" / "train" / "chair_0001.off"
    left.parent.mkdir(parents=True)
    left.write_text("half")
    fetch(tmp_path)
    assert written(tmp_path) == sorted([*TREE, "Tiny.zip"])
    assert not (tmp_path / ".Tiny.partial").exists()


def test_two_processes_at_once_fetch_it_once(web, tmp_path):
    code = f"""
        from sharedmlp.data import fetch_modelnet
        from sharedmlp.data.download import RemoteFile
        from sharedmlp.data.modelnet import MODELNETS, ModelNet
        remote = RemoteFile({web.url!r}, {len(ZIP)}, {hashlib.sha256(ZIP).hexdigest()!r})
        MODELNETS["modelnet10"] = ModelNet("Tiny", remote, {COUNTS})
        print("ready", flush=True)
        input()
        print(fetch_modelnet("modelnet10", {str(tmp_path)!r}, progress=False))
    """
    web.faults = ["wait=1"]  # so that the second comes while the first is at it
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "ready\n"
        other.stdin.write("go\n")
        other.stdin.flush()
        folder = fetch(tmp_path)
        assert other.communicate(timeout=60)[0] == f"{folder}\n"
    assert other.returncode == 0
    assert web.asked == [None]
    assert written(tmp_path) == sorted([*TREE, "Tiny.zip"])


def test_the_second_process_says_that_it_waits(web, tmp_path, capsys):
    import filelock

    locked = threading.Event()

    def hold():
        with filelock.FileLock(tmp_path / ".Tiny.lock"):
            locked.set()
            time.sleep(0.2)

    threading.Thread(target=hold).start()
    assert locked.wait(10)
    fetch(tmp_path)
    assert "waiting for another process that fetches Tiny" in capsys.readouterr().err


def test_an_archive_that_one_has_is_not_downloaded(web, tmp_path):
    archive = tmp_path / "mine.zip"
    archive.write_bytes(ZIP)
    fetch(tmp_path / "root", archive=archive)
    assert written(tmp_path / "root") == sorted(TREE)
    assert web.asked == []
    assert archive.read_bytes() == ZIP


@pytest.mark.parametrize("content", [b"", ZIP[:-1], ZIP[:-1] + b"x"])
def test_an_archive_that_is_another_file_is_refused_and_left_alone(web, tmp_path, content):
    archive = tmp_path / "mine.zip"
    archive.write_bytes(content)
    with pytest.raises(DownloadError, match="it is not the original"):
        fetch(tmp_path / "root", archive=archive)
    assert written(tmp_path / "root") == []
    assert archive.read_bytes() == content
    with pytest.raises(FileNotFoundError, match=r"none\.zip is no file"):
        fetch(tmp_path / "root", archive=tmp_path / "none.zip")


def test_a_folder_that_is_not_whole_is_named(web, tmp_path):
    fetch(tmp_path)
    (tmp_path / TREE[0]).unlink()
    with pytest.raises(DownloadError, match="holds 5 train meshes where Tiny has 6: delete it"):
        fetch(tmp_path)


def with_flag(content, flag):
    """Every member of an archive gets a flag, in its own header and in the directory."""
    changed = bytearray(content)
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        position = changed.find(signature)
        while position >= 0:
            changed[position + offset] |= flag
            position = changed.find(signature, position + 1)
    return bytes(changed)


CORRUPT = bytearray(ZIP)
CORRUPT[ZIP.index(b"Tiny/chair/train/chair_0002.off") + 40] ^= 0xFF
EVIL = {
    "above": (make_zip(more=["../evil.off"]), r"holds '\.\./evil\.off'"),
    "above from within": (make_zip(more=["Tiny/../../evil.off"]), r"holds 'Tiny/\.\./\.\./evil"),
    "above as a class": (make_zip([*TREE[1:], "Tiny/../train/evil.off"]), r"'Tiny/\.\./train"),
    "absolute": (make_zip(more=["/tmp/evil.off"]), "holds '/tmp/evil.off'"),
    "backslashes": (make_zip(more=["Tiny\\..\\..\\evil.off"]), "holds 'Tiny"),
    "drive": (make_zip(more=["C:/evil.off"]), "holds 'C:/evil.off'"),
    "link": (make_zip(TREE[1:], links=TREE[:1]), "holds 'Tiny/chair/train/chair_0001.off'"),
    "linked folder": (make_zip(TREE[1:], links=["Tiny/chair"]), "holds 'Tiny/chair'"),
    "program": (make_zip(more=["Tiny/chair/train/run.sh"]), "holds 'Tiny/chair/train/run.sh'"),
    "another folder": (make_zip(more=["Other/chair/train/a.off"]), "holds 'Other/chair"),
    "one too few": (make_zip(TREE[1:]), "holds 9 meshes where Tiny has 10"),
    "one too many": (make_zip(more=["Tiny/chair/train/x.off"]), "holds 11 meshes where"),
    "one in the other split": (
        make_zip([*TREE[1:], "Tiny/chair/test/x.off"]),
        "holds 5 train meshes where Tiny has 6",
    ),
    "bomb": (make_zip(content="0 " * 5_000_000), "would unpack to 100000000 bytes"),
    "damaged": (bytes(CORRUPT), "cannot be unpacked"),
    "encrypted": (with_flag(ZIP, 1), "cannot be unpacked .*encrypted"),
    "cut short": (ZIP[: len(ZIP) // 2], "cannot be unpacked"),
    "empty": (b"", "cannot be unpacked"),
    "a web page": (b"<html>404</html>" * 100, "cannot be unpacked"),
}


@pytest.mark.parametrize("case", EVIL)
def test_archives_that_must_not_be_unpacked(case, tmp_path):
    content, message = EVIL[case]
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (inner / "archive.zip").write_bytes(content)
    with pytest.raises(DownloadError, match=message):
        unpack(inner / "archive.zip", inner / "Tiny", describe(content), progress=False)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [inner / "archive.zip"]
    assert not (inner / "Tiny").exists()
    assert not (inner / ".Tiny.partial").exists()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_comes_twice(tmp_path):
    content = make_zip([*TREE[1:], TREE[1]])
    (tmp_path / "archive.zip").write_bytes(content)
    with pytest.raises(DownloadError, match=r"chair_0002\.off' more than once"):
        unpack(tmp_path / "archive.zip", tmp_path / "Tiny", describe(content), progress=False)
    assert not (tmp_path / "Tiny").exists()


def test_any_damage_ends_in_the_one_error_or_in_the_whole_tree(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sync", lambda: None, raising=False)
    draw = random.Random(0)
    small = make_zip().replace(JUNK, b"")  # offsets no longer fit, zipfile copes with that
    failures = 0
    for number in range(50):
        content = bytearray(small)
        for _ in range(draw.randint(1, 4)):
            content[draw.randrange(len(content))] = draw.randrange(256)
        archive = tmp_path / f"{number}.zip"
        archive.write_bytes(content)
        try:
            unpack(archive, tmp_path / "Tiny", describe(ZIP), progress=False)
        except DownloadError:
            failures += 1
            assert not (tmp_path / "Tiny").exists()
        else:
            assert [f"Tiny/{name}" for name in written(tmp_path / "Tiny")] == sorted(TREE)
            shutil.rmtree(tmp_path / "Tiny")
        archive.unlink()
    assert 0 < failures < 50


def test_the_bars_name_the_archive(web, tmp_path, capfd):
    fetch_modelnet("modelnet10", tmp_path)
    printed = capfd.readouterr().err
    assert "Tiny.zip: 100%" in printed
    assert "unpacking Tiny.zip: 100%" in printed


@pytest.mark.parametrize("missing", ["requests", "filelock", "tqdm"])
def test_without_the_libraries_the_error_names_the_extra(monkeypatch, tmp_path, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=r"pip install 'sharedmlp\[download\]'"):
        fetch(tmp_path)


def test_the_table_is_what_is_published():
    assert {name: sum(entry.num_meshes.values()) for name, entry in MODELNETS.items()} == {
        "modelnet10": 4899,
        "modelnet40": 12311,
    }
    assert "academic research" in modelnet.TERMS
