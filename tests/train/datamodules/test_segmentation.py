"""Data modules of labelled points: batches, splits, augmentation."""

from typing import Any, cast

import numpy as np
import pytest
import torch

from sharedmlp.data import DataError, PointCloudStore, write_shapes
from sharedmlp.train.datamodules.part_meshes import PartShapesDataModule
from sharedmlp.train.datamodules.segmentation import SegmentationDataModule


class Tiny(SegmentationDataModule):
    """Six scenes of four blocks, whose points have colors; the first is 100 times the label."""

    _names = tuple(f"scene{i}.ply#{k}" for i in range(6) for k in range(4))

    def __init__(self, features=("colors",), **options):
        super().__init__(".", 32, num_points=16, batch_size=4, **options)
        self._features = features

    @property
    def class_names(self):
        return ["wall", "floor"]

    def open_split(self, split):
        labels = np.random.default_rng(0).integers(-1, 2, (24, 32))
        points = np.random.default_rng(1).random((24, 32, 6), dtype=np.float32)
        points[..., 2] = 100 * labels
        return PointCloudStore(points, labels, self._names, ("wall", "floor"))


def test_blocks_of_a_scene_stay_together():
    data = Tiny(val_fraction=0.3)
    data.setup("fit")
    train, val = (
        {data._names[i].split("#")[0] for i in data.datasets[split].indices}
        for split in ("train", "val")
    )
    assert train.isdisjoint(val)
    assert len(val) == 2
    assert len(data.datasets["val"]) == 8


class Trainer:
    """What the hook that augments asks of a trainer."""

    overfit_batches, current_epoch = 0, 3

    def __init__(self, testing):
        self.training, self.testing = not testing, testing


def test_training_augments_points_with_their_labels():
    data = Tiny(point_dropout=0.9, color_drop=1.0)
    data.setup("fit")
    data.trainer = cast("Any", Trainer(testing=False))
    batch = data.datasets["train"].__getitems__([0, 5])
    augmented = data.on_after_batch_transfer(batch, 0)
    assert not torch.equal(augmented["label"], batch["label"])
    assert torch.equal((augmented["points"][..., 2] / 100).round().long(), augmented["label"])
    assert not augmented["points"][..., 3:].any()
    assert augmented["index"] is batch["index"]


def test_a_test_votes_on_copies_of_the_same_points():
    data = Tiny(test_votes=3)
    data.setup("test")
    data.trainer = cast("Any", Trainer(testing=True))
    batch = data.datasets["test"].__getitems__([0, 5])
    copies = data.on_after_batch_transfer(batch, 0)["copies"]
    assert len(copies) == 2
    for copy in copies:
        assert torch.equal(copy[..., 3:], batch["points"][..., 3:])
        factors = (copy / batch["points"])[..., :2]  # of x and y, which are never 0 here
        assert torch.allclose(factors, factors[:, :1].expand_as(factors))
        assert not torch.allclose(factors, torch.ones(()))


def test_colors_can_be_changed_if_there_are_some():
    data = Tiny(features=(), color_jitter=0.1)
    with pytest.raises(DataError, match="need points with colors, got the features"):
        _ = data.augmentation
    with pytest.raises(ValueError, match="color_drop from 0 to 1"):
        Tiny(color_drop=2.0)


def test_the_generated_shapes_know_their_parts(tmp_path):
    write_shapes(tmp_path / "shapes", train_per_class=4, test_per_class=1, parts=True)
    data = PartShapesDataModule(str(tmp_path / "shapes"), pool_size=64, num_points=32, batch_size=9)
    names, categories = data.class_names, data.category_names
    assert [names[labels[0]].split(" ")[0] for labels in data.parts_of_category] == categories
    data.setup("fit")
    assert len(data.datasets["val"]) == len(categories)  # one of each
    batch = next(iter(data.val_dataloader()))
    assert batch["points"].shape == (9, 32, 3)
    assert batch["label"].shape == (9, 32)
    for labels, category in zip(batch["label"], batch["category"], strict=True):
        assert set(labels.tolist()) <= set(data.parts_of_category[category])
    data.setup("test")
    assert len(data.datasets["test"]) == len(categories)
