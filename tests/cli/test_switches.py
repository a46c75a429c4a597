"""Switches of the trainer on the command line, and the first screen."""

import logging
from pathlib import Path

import pytest

from sharedmlp.cli.main import main
from tests.environment import own_environment
from tests.train.tiny import write_hdf5

DATA = [
    *("--data", "HDF5DataModule", "--data.root", "set", "--data.num_points", "16"),
    *("--data.batch_size", "4", "--data.val_fraction", "0.34"),
]
FIT = ["fit", *DATA, "--model.model", "pointnet_vanilla", "--trainer.accelerator", "cpu"]
EPOCH = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("switches")
    write_hdf5(folder / "set", pool_size=32)
    return folder


@pytest.fixture
def run(folder, tmp_path, monkeypatch, capsys):
    """Runs a fit in a folder of its own; returns what it printed and what it wrote."""

    def fit(*arguments):
        main([*FIT, *EPOCH, *arguments])
        written = {str(path.name) for path in Path.cwd().rglob("*") if path.is_file()}
        return capsys.readouterr(), written

    own_environment(monkeypatch)
    (tmp_path / "set").symlink_to(folder / "set")
    monkeypatch.chdir(tmp_path)
    return fit


def test_the_first_screen(run, recwarn, caplog):
    messages = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    messages.addHandler(caplog.handler)
    try:
        printed, _ = run()
    finally:
        messages.removeHandler(caplog.handler)
    assert "GPU available" in caplog.text
    for noise in ("Tip:", "TPU available"):
        assert noise not in caplog.text
    assert not [str(w.message) for w in recwarn if "site-packages" in w.filename]
    lines = printed.out.splitlines()
    data = "data     12 clouds to train on, 6 to validate on; 3 classes, 16 points each"
    assert data in lines
    network = next(line for line in lines if line.startswith("network"))
    assert network.startswith("network  pointnet_vanilla, 80")
    assert network.endswith(" parameters")
    assert any(line.startswith("epoch  1/1: train loss") for line in lines)
    for noise in ("FLOPs", "v_num", "Epoch 0", "TPU"):
        assert noise not in printed.out + printed.err


def test_a_user_brings_a_bar_and_a_summary(run):
    printed, _ = run(
        "--trainer.callbacks+=TQDMProgressBar",
        "--trainer.callbacks+=ModelSummary",
        "--trainer.callbacks.max_depth=2",
    )
    assert "Epoch 0:" in printed.out + printed.err
    assert "network " not in printed.out
    assert "epoch  1/1: train loss" in printed.out


def test_no_checkpoints(run):
    printed, written = run(
        *("--trainer.enable_checkpointing", "false", "--test_after_fit", "true"),
        *("--trainer.enable_model_summary", "false", "--trainer.enable_progress_bar", "false"),
    )
    assert not [name for name in written if name.endswith(".ckpt")]
    assert "checkpoint" not in printed.out
    assert "network " not in printed.out
    assert "overall accuracy" in printed.out


def test_without_validation_the_last_checkpoint_is_tested(run, recwarn):
    printed, written = run(
        "--trainer.limit_val_batches", "0", "--test_after_fit", "true", "--trainer.logger", "false"
    )
    assert {name for name in written if name.endswith(".ckpt")} == {"last.ckpt"}
    assert "best checkpoint" not in printed.out
    assert "overall accuracy" in printed.out
    assert not [w for w in recwarn if "could not find the monitored key" in str(w.message)]


def test_a_validation_that_was_not_reached_leaves_the_last_checkpoint_to_test(run):
    printed, _ = run("--trainer.check_val_every_n_epoch", "2", "--test_after_fit", "true")
    assert "last checkpoint" in printed.out
    assert "best checkpoint" not in printed.out
    assert "overall accuracy" in printed.out


def test_barebones_trains_and_writes_nothing(run):
    printed, written = run("--trainer.barebones", "true")
    assert not [n for n in written if n.endswith((".ckpt", "config.yaml", ".csv"))]
    assert "network " not in printed.out
    assert "epoch  1/1:" in printed.out
