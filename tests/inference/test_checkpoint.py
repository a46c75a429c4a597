"""From a checkpoint to a network that knows what it was trained on."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sharedmlp.data import normalize_points
from sharedmlp.inference.checkpoint import load_trained
from sharedmlp.models.saved import read_metadata
from tests.tolerances import assert_close
from tests.train.tiny import CLASSES, ArrayDataModule, make_task, make_trainer

FROM_TRAINING = {"trained_on", "temperature", "validation"}


class NormalizedDataModule(ArrayDataModule):
    """The same clouds, centered and scaled."""

    def open_split(self, split):
        pool = super().open_split(split)
        pool.points[...] = normalize_points(pool.points)
        return pool


def fit(path, data, **options):
    task = make_task(**options)
    trainer = make_trainer(max_epochs=1)
    trainer.fit(task, data)
    trainer.save_checkpoint(path)
    return task


def test_the_network_comes_back_ready_to_use_on_any_backend(tmp_path):
    path = tmp_path / "a.ckpt"
    task = fit(path, NormalizedDataModule(num_points=11, up_axis="y"), backend="conv1d")
    model = load_trained(path)
    assert not model.training
    assert model.options["backend"] == "conv1d"
    metadata = dict(model.metadata)
    assert metadata.pop("trained_on") == {"clouds": 21}
    assert metadata.pop("temperature") > 0
    assert metadata.pop("validation").keys() == {"clouds", "accuracy", "confidence"}
    assert metadata == {
        "class_names": list(CLASSES),
        "num_points": 11,
        "up_axis": "y",
        "center": "mean",
        "scale": "unit sphere",
    }
    points = torch.randn(2, 7, 3)
    with torch.no_grad():
        expected = task.eval()(points)
        assert_close(model(points), expected, kind="fused")
        other: Any = load_trained(path, backend="conv2d")
        assert isinstance(other.local_mlp.layers[0].linear, nn.Conv2d)
        assert_close(other(points), expected, kind="fused")


def test_what_was_not_seen_is_not_claimed(tmp_path):
    path = tmp_path / "a.ckpt"
    fit(path, ArrayDataModule())  # neither centered nor scaled
    metadata = load_trained(path).metadata
    assert metadata.keys() == {"class_names", "num_points", "up_axis", *FROM_TRAINING}
    checkpoint = torch.load(path, weights_only=True)  # noqa: TID251 - plain values
    del (
        checkpoint["preprocessing"],
        checkpoint["metadata"],
    )  # of a data module of one's own, or of an older version
    torch.save(checkpoint, path)
    assert load_trained(path).metadata == {"class_names": list(CLASSES)}


def test_loaders_of_ones_own_know_nothing(tmp_path):
    data = ArrayDataModule()
    data.setup("fit")
    task = make_task()
    trainer = make_trainer(max_epochs=1)
    trainer.fit(task, data.val_dataloader(), data.val_dataloader())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    metadata = load_trained(tmp_path / "a.ckpt").metadata
    assert metadata.keys() == {"class_names", "temperature", "validation"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"temperature": 0.0}, "temperature of a network is a positive number, got 0.0"),
        ({"temperature": float("nan")}, "temperature of a network is a positive number, got nan"),
        ({"temperature": "1"}, "temperature of a network is a positive number, got '1'"),
        ({"validation": {"clouds": 3, "accuracy": 2.0, "confidence": 0.5}}, "from 0 to 1, got"),
        ({"validation": {"clouds": 3}}, "from 0 to 1, got"),
        ({"validation": 0.5}, "from 0 to 1, got"),
    ],
)
def test_metadata_that_cannot_be_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        read_metadata(wrong)


def test_another_file_is_an_error_that_says_what_was_expected(tmp_path):
    path = tmp_path / "a.ckpt"
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*a\.ckpt: .*sharedmlp fit"):
        load_trained(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="cannot be read as a checkpoint: expected one"):
        load_trained(path)
    np.save(tmp_path / "b.npy", np.zeros(3))
    with pytest.raises(ValueError, match="cannot be read as a checkpoint: expected one"):
        load_trained(tmp_path / "b.npy")
    torch.save({"state_dict": {}}, path)
    with pytest.raises(ValueError, match="is no checkpoint of a training with this package"):
        load_trained(path)
