import multiprocessing
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from sharedmlp.data import PointCloudDataset, PointCloudStore, identity_collate

N, P, C = 7, 50, 3


@pytest.fixture
def pool():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(N, P, C)).astype(np.float32)
    labels = np.array([0, 1, 2, 0, 1, 2, 0])
    return PointCloudStore(points, labels, tuple(f"cloud{i}" for i in range(N)), ("a", "b", "c"))


def rows_of(cloud: torch.Tensor, source: np.ndarray) -> list[int]:
    """For every point the one row of the source that it equals."""
    matches = (cloud.numpy()[:, None] == source[None]).all(-1)
    assert (matches.sum(1) == 1).all()
    return matches.argmax(1).tolist()


@pytest.mark.parametrize("resample", [True, False])
def test_items(pool, resample):
    dataset = PointCloudDataset(pool, num_points=20, indices=[5, 2, 3], resample=resample)
    assert len(dataset) == 3
    item = dataset[0]
    assert {name: (value.shape, value.dtype) for name, value in item.items()} == {
        "points": ((20, C), torch.float32),
        "label": ((), torch.int64),
        "index": ((), torch.int64),
    }
    assert (item["label"], item["index"]) == (2, 5)
    rows = rows_of(item["points"], pool.points[5])
    assert len(set(rows)) == 20  # without replacement
    assert rows != list(range(20))  # and not the first ones
    with pytest.raises(IndexError):
        dataset[3]


@pytest.mark.parametrize("resample", [True, False])
def test_a_cloud_does_not_depend_on_its_batch(pool, resample):
    dataset = PointCloudDataset(pool, num_points=20, resample=resample)
    batch = dataset.__getitems__([4, 0, 6])
    assert batch["points"].shape == (3, 20, C)
    assert batch["label"].tolist() == [1, 0, 0]
    assert batch["index"].tolist() == [4, 0, 6]
    for position, index in enumerate([4, 0, 6]):
        assert torch.equal(batch["points"][position], dataset[index]["points"])
    subset = PointCloudDataset(pool, num_points=20, indices=[6], resample=resample)
    assert torch.equal(subset[0]["points"], batch["points"][2])


def test_resampling_follows_seed_epoch_and_cloud(pool):
    def draw(seed, epoch, index):
        dataset = PointCloudDataset(pool, num_points=20, resample=True, seed=seed)
        dataset.set_epoch(epoch)
        return tuple(rows_of(dataset[index]["points"], pool.points[index]))

    draws = {(s, e, i): draw(s, e, i) for s in (0, -1) for e in (0, 1) for i in (0, 1)}
    assert len(set(draws.values())) == len(draws)
    assert draw(-1, 1, 1) == draws[-1, 1, 1]


def test_all_points_are_drawn_equally_often(pool):
    dataset = PointCloudDataset(pool, num_points=10, resample=True)
    counts = np.zeros(P)
    for epoch in range(400):
        dataset.set_epoch(epoch)
        counts[rows_of(dataset[0]["points"], pool.points[0])] += 1
    # 400 draws of a fifth: 80 expected, standard deviation 8.
    assert 45 < counts.min() <= counts.max() < 115


def test_without_resampling_nothing_changes(pool):
    dataset = PointCloudDataset(pool, num_points=20, resample=False)
    first = dataset[1]["points"]
    dataset.set_epoch(3)
    assert torch.equal(dataset[1]["points"], first)
    rows = rows_of(first, pool.points[1])
    assert rows_of(dataset[2]["points"], pool.points[2]) == rows
    other = PointCloudDataset(pool, num_points=20, resample=False, seed=1)
    assert rows_of(other[1]["points"], pool.points[1]) != rows


@pytest.mark.parametrize("resample", [True, False])
def test_the_whole_pool_can_be_taken(pool, resample):
    dataset = PointCloudDataset(pool, num_points=P, resample=resample)
    assert sorted(rows_of(dataset[3]["points"], pool.points[3])) == list(range(P))


