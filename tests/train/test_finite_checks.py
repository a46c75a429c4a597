"""NaN and infinity end a training with a reason, and do not reach its checkpoints."""

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from sharedmlp.__main__ import main
from tests.cli.test_lightning import CONFIG
from tests.environment import own_environment
from tests.train.tiny import ArrayDataModule, make_task, make_trainer, write_tree


class SpoiltDataModule(ArrayDataModule):
    """One coordinate of one cloud is not a number."""

    def __init__(self, value):
        super().__init__(train=(5, 5, 5), val_fraction=0.2, rotate=False)
        self.value = value

    def open_split(self, split):
        pool = super().open_split(split)
        pool.points[3, :, 1] = self.value
        return pool


class After(pl.Callback):
    """Does something to the task behind a step."""

    def __init__(self, step, change):
        self.step, self.change = step, change

    def on_train_batch_end(self, trainer, task, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            self.change(task)


def fit(folder, data, *callbacks, **options):
    last = ModelCheckpoint(folder, filename="last", enable_version_counter=False)
    trainer = make_trainer(max_epochs=4, enable_checkpointing=True, callbacks=[*callbacks, last])
    task = make_task(**options)
    with pytest.raises(FloatingPointError) as error:
        trainer.fit(task, data)
    return str(error.value), task


def assert_good(path, step):
    checkpoint = torch.load(path, weights_only=True)  # noqa: TID251 - plain values
    assert checkpoint["global_step"] == step
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_cloud_that_is_not_finite_is_named_before_a_step_is_made(tmp_path, value):
    message, task = fit(tmp_path, SpoiltDataModule(value))
    assert "the loss is nan in epoch 1, step " in message
    assert "the points of the clouds [3] of the data are not finite" in message
    assert all(parameter.isfinite().all() for parameter in task.parameters())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_training_that_diverges_keeps_its_last_good_checkpoint(tmp_path, value):
    def spoil(task):
        task.model.head.layers[0].linear.weight.data[0, 0] = value

    data = ArrayDataModule(train=(5, 5, 5), val_fraction=0.2)
    message, _ = fit(tmp_path, data, After(4, spoil))
    assert "in epoch 2, step 2; the clouds are finite, so the training has diverged" in message
    assert "lower --model.learning_rate" in message
    assert "--ckpt_path" in message
    assert_good(tmp_path / "last.ckpt", step=3)


@pytest.mark.parametrize("part", ["weight", "running_var"])
def test_what_is_not_finite_is_not_saved(tmp_path, part):
    """Behind the last step of an epoch no loss says so any more."""

    def spoil(task):
        layer = task.model.local_mlp.layers[0]
        (layer.norm.running_var if part == "running_var" else layer.linear.weight.data)[0] = (
            torch.nan
        )

    data = ArrayDataModule(train=(5, 5, 5), val_fraction=0.2)
    message, _ = fit(tmp_path, data, After(6, spoil))
    assert f"{part} is not finite" in message
    assert "is not saved" in message
    assert_good(tmp_path / "last.ckpt", step=3)


def test_the_command_line_says_it_in_a_line(tmp_path, monkeypatch):
    write_tree(tmp_path / "tree", train=6, test=3)
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    own_environment(monkeypatch)
    rate = ["--model.optimizer", "sgd", "--model.learning_rate", "1e38"]
    with pytest.raises(SystemExit) as error:
        main(["fit", "--config", "tiny.yaml", *rate])
    assert str(error.value.code).startswith("sharedmlp: error: the loss is nan in epoch 1, step 2")
