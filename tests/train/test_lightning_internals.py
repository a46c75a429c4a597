"""What `train/lightning_internals.py` relies on, by name and by meaning.

A new version of Lightning that changes one of these fails here, and says which.
"""

import inspect
import os
import re
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning import seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import LightningCLI
from pytorch_lightning.plugins.io import TorchCheckpointIO

from sharedmlp.train import AtomicCheckpointIO, lightning_internals, logger_internals
from sharedmlp.train.lightning_internals import (
    add_callback,
    attached_datamodule,
    attached_trainer,
    complete_epoch,
    convert_to_precision,
    decide_together,
    is_fitting,
    keep_best_checkpoint,
    last_checkpoint,
    next_epoch,
    read_hyperparameters,
    remove_callbacks,
    replace_checkpoint_io,
    run_seed,
    trained_batches,
    unrepeated_sampler,
    was_interrupted,
)
from tests.environment import own_environment
from tests.train.tiny import CLASSES, ArrayDataModule, make_task, make_trainer

ROOT = Path(__file__).parents[2]
# 4 clouds of each class to train on: an epoch is 3 batches of 4.
DATA = {"train": (5, 5, 5), "val_fraction": 0.2}


class Watch(pl.Callback):
    """Collects what the functions return in the middle of a fit."""

    def __init__(self):
        self.seen, self.validated = [], []

    def on_train_batch_end(self, trainer, task, outputs, batch, batch_idx):
        self.seen.append((next_epoch(trainer), trained_batches(trainer), is_fitting(trainer)))

    def on_validation_start(self, trainer, task):
        self.validated.append(is_fitting(trainer))


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A fit of two epochs with checkpoints after every step, and what was seen in it."""
    with pytest.MonkeyPatch.context() as patch:
        own_environment(patch)
        folder, watch = tmp_path_factory.mktemp("fitted"), Watch()
        steps = ModelCheckpoint(folder, filename="{step}", save_top_k=-1, every_n_train_steps=1)
        best = ModelCheckpoint(folder, filename="best", monitor="val/loss")
        trainer = make_trainer(
            max_epochs=2, enable_checkpointing=True, callbacks=[watch, steps, best]
        )
        trainer.fit(make_task(), ArrayDataModule(**DATA))
        return trainer, watch, folder


def load(path):
    return torch.load(path, weights_only=True)  # noqa: TID251 - plain values


def test_the_versions_that_are_tested_are_those_that_are_allowed():
    allowed = re.search(
        r'"pytorch-lightning>=([\d.]+),<([\d.]+)"', (ROOT / "pyproject.toml").read_text()
    )
    assert allowed is not None
    lowest, limit = allowed.groups()
    for module in (lightning_internals, logger_internals):
        assert f"pytorch-lightning {lowest}" in str(module.__doc__)
    present = pl.__version__  # type: ignore[attr-defined]  # not in its list of names
    numbers = [[int(n) for n in v.split(".")[:2]] for v in (lowest, present, limit)]
    assert numbers[0] <= numbers[1] < numbers[2]


def test_the_progress_of_a_fit(fitted):
    _, watch, _ = fitted
    expected = [(epoch, batches, True) for epoch in (0, 1) for batches in (1, 2, 3)]
    assert watch.seen == expected
    assert all(watch.validated)


def test_a_fit_is_not_a_validation():
    watch, trainer = Watch(), make_trainer()
    trainer.callbacks.append(watch)
    trainer.validate(make_task(), ArrayDataModule(**DATA), verbose=False)
    assert watch.validated == [False]
    assert not was_interrupted(trainer)


def test_an_interrupt_is_remembered():
    class Strike(pl.Callback):
        def on_validation_start(self, trainer, task):
            raise KeyboardInterrupt

    trainer = make_trainer(callbacks=[Strike()])
    with pytest.raises(SystemExit):
        trainer.validate(make_task(), ArrayDataModule(**DATA), verbose=False)
    assert was_interrupted(trainer)


def test_the_trainer_of_a_module(fitted):
    task = make_task()
    assert attached_trainer(task) is None
    assert attached_trainer(fitted[0].lightning_module) is fitted[0]


def test_the_data_module_of_a_trainer(fitted):
    assert isinstance(attached_datamodule(fitted[0]), ArrayDataModule)
    assert attached_datamodule(make_trainer()) is None


def test_the_seed_of_the_run(monkeypatch):
    own_environment(monkeypatch)
    seed_everything(17, verbose=False)
    assert run_seed() == 17
    del os.environ["PL_GLOBAL_SEED"]
    assert run_seed() == 0


def test_the_saved_progress_in_mid_epoch_and_after_the_last_step(fitted):
    middle, end = (load(fitted[2] / f"step={step}.ckpt") for step in (2, 3))
    for checkpoint, is_last, ready in ((middle, False, 2), (end, True, 3)):
        loop = checkpoint["loops"]["fit_loop"]
        batches = loop["epoch_loop.batch_progress"]
        assert batches["is_last_batch"] is is_last
        assert batches["current"]["ready"] == batches["total"]["ready"] == ready
        assert batches["total"].keys() >= {"ready", "completed"}
        assert loop["epoch_progress"].keys() >= {"total", "current"}
    before = middle["loops"]["fit_loop"]["epoch_progress"]["current"].copy()
    complete_epoch(middle)
    assert middle["loops"]["fit_loop"]["epoch_progress"]["current"] == before
    complete_epoch(end)
    loop = end["loops"]["fit_loop"]
    assert set(loop["epoch_progress"]["current"].values()) == {1}
    assert set(loop["epoch_loop.batch_progress"]["current"].values()) == {0}
    complete_epoch({})  # of weights alone


def test_the_saved_state_of_the_best_checkpoint(fitted, tmp_path):
    trainer, _, folder = fitted
    best = trainer.checkpoint_callbacks[1]
    checkpoint = load(folder / "step=6.ckpt")
    state = checkpoint["callbacks"][best.state_key]
    assert Path(state["best_model_path"]).parent == folder
    assert state["dirpath"] == str(folder)
    resumed = make_trainer(
        enable_checkpointing=True,
        callbacks=[ModelCheckpoint(tmp_path, filename="best", monitor="val/loss")],
    )
    keep_best_checkpoint(checkpoint, resumed)
    assert state["dirpath"] == str(tmp_path)
    # As before the first checkpoint; Lightning would warn that it is forgotten.
    state |= {"dirpath": "elsewhere", "best_model_path": ""}
    keep_best_checkpoint(checkpoint, resumed)
    assert state["dirpath"] == str(tmp_path)
    state |= {"dirpath": "elsewhere", "best_model_path": "gone.ckpt"}
    keep_best_checkpoint(checkpoint, resumed)
    assert state["dirpath"] == "elsewhere"


def test_precision_comes_from_the_plugin():
    task, trainer = make_task(), make_trainer(precision="64-true")
    task.trainer = trainer
    convert_to_precision(task)
    assert {p.dtype for p in task.parameters()} == {torch.float64}


def test_callbacks_and_checkpoint_io_of_a_trainer_can_be_changed():
    trainer, watch = make_trainer(), Watch()
    before = list(trainer.callbacks)
    add_callback(trainer, watch)
    assert trainer.callbacks == [*before, watch]
    remove_callbacks(trainer, Watch)
    assert trainer.callbacks == before
    assert type(trainer.strategy.checkpoint_io) is TorchCheckpointIO
    atomic = AtomicCheckpointIO()
    replace_checkpoint_io(trainer, atomic)
    assert trainer.strategy.checkpoint_io is atomic
    replace_checkpoint_io(trainer, AtomicCheckpointIO())  # it is not the default any more
    assert trainer.strategy.checkpoint_io is atomic


def test_one_process_decides_for_itself():
    assert decide_together(make_trainer(), True) is True
    assert decide_together(make_trainer(), False) is False


def test_the_last_checkpoint_is_that_of_the_callback_that_monitors_nothing(tmp_path):
    callbacks = [
        ModelCheckpoint(tmp_path, filename="best", monitor="a"),
        ModelCheckpoint(tmp_path, filename="last"),
    ]
    trainer = make_trainer(enable_checkpointing=True, callbacks=callbacks)
    assert last_checkpoint(trainer) == tmp_path / "last.ckpt"
    assert last_checkpoint(make_trainer()) is None


def test_items_are_not_repeated_among_processes():
    items: Any = range(7)
    shares = [list(unrepeated_sampler(items, 3, rank)) for rank in range(3)]
    assert shares == [[0, 3, 6], [1, 4], [2, 5]]


def test_the_command_line_has_the_two_methods_that_are_extended():
    assert list(inspect.signature(LightningCLI._parse_ckpt_path).parameters) == ["self"]
    parameters = inspect.signature(LightningCLI._prepare_subcommand_parser).parameters
    assert list(parameters) == ["self", "klass", "subcommand", "kwargs"]
    source = inspect.getsource(LightningCLI._parse_ckpt_path)
    for key in ("hyper_parameters", "_class_path", "_instantiator"):
        assert key in source


def test_hyperparameters_come_without_lightnings_own(tmp_path):
    values = {"class_names": list(CLASSES), "dropout": 0.5}
    own = {"_class_path": "a.Task", "_instantiator": "b.make"}
    version = {"pytorch-lightning_version": "2.6.6"}
    torch.save({"hyper_parameters": {**values, **own}, **version}, tmp_path / "a.ckpt")
    assert read_hyperparameters(tmp_path / "a.ckpt") == ("a.Task", values)
    torch.save({"state_dict": {}, **version}, tmp_path / "b.ckpt")
    assert read_hyperparameters(tmp_path / "b.ckpt") == (None, {})
    torch.save({"state_dict": {}}, tmp_path / "c.pth")
    with pytest.raises(ValueError, match="is no checkpoint of Lightning"):
        read_hyperparameters(tmp_path / "c.pth")
