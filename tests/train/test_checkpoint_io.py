"""Checkpoints and reports on a disk that fills up, or under a process that dies."""

import multiprocessing
import os

import pytest
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from sharedmlp.__main__ import main
from sharedmlp.train import AtomicCheckpointIO
from sharedmlp.utils import files
from sharedmlp.utils.files import atomic_write
from tests.cli.test_lightning import CONFIG
from tests.data.test_cache import full_disk
from tests.environment import own_environment
from tests.train.tiny import write_tree


def save(path, value):
    AtomicCheckpointIO().save_checkpoint({"weight": torch.full((5000,), value)}, path)


def read(path):
    return torch.load(path, weights_only=True)["weight"][0].item()  # noqa: TID251 - tensors


def test_a_checkpoint_is_written_and_replaced(tmp_path):
    path = tmp_path / "new" / "folder" / "last.ckpt"
    for value in (1.0, 2.0):
        save(path, value)
        assert read(path) == value
        assert AtomicCheckpointIO().load_checkpoint(path)["weight"][0] == value
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path):
    path = tmp_path / "last.ckpt"
    save(path, 1.0)
    with (
        full_disk(10_000),
        pytest.raises(OSError, match=r"last\.ckpt cannot be written \(File too"),
    ):
        save(path, 2.0)
    assert read(path) == 1.0
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("at", ["sync_file", "sync_folder"])
def test_a_process_that_dies_leaves_the_one_before_or_the_new_one(tmp_path, at):
    def die(*args):
        os._exit(9)

    def work():
        setattr(files, at, die)
        save(path, 2.0)

    path = tmp_path / "last.ckpt"
    save(path, 1.0)
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    assert process.exitcode == 9
    assert read(path) == (1.0 if at == "sync_file" else 2.0)
    save(path, 3.0)  # over what was left
    assert read(path) == 3.0
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_synced_is_what_is_renamed(tmp_path, monkeypatch):
    steps = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: steps.append("sync"))
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda *paths: (steps.append("rename"), replace(*paths)))
    atomic_write(tmp_path / "a", b"x")
    assert steps == ["sync", "rename", "sync"]


def test_addresses_are_left_to_lightning(monkeypatch):
    seen = []
    monkeypatch.setattr(TorchCheckpointIO, "save_checkpoint", lambda *args: seen.append(args[2]))
    save("memory://a/last.ckpt", 1.0)
    assert seen == ["memory://a/last.ckpt"]


def test_the_command_line_writes_them_so_and_says_in_a_line_where_it_cannot(tmp_path, monkeypatch):
    write_tree(tmp_path / "tree", train=6, test=3)
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    own_environment(monkeypatch)
    with full_disk(1_000_000), pytest.raises(SystemExit) as error:
        main(["fit", "--config", "tiny.yaml"])
    message = str(error.value.code)
    assert message.startswith("sharedmlp: error: ")
    assert "checkpoints/best.ckpt cannot be written (File too large)" in message
    assert not list(tmp_path.glob("runs/tiny/*/checkpoints/*"))
