"""Clouds whose points have labels: in a store, in its cache and in batches."""

from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch

from sharedmlp.data import (
    IGNORED_LABEL,
    PointCloudDataset,
    PointCloudStore,
    RandomColorDrop,
    RandomColorJitter,
    RandomFlip,
    RandomPointDropout,
    RandomRotation,
    RandomScale,
)
from sharedmlp.data.cache import CacheEntry, cache_key, open_cache, write_cache
from sharedmlp.data.transforms import Compose
from sharedmlp.train.datamodules.augmentation import augment_batch

CLASSES = ("a", "b", "c")


def make_store(clouds=5, points=20, **changes):
    """The x of each point is its label."""
    labels = np.random.default_rng(0).integers(-1, 3, (clouds, points))
    values = np.random.default_rng(1).random((clouds, points, 3)).astype(np.float32)
    values[..., 0] = labels
    fields = {"labels": labels, "categories": np.arange(clouds) % 2, **changes}
    return PointCloudStore(points=values, names=("",) * clouds, class_names=CLASSES, **fields)


@pytest.mark.parametrize("resample", [False, True])
@pytest.mark.parametrize("num_points", [7, 20])
def test_each_point_drawn_comes_with_its_label(resample, num_points):
    dataset = PointCloudDataset(make_store(), num_points=num_points, resample=resample)
    batch = dataset.__getitems__([3, 1])
    assert batch["label"].dtype == torch.int64
    assert batch["points"].shape == (2, num_points, 3)
    assert torch.equal(batch["points"][..., 0].long(), batch["label"])
    assert batch["category"].tolist() == [1, 1]
    assert dataset[3]["label"].shape == (num_points,)
    if resample:
        assert torch.equal(dataset.draw([3, 1], 0), batch["points"])


def test_clouds_without_categories_give_none():
    batch = PointCloudDataset(make_store(categories=None), num_points=3, resample=False)[0]
    assert "category" not in batch


def test_labels_out_of_range_are_refused():
    with pytest.raises(ValueError, match="expected labels from -1 to 2 for 3 classes, got 0 to 3"):
        make_store(labels=np.tile(np.arange(4), (5, 5)))
    with pytest.raises(ValueError, match="one label for each point, got labels of shape"):
        make_store(labels=np.zeros((5, 19), dtype=int))
    with pytest.raises(ValueError, match="one category for each of 5 clouds"):
        make_store(categories=np.arange(4))


def write(folder, labelled=True, category=1):
    store = make_store(3)
    entries = [
        CacheEntry(f"{i}", category, store.points[i], "", store.labels[i] if labelled else None)
        for i in range(3)
    ]
    entries.insert(1, CacheEntry("broken", category, None, "why"))
    return store, write_cache(folder / "train-1", cache_key({}), entries, (20, 3), CLASSES)


def test_a_cache_keeps_labels_and_categories(tmp_path):
    store, opened = write(tmp_path)
    assert isinstance(opened.labels, np.memmap)
    assert np.array_equal(opened.labels, store.labels)
    assert np.array_equal(opened.points, store.points)
    assert opened.categories.tolist() == [1, 1, 1]
    assert opened.failures == ("broken: why",)
    sent = bytes(ForkingPickler.dumps(opened))
    assert len(sent) < store.points.nbytes  # by the names of its files
    assert np.array_equal(ForkingPickler.loads(sent).labels, store.labels)


def test_a_cache_without_categories_has_none(tmp_path):
    assert write(tmp_path, category=-1)[1].categories is None


def test_a_changed_label_means_another_build(tmp_path):
    write(tmp_path)
    path = tmp_path / "train-1" / "labels.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert open_cache(tmp_path / "train-1", cache_key({})) is None


def test_a_cache_of_labelled_clouds_has_no_labels_of_points(tmp_path):
    _, opened = write(tmp_path, labelled=False)
    assert opened.labels.tolist() == [1, 1, 1]
    assert sorted(p.name for p in (tmp_path / "train-1").iterdir()) == ["index.json", "points.npy"]


@pytest.mark.parametrize("features", [(), ("colors",), ("normals",), ("colors", "normals")])
def test_a_dropped_point_takes_the_label_of_the_one_in_its_place(features):
    labels = torch.randint(-1, 50, (4, 64))
    points = torch.rand(4, 64, 3 + 3 * len(features))
    points[..., 2] = labels  # about z, rotations leave it
    augmentation = Compose(
        [
            RandomPointDropout(0.8),
            RandomRotation("z", features),
            RandomFlip("x", features),
        ]
    )
    generator = torch.Generator().manual_seed(0)
    batch = augment_batch({"points": points, "label": labels}, augmentation, generator)
    assert batch["points"].shape == points.shape
    assert batch["label"].dtype == torch.int64
    assert torch.equal(batch["points"][..., 2].round().long(), batch["label"])
    assert not torch.equal(batch["label"], labels)


def test_colors_stay_while_clouds_and_normals_turn():
    points = torch.rand(3, 5, 9)
    points[..., 6:] = torch.nn.functional.normalize(points[..., 6:], dim=-1)
    features = ("colors", "normals")
    for transform in (
        RandomRotation("z", features),
        RandomFlip("x", features),
        RandomScale(0.5, 2, features=features),
    ):
        result = transform(points, torch.Generator().manual_seed(1))
        assert torch.equal(result[..., 3:6], points[..., 3:6])
        assert not torch.allclose(result[..., 6:], points[..., 6:])
        assert torch.allclose(result[..., 6:].norm(dim=-1), torch.ones(3, 5))


def test_colors_are_jittered_within_their_range_and_nothing_else():
    points = torch.rand(3, 100, 7)
    jittered = RandomColorJitter(0.5, ("intensity", "colors"))(points, torch.Generator())
    assert torch.equal(jittered[..., :4], points[..., :4])
    assert jittered[..., 4:].min() == 0
    assert jittered[..., 4:].max() == 1
    assert not torch.equal(jittered[..., 4:], points[..., 4:])


def test_colors_of_some_clouds_are_dropped():
    points = torch.rand(200, 4, 6) + 0.1
    result = RandomColorDrop(0.25)(points, torch.Generator().manual_seed(0))
    dropped = (result[..., 3:] == 0).flatten(1).all(1)
    assert 30 < dropped.sum() < 70
    assert torch.equal(result[~dropped], points[~dropped])
    assert torch.equal(result[..., :3], points[..., :3])


def test_colors_have_to_be_there():
    with pytest.raises(ValueError, match="the features are normals"):
        RandomColorDrop(0.1, ("normals",))
    with pytest.raises(ValueError, match="the features are none"):
        RandomColorJitter(0.1, ())


def test_the_ignored_label_is_what_cross_entropy_may_be_told():
    loss = torch.nn.functional.cross_entropy(
        torch.zeros(2, 3), torch.tensor([IGNORED_LABEL, 0]), ignore_index=IGNORED_LABEL
    )
    assert loss == pytest.approx(np.log(3))
