"""What disks, processes and older versions do to a cache: the points are right, or it says."""

import contextlib
import errno
import json
import logging
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from sharedmlp.data import cache, mesh_tree, prepare_mesh_tree

from .io.meshes import write_tree


def prepare(root, **options):
    return prepare_mesh_tree(root, "train", pool_size=32, **{"progress": False, **options})


@pytest.fixture
def tree(tmp_path):
    return write_tree(tmp_path / "tree")


def only_cache(tree):
    (directory,) = (tree / ".sharedmlp_cache").iterdir()
    return directory


def flip(path, position):
    """Flips a bit, and leaves size and time as they were."""
    stat, content = path.stat(), bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    cache._checksum_file.cache_clear()  # as in another process


@pytest.mark.parametrize("position", [-1, 1000, 10, 70])  # the last two in NumPy's header
def test_a_flipped_bit_in_the_points_means_another_build(tree, position, caplog):
    expected = np.array(prepare(tree).points)
    flip(only_cache(tree) / "points.npy", position)
    np.testing.assert_array_equal(prepare(tree).points, expected)
    assert "is damaged" in caplog.text


@pytest.mark.parametrize("text", ['"labels": [0', '"names": ["a/train/a_000', '"failures'])
def test_a_flipped_bit_in_the_index_means_another_build(tree, text, caplog):
    expected = prepare(tree)
    index = only_cache(tree) / "index.json"
    flip(index, index.read_text().index(text) + len(text) - 1)
    found = prepare(tree)
    assert found.labels.tolist() == expected.labels.tolist()
    assert found.names == expected.names
    assert "is damaged" in caplog.text


def test_a_process_reads_a_cache_for_its_checksum_once(tree):
    prepare(tree)
    before = cache._checksum_file.cache_info().misses
    for _ in range(3):
        prepare(tree)
    assert cache._checksum_file.cache_info().misses == before


def test_a_cache_of_another_version_is_left_alone(tree, monkeypatch, caplog):
    with monkeypatch.context() as older:
        older.setattr(cache, "_FORMAT", cache._FORMAT - 1)
        prepare(tree)
    old = only_cache(tree)
    before = (old / "index.json").read_bytes()
    prepare(tree)
    assert len(list(old.parent.iterdir())) == 2
    assert (old / "index.json").read_bytes() == before
    assert not caplog.text


def test_a_cache_without_checksums_is_not_trusted(tree, caplog):
    expected = np.array(prepare(tree).points)
    path = only_cache(tree) / "index.json"
    index = json.loads(path.read_text())
    for content in ({k: v for k, v in index.items() if "crc32" not in k}, [index], "index"):
        path.write_text(json.dumps(content))
        np.testing.assert_array_equal(prepare(tree).points, expected)
    assert caplog.text.count("is damaged") >= 3


