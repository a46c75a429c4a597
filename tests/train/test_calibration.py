"""The temperature that a training leaves in its checkpoints."""

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging

from sharedmlp.inference import load_trained
from sharedmlp.reports.calibration import fit_temperature
from sharedmlp.train import ClassificationTask
from sharedmlp.train.calibration import describe_temperature
from tests.train.tiny import ArrayDataModule, make_task, make_trainer


def read(path):
    return torch.load(path, weights_only=True)  # noqa: TID251 - plain values


class SaveAt(pl.Callback):
    """Saves a checkpoint after each validation, and one within the last epoch."""

    def __init__(self, folder):
        self.folder = folder

    def on_validation_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            trainer.save_checkpoint(self.folder / f"{trainer.current_epoch}.ckpt")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.current_epoch == 1 and batch_idx == 0:
            trainer.save_checkpoint(self.folder / "within.ckpt")


def fit(folder, *callbacks):
    data = ArrayDataModule(train=(20, 20, 20), val_fraction=0.4, batch_size=8)
    trainer = make_trainer(max_epochs=2, callbacks=[*callbacks, SaveAt(folder)])
    trainer.fit(make_task(learning_rate=0.0003), data)
    return data


@pytest.mark.parametrize("averaged", [False, True])
def test_a_checkpoint_has_the_temperature_of_its_own_weights(tmp_path, averaged):
    callbacks = [EMAWeightAveraging(decay=0.5)] if averaged else []
    batch = fit(tmp_path, *callbacks).datasets["val"].__getitems__(range(24))
    found = []
    for epoch in (0, 1):
        model = load_trained(tmp_path / f"{epoch}.ckpt")
        with torch.no_grad():
            logits = model(batch["points"])
        expected = fit_temperature(logits, batch["label"])
        assert model.metadata["temperature"] == pytest.approx(expected, rel=1e-3)
        right = (logits.argmax(1) == batch["label"]).double().mean()
        assert model.metadata["validation"]["accuracy"] == pytest.approx(float(right))
        assert model.metadata["validation"]["clouds"] == 24
        assert model.metadata["trained_on"] == {"clouds": 36}
        found.append(expected)
    assert found[0] != pytest.approx(found[1], rel=1e-2)
    # The weights in the middle of an epoch were not validated.
    assert load_trained(tmp_path / "within.ckpt").metadata.keys() == {
        "class_names",
        "num_points",
        "up_axis",
        "trained_on",
    }


def test_without_validation_nothing_is_said(tmp_path):
    trainer = make_trainer(max_epochs=1, limit_val_batches=0)
    trainer.fit(make_task(), ArrayDataModule())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert "temperature" not in read(tmp_path / "a.ckpt")["metadata"]
    assert describe_temperature(tmp_path / "a.ckpt") == {}


def test_the_name_of_the_folder_is_kept_and_no_path(tmp_path):
    data: Any = ArrayDataModule()
    data.root = tmp_path / "deep" / "chairs"
    trainer = make_trainer(max_epochs=1)
    trainer.fit(make_task(), data)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    checkpoint = read(tmp_path / "a.ckpt")
    assert checkpoint["metadata"]["trained_on"] == {"data": "chairs", "clouds": 21}
    ((name, told),) = describe_temperature(tmp_path / "a.ckpt").items()
    assert name == "temperature"
    temperature = checkpoint["metadata"]["temperature"]
    assert told.startswith(f"{temperature:.2f}, fitted on 3 validation clouds: mean confidence ")


def test_a_task_takes_the_temperature_of_its_checkpoint_and_predicts_with_it(tmp_path):
    path = tmp_path / "a.ckpt"
    trainer = make_trainer(max_epochs=1)
    trainer.fit(make_task(), ArrayDataModule())
    trainer.save_checkpoint(path)
    checkpoint = read(path)
    checkpoint["metadata"]["temperature"] = 3.0
    torch.save(checkpoint, path)
    task = ClassificationTask.load_from_checkpoint(path, weights_only=True)
    assert task.model.metadata["temperature"] == 3.0
    data = ArrayDataModule(batch_size=16)
    (found,) = make_trainer().predict(task, data)
    points = data.datasets["test"].__getitems__(range(11))["points"]
    with torch.no_grad():
        expected = (task.eval()(points) / 3).softmax(1)
    torch.testing.assert_close(found["probabilities"], expected)
    del checkpoint["metadata"]  # as of an older version
    torch.save(checkpoint, path)
    task = ClassificationTask.load_from_checkpoint(path, weights_only=True)
    assert "temperature" not in task.model.metadata


@pytest.mark.parametrize("axis", ["z", "y"])
def test_turns_are_about_the_up_axis_of_the_data(axis, monkeypatch):
    seen = []
    task = make_task().eval()
    task.rotations = 4
    monkeypatch.setattr(
        ClassificationTask,
        "forward",
        lambda task, points: (seen.append(points), points.new_zeros(len(points), 3))[1],
    )
    (found,) = make_trainer().predict(task, ArrayDataModule(up_axis=axis, test=(2, 1, 1)))
    assert found["rotation"].tolist() == [0] * 4
    points, up = torch.cat(seen).unflatten(0, (4, 4)), "xyz".index(axis)
    assert torch.equal(points[..., up], points[:1, ..., up].expand(4, -1, -1))
    assert not torch.allclose(points[1], points[0])