def test_writing_into_a_batch_leaves_the_pool_alone(pool):
    dataset = PointCloudDataset(pool, num_points=P, resample=False)
    before = pool.points.copy()
    batch = dataset.__getitems__([0, 1])
    batch["points"].zero_()
    batch["label"].zero_()
    batch["index"].zero_()
    np.testing.assert_array_equal(pool.points, before)
    assert dataset[1]["label"] == 1
    assert dataset[1]["index"] == 1


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_that_live_on_see_the_epoch(pool, method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system cannot {method}")
    dataset = PointCloudDataset(pool, num_points=20, resample=True)
    expected = {}
    for epoch in (0, 5):
        dataset.set_epoch(epoch)
        expected[epoch] = dataset.__getitems__(list(range(N)))
    loader = DataLoader(
        dataset,
        batch_size=4,
        num_workers=1,
        persistent_workers=True,
        multiprocessing_context=method,
        collate_fn=identity_collate,
    )
    for epoch in (0, 5):
        dataset.set_epoch(epoch)
        batches = list(loader)
        assert [len(batch["label"]) for batch in batches] == [4, 3]
        points = torch.cat([batch["points"] for batch in batches])
        assert torch.equal(points, expected[epoch]["points"])


def test_a_mapped_pool_travels_by_name(pool, tmp_path):
    np.save(tmp_path / "points.npy", pool.points)
    mapped = PointCloudStore(
        np.load(tmp_path / "points.npy", mmap_mode="r"), pool.labels, pool.names, pool.class_names
    )
    sent = bytes(ForkingPickler.dumps(mapped))
    assert len(sent) < pool.points.nbytes
    received = ForkingPickler.loads(sent)
    assert received.points.filename == mapped.points.filename
    assert not received.points.flags.writeable
    for copy in (received, ForkingPickler.loads(ForkingPickler.dumps(pool))):
        np.testing.assert_array_equal(copy.points, pool.points)
        np.testing.assert_array_equal(copy.labels, pool.labels)
        assert (copy.names, copy.class_names) == (pool.names, pool.class_names)


def test_a_part_of_a_mapped_pool_travels_as_it_is(pool, tmp_path):
    np.save(tmp_path / "points.npy", pool.points)
    mapped = np.load(tmp_path / "points.npy", mmap_mode="r")
    for part in (mapped[::-1], mapped[1:], mapped[:1]):
        sent = PointCloudStore(
            part, np.zeros(len(part), dtype=np.int64), ("x",) * len(part), ("a",)
        )
        received = ForkingPickler.loads(ForkingPickler.dumps(sent))
        np.testing.assert_array_equal(received.points, part)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_points": 0}, "expected num_points from 1 to 50"),
        ({"num_points": 51}, "larger pool_size"),
        ({"num_points": 5, "indices": [0, 7]}, "indices from 0 to 6"),
        ({"num_points": 5, "indices": [-1]}, "indices from 0 to 6"),
        ({"num_points": 5, "indices": [[0, 1]]}, "indices from 0 to 6"),
    ],
)
def test_what_does_not_fit_the_pool_is_refused(pool, options, message):
    with pytest.raises(ValueError, match=message):
        PointCloudDataset(pool, resample=True, **options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"points": np.zeros((2, 5, 3))}, "float64"),
        ({"points": np.zeros((2, 15), dtype=np.float32)}, r"\(2, 15\)"),
        ({"labels": np.zeros((2, 1), dtype=np.int64)}, r"labels of shape \(2, 1\)"),
        ({"names": ("one",)}, "1 names"),
        ({"labels": np.array([0, 2])}, "got 0 to 2"),
        ({"labels": np.array([-1, 0])}, "got -1 to 0"),
    ],
)
def test_a_pool_that_does_not_fit_together_is_refused(changes, message):
    good = {
        "points": np.zeros((2, 5, 3), dtype=np.float32),
        "labels": np.array([0, 1]),
        "names": ("x", "y"),
        "class_names": ("a", "b"),
    }
    PointCloudStore(**good)
    with pytest.raises(ValueError, match=message):
        PointCloudStore(**good | changes)