@contextlib.contextmanager
def full_disk(num_bytes):
    """No file can grow beyond this: a write is cut and then fails, as where the disk is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("num_bytes", [64, 700, 2000])  # header, index or points do not fit
def test_a_full_disk_is_named_with_the_remedy_and_leaves_nothing(tree, num_bytes):
    with (
        full_disk(num_bytes),
        pytest.raises(OSError, match="make room there, or name a writable folder by cache_dir"),
    ):
        prepare(tree)
    assert list((tree / ".sharedmlp_cache").iterdir()) == []
    assert len(prepare(tree)) == 6


def test_a_read_only_folder_is_named_and_a_cache_in_it_is_opened(tree, monkeypatch):
    def refuse(self, *args, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))

    expected = np.array(prepare(tree).points)
    for name in ("mkdir", "rename", "touch", "unlink"):
        monkeypatch.setattr(Path, name, refuse)
    np.testing.assert_array_equal(prepare(tree).points, expected)
    with pytest.raises(OSError, match=r"tree/.sharedmlp_cache \(Read-only.*by cache_dir"):
        prepare(tree, seed=1)


def test_vanished_meshes_are_seen(tree, monkeypatch):
    first = prepare(tree)
    expected = np.array(first.points)
    (tree / "a" / "train" / "a_0000.off").unlink()
    assert len(prepare(tree)) == 5
    shutil.rmtree(tree / "b")
    assert prepare(tree).class_names == ("a",)
    np.testing.assert_array_equal(first.points, expected)  # of those who have it open
    shutil.rmtree(tree / "a")
    with pytest.raises(ValueError, match="holds nothing"):
        prepare(tree)


def race(tree, start, answers):
    logging.disable()
    start.wait()
    pool = prepare(tree, num_workers=0)
    answers.put(np.array(pool.points).tobytes())


@pytest.mark.parametrize("damaged", [False, True])
def test_processes_share_a_cache_that_is_missing_or_damaged(tree, damaged):
    fork = multiprocessing.get_context("fork")
    expected = np.array(prepare(tree).points).tobytes()
    directory = only_cache(tree)
    for _ in range(4):
        if damaged:
            flip(directory / "points.npy", -1)
        else:
            shutil.rmtree(directory)
        start, answers = fork.Barrier(4), fork.Queue()
        processes = [fork.Process(target=race, args=(tree, start, answers)) for _ in range(4)]
        for process in processes:
            process.start()
        assert [answers.get(timeout=30) == expected for _ in processes] == [True] * 4
        for process in processes:
            process.join()
            assert process.exitcode == 0
        assert only_cache(tree) == directory


def test_a_cache_that_another_process_replaces_is_waited_for(tree, monkeypatch):
    def publish(temporary, directory, key):
        original(temporary, directory, key)
        away = directory.rename(directory.with_name("away"))
        threading.Timer(0.15, away.rename, [directory]).start()

    original = cache._publish
    monkeypatch.setattr(cache, "_publish", publish)
    assert len(prepare(tree)) == 6


def test_what_killed_builds_left_is_removed_after_an_hour(tree):
    folder = tree / ".sharedmlp_cache"
    names = {
        "old": f".train-{'0' * 24}-{'1' * 32}",
        "old, of another split": f".test-{'0' * 24}-{'2' * 32}-damaged",
        "at work": f".train-{'0' * 24}-{'3' * 32}",
        "somebody else's": ".hidden",
    }
    for what, name in names.items():
        (folder / name).mkdir(parents=True)
        points = folder / name / "points.npy"
        points.write_bytes(b"x")
        hours = 0 if what == "at work" else 2
        for path in (points, folder / name):
            os.utime(path, (time.time() - 3600 * hours,) * 2)
    prepare(tree)
    left = {path.name for path in folder.iterdir() if path.name.startswith(".")}
    assert left == {names["at work"], names["somebody else's"]}


def sleep(source, **options):
    time.sleep(60)


def prepare_slowly(tree, started):
    mesh_tree._sample = sleep
    os.setsid()
    started.set()
    prepare(tree, num_workers=2)


def group(leader):
    """The processes that a process has started, and that are alive."""
    listing = subprocess.run(
        ["ps", "-A", "-o", "pid=,pgid=,stat="], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split() for line in listing.splitlines()]
    return {int(pid) for pid, of, stat in rows if int(of) == leader and stat[0] != "Z"} - {leader}


def wait_for(condition):
    end = time.monotonic() + 20
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


@pytest.mark.skipif(sys.platform != "linux", reason="asks ps for a process group")
def test_the_processes_of_a_killed_build_end_too(tmp_path):
    tree = write_tree(tmp_path / "tree", train=10)
    fork = multiprocessing.get_context("fork")
    started = fork.Event()
    process = fork.Process(target=prepare_slowly, args=(tree, started))
    process.start()
    assert process.pid is not None
    try:
        assert started.wait(20)
        assert wait_for(lambda: len(group(process.pid)) == 2)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert wait_for(lambda: not group(process.pid))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
