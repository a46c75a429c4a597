"""A training that a signal ends, and the one that goes on from what it leaves."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning import seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint

from sharedmlp.__main__ import main
from sharedmlp.train import Interrupted, StopOnSignal
from sharedmlp.train.epoch_table import read_rows
from tests.cli.test_lightning import CONFIG
from tests.environment import own_environment
from tests.train.tiny import ArrayDataModule, make_task, make_trainer, write_tree


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch):
    own_environment(monkeypatch)


class Raise(pl.Callback):
    """Raises a signal, or two, in an epoch (from 0), at a batch of the training or validation."""

    def __init__(self, hook, epoch, batch, signum=signal.SIGINT, times=1):
        def strike(trainer, task, given, batch_idx, dataloader_idx=0):
            if (trainer.current_epoch, batch_idx) == (epoch, batch) and not trainer.sanity_checking:
                for _ in range(times):
                    signal.raise_signal(signum)

        setattr(self, hook, strike)


class Validated(pl.Callback):
    """Remembers the epochs that were validated to the end."""

    def __init__(self):
        self.epochs = []

    def on_validation_end(self, trainer, task):
        if not trainer.sanity_checking:
            self.epochs.append(trainer.current_epoch)


def fit(folder, *callbacks, ckpt_path=None, num_workers=0, **options):
    """Trains for three epochs of 3 batches."""
    seed_everything(3, verbose=False)
    last = ModelCheckpoint(folder, filename="last", enable_version_counter=False)
    trainer = make_trainer(
        max_epochs=3,
        enable_checkpointing=True,
        callbacks=[StopOnSignal(), *callbacks, last],
        **options,
    )
    task = make_task(dropout=0.5)
    data = ArrayDataModule(train=(5, 5, 5), val_fraction=0.2, num_workers=num_workers)
    trainer.fit(task, data, ckpt_path=ckpt_path, weights_only=True)
    return trainer, task


def load(path):
    return torch.load(path, weights_only=True)  # noqa: TID251 - plain values


def assert_equal_ends(first, second):
    """Weights and optimizer state are the same, bit for bit."""
    first, second = load(first), load(second)
    assert first["global_step"] == second["global_step"]
    for name, value in first["state_dict"].items():
        assert torch.equal(value, second["state_dict"][name]), name
    states = [c["optimizer_states"][0]["state"] for c in (first, second)]
    for key, state in states[0].items():
        for name, value in state.items():
            assert torch.equal(value, states[1][key][name]), (key, name)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    fit(folder)
    return folder / "last.ckpt"


@pytest.mark.parametrize(
    ("hook", "batch", "step"),
    [
        ("on_train_batch_start", 0, 4),
        ("on_train_batch_start", 1, 5),
        ("on_train_batch_start", 2, 6),  # the last one of the epoch
        ("on_validation_batch_start", 0, 6),
    ],
)
def test_an_interrupted_training_goes_on_to_the_same_end(
    whole, tmp_path, hook, batch, step, capsys
):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    validated = Validated()
    with pytest.raises(SystemExit) as ended:
        fit(tmp_path / "a", Raise(hook, 1, batch), validated)
    assert isinstance(ended.value.__context__, Interrupted)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    last = tmp_path / "a" / "last.ckpt"
    assert load(last)["global_step"] == step
    assert f"--ckpt_path {last}" in capsys.readouterr().err
    fit(tmp_path / "b", validated, ckpt_path=last)
    assert validated.epochs == [0, 1, 2]
    assert_equal_ends(tmp_path / "b" / "last.ckpt", whole)


def test_half_a_gradient_is_completed_first(tmp_path):
    strike = Raise("on_train_batch_start", 1, 0)
    with pytest.raises(SystemExit):
        fit(tmp_path / "a", strike, accumulate_grad_batches=2)
    assert load(tmp_path / "a" / "last.ckpt")["global_step"] == 3
    fit(tmp_path / "whole", accumulate_grad_batches=2)
    fit(tmp_path / "b", ckpt_path=tmp_path / "a" / "last.ckpt", accumulate_grad_batches=2)
    assert_equal_ends(tmp_path / "b" / "last.ckpt", tmp_path / "whole" / "last.ckpt")


def test_a_second_signal_ends_at_once_with_the_checkpoint_of_before(tmp_path):
    with pytest.raises(SystemExit) as ended:
        fit(tmp_path, Raise("on_train_batch_start", 1, 1, times=2))
    assert not isinstance(ended.value.__context__, Interrupted)
    assert isinstance(ended.value.__context__, KeyboardInterrupt)
    assert load(tmp_path / "last.ckpt")["global_step"] == 3


def test_sigterm_stops_the_same_way(tmp_path):
    with pytest.raises(SystemExit) as ended:
        fit(tmp_path, Raise("on_train_batch_start", 1, 1, signal.SIGTERM))
    context: Any = ended.value.__context__
    assert context.signum == signal.SIGTERM
    assert load(tmp_path / "last.ckpt")["global_step"] == 5


def test_the_processes_that_load_live_on(tmp_path):
    """As a terminal sends Ctrl-C to all of them."""

    class Strike(pl.Callback):
        def on_train_batch_start(self, trainer, task, batch, batch_idx):
            for worker in multiprocessing.active_children():
                assert worker.pid is not None
                struck.add(worker.pid)
                os.kill(worker.pid, signal.SIGINT)

    struck: set[int] = set()
    fit(tmp_path, Strike(), num_workers=1)
    assert struck


COMMAND = ["fit", "--config", "tiny.yaml", "--trainer.max_epochs", "6"]


@pytest.fixture
def project(tmp_path, monkeypatch):
    write_tree(tmp_path / "tree", train=6, test=3)
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs" / "tiny"


def test_the_command_exits_with_130_and_goes_on_to_the_same_test(project, monkeypatch):
    command = [*COMMAND, "--trainer.max_epochs", "3"]
    main(command)
    with monkeypatch.context() as patch:
        strike = staticmethod(Raise("on_train_batch_start", 2, 1).on_train_batch_start)
        patch.setattr(StopOnSignal, "on_train_batch_start", strike)
        with pytest.raises(SystemExit) as ended:
            main(command)
    assert ended.value.code == 130
    assert [row["epoch"] for row in read_rows(project / "version_1" / "metrics.csv")] == [0, 1]
    assert (project / "version_1" / "learning_curves.png").is_file()
    last = "checkpoints/last.ckpt"
    main([*command, "--ckpt_path", str(project / "version_1" / last)])
    assert_equal_ends(project / "version_0" / last, project / "version_2" / last)
    first, second = ((project / f"version_{n}" / "test_classes.csv").read_text() for n in (0, 2))
    assert first == second
    first, second = (read_rows(project / f"version_{n}" / "metrics.csv") for n in (0, 2))
    assert [row["epoch"] for row in second] == [0, 1, 2]
    assert first[:2] == second[:2]


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 1])
def test_ctrl_c_in_a_terminal(project, num_workers):
    """The signal goes to the whole process group, the processes that load included."""
    command = [sys.executable, "-m", "sharedmlp", *COMMAND, "--data.num_workers", str(num_workers)]
    subprocess.run(command, check=True, capture_output=True)
    for version, (line, pause) in enumerate([("epoch  1", 0.0), ("epoch  3", 0.15)], start=1):
        resume = ["--ckpt_path", str(project / f"version_{version - 1}" / "checkpoints/last.ckpt")]
        running = subprocess.Popen(
            [*command, *(resume if version > 1 else [])],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert running.stdout is not None
        for printed in running.stdout:
            if printed.startswith(line):
                break
        time.sleep(pause)
        os.killpg(running.pid, signal.SIGINT)
        _, errors = running.communicate()
        assert running.returncode == 130, errors
        assert "Traceback" not in errors
        assert "to resume, run the same command with --ckpt_path runs/tiny" in errors
    last = [project / f"version_{n}" / "checkpoints" / "last.ckpt" for n in (0, 2, 3)]
    subprocess.run([*command, "--ckpt_path", str(last[1])], check=True, capture_output=True)
    assert_equal_ends(last[0], last[2])
    assert Path(last[2]).is_file()
