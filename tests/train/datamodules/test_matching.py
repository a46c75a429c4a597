"""What a checkpoint says of its clouds, when it is evaluated on others."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sharedmlp.data import DataError, normalize_points, turn_up_axis
from sharedmlp.train import ClassificationTask
from tests.train.tiny import CLASSES, ArrayDataModule, make_task, make_trainer


class OtherClouds(ArrayDataModule):
    """The clouds of `ArrayDataModule`, centered and scaled or moved and with another axis up."""

    def __init__(self, normalized=True, features=(), has_val=False, **options):
        super().__init__(pool_size=16, **options)
        self.normalized, self.own_features, self.has_val = normalized, features, has_val

    @property
    def features(self):
        return self.own_features

    def has_split(self, split):
        return self.has_val or split != "val"

    def open_split(self, split):
        pool = super().open_split("test" if split == "val" else split)
        points = normalize_points(pool.points)
        if self.up_axis != "z":
            points = turn_up_axis(points, "z", self.up_axis).astype(np.float32)
        if not self.normalized:
            points = 3 * points + 5
        if self.features:
            points = np.concatenate([points, points], axis=2)
        return replace(pool, points=points)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save(tmp_path_factory.mktemp("trained") / "a.ckpt", OtherClouds())


def save(path, data, **options):
    trainer = make_trainer(max_epochs=1)
    trainer.fit(make_task(in_channels=data.in_channels, **options), data)
    trainer.save_checkpoint(path)
    return str(path)


@pytest.fixture
def seen(monkeypatch):
    """The clouds that a network sees."""
    clouds: list[torch.Tensor] = []
    forward = ClassificationTask.forward
    monkeypatch.setattr(
        ClassificationTask,
        "forward",
        lambda task, points: (clouds.extend(points), forward(task, points))[1],
    )
    return clouds


def evaluate(command, data, checkpoint):
    run = getattr(make_trainer(), command)
    quiet = {} if command == "predict" else {"verbose": False}
    run(make_task(in_channels=data.in_channels), data, ckpt_path=checkpoint, **quiet)


@pytest.mark.parametrize("command", ["test", "validate", "predict"])
def test_clouds_become_those_of_the_training_and_this_is_said(checkpoint, seen, capsys, command):
    evaluate(command, OtherClouds(), checkpoint)
    expected = torch.stack(seen)
    assert "the clouds" not in capsys.readouterr().err
    for options, told in (
        ({"up_axis": "y"}, ["the clouds have y up and the network was trained with z up"]),
        ({"normalized": False}, ["clouds are not centered and scaled as those that the network"]),
        ({"up_axis": "x", "normalized": False}, ["have x up", "are not centered"]),
    ):
        seen.clear()
        data = OtherClouds(**options)
        evaluate(command, data, checkpoint)
        torch.testing.assert_close(torch.stack(seen), expected, rtol=0, atol=1e-5)
        err = capsys.readouterr().err
        assert all(text in err for text in told)
        assert len(err.splitlines()) == len(told)
        assert data.preprocessing["up_axis"] == "z"


def test_all_copies_of_a_vote_are_turned(checkpoint, monkeypatch):
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(
        ClassificationTask,
        "test_step",
        lambda task, batch, batch_idx: seen.append(torch.stack(batch["copies"])),
    )
    for data in (OtherClouds(test_votes=3), OtherClouds(test_votes=3, up_axis="y")):
        make_trainer().test(make_task(), data, ckpt_path=checkpoint, verbose=False)
    first, second = (torch.cat(some, dim=1) for some in (seen[:3], seen[3:]))
    torch.testing.assert_close(first, second, rtol=0, atol=1e-5)


def test_a_network_of_clouds_as_they_are_warns_of_others(tmp_path, capsys):
    checkpoint = save(tmp_path / "b.ckpt", OtherClouds(normalized=False))
    evaluate("test", OtherClouds(normalized=False), checkpoint)
    assert "the network was trained on" not in capsys.readouterr().err
    evaluate("test", OtherClouds(), checkpoint)
    assert "are centered and scaled, and those that the network was trained on were not" in (
        capsys.readouterr().err
    )


def test_other_features_are_refused(tmp_path, checkpoint):
    with pytest.raises(DataError, match="takes points of 3 channels, and the data gives 6"):
        evaluate("test", OtherClouds(features=("normals",)), checkpoint)
    checkpoint = save(tmp_path / "c.ckpt", OtherClouds(features=("colors",)))
    evaluate("test", OtherClouds(features=("colors",)), checkpoint)
    with pytest.raises(DataError, match=r"trained on the features \['colors'\], and the data give"):
        evaluate("test", OtherClouds(features=("normals",)), checkpoint)


def test_other_orders_of_classes_are_refused(checkpoint):
    task = make_task(class_names=[CLASSES[0], CLASSES[2], CLASSES[1]])
    with pytest.raises(DataError, match="3 classes in another order: the label 1 was 'capsule' an"):
        make_trainer().test(task, OtherClouds(), ckpt_path=checkpoint, verbose=False)


@pytest.mark.parametrize("change", [{"up_axis": "y"}, {"normalized": False}])
def test_a_training_goes_on_with_data_like_before(checkpoint, change):
    trainer = make_trainer(max_epochs=2)
    with pytest.raises(DataError, match="a training goes on with data like before"):
        trainer.fit(make_task(), OtherClouds(**change), ckpt_path=checkpoint)
    make_trainer(max_epochs=2).fit(make_task(), OtherClouds(), ckpt_path=checkpoint)


def test_a_validation_split_is_used_as_it_is():
    data = OtherClouds(has_val=True)
    data.setup("fit")
    assert len(data.datasets["val"]) == 11
    assert len(data.datasets["train"]) == 24
    assert data.opened == ["train", "test"]  # "val" has the clouds of the test here
