import os

import pytest

from sharedmlp.utils import files
from sharedmlp.utils.files import atomic_path, atomic_write, file_sha256
from tests.data.test_cache import full_disk


def test_a_file_is_written_and_replaced_in_folders_that_are_made(tmp_path):
    path = tmp_path / "a" / "b.txt"
    for content in (b"first", b"second, longer", b""):
        atomic_write(path, content)
        assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


def test_an_error_in_the_block_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write(error):
        with atomic_path(path) as partial:
            partial.write_text("new")
            raise error

    for error in (RuntimeError("bad"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            write(error)
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), atomic_path(path):
        pass
    assert path.read_text() == "old"


def test_a_full_disk_leaves_what_was_there_and_names_the_file(tmp_path):
    path = tmp_path / "a.bin"
    atomic_write(path, b"old")
    with full_disk(1000), pytest.raises(OSError, match=r"a\.bin cannot be written \(File too"):
        atomic_write(path, bytes(100_000))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_content_is_on_the_disk_before_the_name_and_then_the_name(tmp_path, monkeypatch):
    steps = []
    monkeypatch.setattr(files, "sync_file", lambda file: steps.append(os.fstat(file.fileno())))
    monkeypatch.setattr(files, "sync_folder", steps.append)
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda *paths: (steps.append("rename"), replace(*paths)))
    atomic_write(tmp_path / "a", b"four")
    assert steps[0].st_ino == (tmp_path / "a").stat().st_ino
    assert steps[0].st_size == 4
    assert steps[1:] == ["rename", tmp_path]


def test_the_hash_of_a_file_of_several_blocks(tmp_path):
    content = bytes(range(256)) * 5000  # 1.2 MiB
    (tmp_path / "a").write_bytes(content)
    # By `sha256sum`.
    expected = "7d471e4af16db5a30ce10aebbc29f5178b2edbad6c7dc2e8ff8ee6e4848a726f"
    assert file_sha256(tmp_path / "a") == expected
