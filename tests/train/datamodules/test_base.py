import itertools
import shutil
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from sharedmlp.data import SHAPE_CLASSES, DataError, PointCloudDataset, PointCloudStore
from sharedmlp.models import PointNet
from sharedmlp.train import HDF5DataModule, MeshTreeDataModule, ShapesDataModule
from sharedmlp.train.loaders import EpochSampler, shard_batch_size
from sharedmlp.utils.seeds import derive_seed
from tests.train.tiny import (
    CLASSES,
    ArrayDataModule,
    make_clouds,
    make_task,
    make_trainer,
    write_hdf5,
    write_tree,
)


def make_dataset(num_clouds):
    points, labels = make_clouds((num_clouds,), 8, seed=0)
    pool = PointCloudStore(points, labels, ("",) * num_clouds, ("a",))
    return PointCloudDataset(pool, num_points=4, resample=True)


def test_validation_is_carved_out_of_train_stratified_and_the_same_each_time():
    data = ArrayDataModule(train=(10, 20, 40), val_fraction=0.2)
    data.setup("fit")
    train, val = data.datasets["train"], data.datasets["val"]
    assert sorted([*train.indices, *val.indices]) == list(range(70))
    assert np.bincount(val.pool.labels[val.indices]).tolist() == [2, 4, 8]
    again = ArrayDataModule(train=(10, 20, 40), val_fraction=0.2)
    again.setup("validate")
    assert again.datasets["val"].indices.tolist() == val.indices.tolist()
    other = ArrayDataModule(train=(10, 20, 40), val_fraction=0.2, seed=1)
    other.setup("fit")
    assert other.datasets["val"].indices.tolist() != val.indices.tolist()


def test_no_validation_cloud_is_an_error():
    with pytest.raises(ValueError, match="raise val_fraction"):
        ArrayDataModule(val_fraction=0.0).setup("fit")


@pytest.mark.parametrize(
    ("stage", "split"), [("fit", "train"), ("validate", "train"), ("test", "test")]
)
def test_an_empty_split_is_an_error(stage, split):
    with pytest.raises(ValueError, match=f"the {split} split has no clouds"):
        ArrayDataModule(**{split: (0, 0, 0)}).setup(stage)


def test_a_class_of_one_cloud_trains_and_says_nothing_about_validation():
    data, task = ArrayDataModule(train=(1, 6, 7), val_fraction=0.2), make_task()
    trainer = make_trainer(max_epochs=1)
    trainer.fit(task, data)
    train, val = data.datasets["train"], data.datasets["val"]
    assert np.bincount(train.pool.labels[train.indices]).tolist() == [1, 5, 6]
    assert np.bincount(val.pool.labels[val.indices]).tolist() == [0, 1, 1]
    # Two clouds of two classes: the mean over these is the share of both.
    scores = trainer.callback_metrics
    assert scores["val/mean_class_accuracy"] == scores["val/overall_accuracy"]


def test_only_test_and_predict_open_the_test_split():
    data, task = ArrayDataModule(), make_task()
    make_trainer(max_epochs=1).fit(task, data)
    make_trainer().validate(task, data, verbose=False)
    assert set(data.opened) == {"train"}
    data.opened.clear()
    make_trainer().test(task, data, verbose=False)
    make_trainer().predict(task, data)
    assert set(data.opened) == {"test"}


def test_fit_works_where_the_test_meshes_are_missing_or_broken(tmp_path):
    root = write_tree(tmp_path / "tree", train=4, test=1)
    shutil.rmtree(root / "box" / "test")
    (root / "sphere" / "test" / "sphere_0.off").write_text("no mesh")
    data = MeshTreeDataModule(str(root), pool_size=32, num_points=16, batch_size=4)
    make_trainer(max_epochs=1).fit(make_task(), data)
    assert [path.name[:5] for path in (root / ".sharedmlp_cache").iterdir()] == ["train"]


def test_hdf5_fit_works_where_the_test_files_are_missing_and_test_says_so(tmp_path):
    root = write_hdf5(tmp_path / "set", pool_size=32)
    (root / "test_files.txt").unlink()
    (root / "ply_data_test0.h5").write_text("no HDF5")
    data = HDF5DataModule(str(root), num_points=16, batch_size=4)
    task = make_task()
    make_trainer(max_epochs=1).fit(task, data)
    with pytest.raises(FileNotFoundError, match=r"no test split.*sharedmlp validate"):
        make_trainer().test(task, data)


def test_one_class_and_unknown_features_are_refused_before_anything_is_read(tmp_path):
    root = write_tree(tmp_path / "tree", train=1, test=1)
    with pytest.raises(DataError, match="features are normals, colors, intensity, got 'smell'"):
        _ = MeshTreeDataModule(str(root), features="smell").in_channels
    for name in CLASSES[1:]:
        shutil.rmtree(root / name)
    with pytest.raises(DataError, match=r"there is one class alone \(box\)"):
        _ = MeshTreeDataModule(str(root)).class_names
    root = write_hdf5(tmp_path / "set")
    (root / "shape_names.txt").write_text("box\n")
    with pytest.raises(DataError, match=r"there is one class alone \(box\), [^<]*$"):
        _ = HDF5DataModule(str(root)).class_names


def test_mesh_tree_with_normals_has_six_channels(tmp_path):
    root = write_tree(tmp_path / "tree", train=4, test=2)
    data = MeshTreeDataModule(
        str(root), pool_size=32, normals=True, num_points=16, batch_size=4, scale_low=0.7
    )
    assert data.class_names == list(CLASSES)
    task = make_task(in_channels=data.in_channels)
    make_trainer(max_epochs=1).fit(task, data)
    assert data.datasets["val"][0]["points"].shape == (16, 6)


def test_shapes_are_written_in_the_order_of_their_labels(tmp_path, monkeypatch):
    import sharedmlp.train.datamodules.meshes as module

    def write_few(root):
        for number, name in enumerate(SHAPE_CLASSES):
            for split in ("train", "test"):
                folder = root / name / split
                folder.mkdir(parents=True)
                size = number + 1
                (folder / "a.off").write_text(
                    f"OFF\n3 1 0\n0 0 0\n{size} 0 0\n0 {size} 0\n3 0 1 2\n"
                )

    monkeypatch.setattr(module, "write_shapes", write_few)
    data = ShapesDataModule(str(tmp_path / "shapes"), pool_size=8, num_points=4)
    make_trainer().test(make_task(class_names=data.class_names), data, verbose=False)
    assert list(data.datasets["test"].pool.class_names) == data.class_names


@pytest.mark.parametrize("make", [MeshTreeDataModule, HDF5DataModule])
def test_missing_root_names_layout_and_remedy(make, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is no folder.*--data\.root"):
        _ = make(str(tmp_path / "nothing")).class_names


@pytest.mark.parametrize(("num_clouds", "kept"), [(8, 8), (9, 8), (10, 10), (11, 11), (5, 4)])
def test_sampler_leaves_out_a_last_batch_of_one_and_nothing_else(num_clouds, kept):
    sampler = EpochSampler(make_dataset(num_clouds), batch_size=4)
    order = list(sampler)
    assert len(order) == len(sampler) == kept
    assert len(set(order)) == kept
    assert set(order) <= set(range(num_clouds))


def test_the_cloud_left_out_changes_with_the_epoch():
    sampler = EpochSampler(make_dataset(9), batch_size=4)
    missing = set()
    for epoch in range(20):
        sampler.set_epoch(epoch)
        missing |= set(range(9)) - set(sampler)
    assert len(missing) > 3


def test_sampler_is_a_function_of_the_seed_of_the_run_and_the_epoch(monkeypatch):
    orders = {}
    for seed in (0, 1):
        monkeypatch.setenv("PL_GLOBAL_SEED", str(seed))
        for epoch in (0, 1, 2):
            dataset = make_dataset(32)
            sampler = EpochSampler(dataset, batch_size=4, epoch=epoch)
            orders[seed, epoch] = tuple(sampler)
            assert int(dataset._epoch) == epoch
    assert len(set(orders.values())) == 6
    assert tuple(EpochSampler(make_dataset(32), batch_size=4, epoch=2)) == orders[1, 2]


def test_sampler_divides_the_clouds_among_processes():
    parts = [
        list(EpochSampler(make_dataset(12), batch_size=4, num_replicas=2, rank=rank))
        for rank in (0, 1)
    ]
    assert sorted(parts[0] + parts[1]) == list(range(12))


@pytest.mark.parametrize(("num_clouds", "batch_size"), [(8, 1), (1, 4)])
def test_sampler_refuses_what_cannot_fill_a_batch_of_two(num_clouds, batch_size):
    with pytest.raises(ValueError, match="at least two clouds"):
        EpochSampler(make_dataset(num_clouds), batch_size=batch_size)


def test_processes_have_equally_many_batches_and_no_cloud_is_lost():
    for clouds, size, processes in itertools.product(range(1, 70), range(1, 9), range(1, 6)):
        if clouds < processes:
            with pytest.raises(ValueError, match=r"too few for \d processes"):
                shard_batch_size(clouds, size, processes)
            continue
        chosen = shard_batch_size(clouds, size, processes)
        shares = [len(range(rank, clouds, processes)) for rank in range(processes)]
        assert len({-(-share // chosen) for share in shares}) == 1
        assert chosen <= max(size, 7)  # smaller, but for the smallest
        if clouds % processes == 0:
            assert chosen == size


def test_training_never_sees_a_batch_of_one(monkeypatch):
    sizes = []
    forward = PointNet.forward_detailed

    def record(self, points):
        sizes.append(len(points))
        return forward(self, points)

    monkeypatch.setattr(PointNet, "forward_detailed", record)
    # 13 training clouds; the last batch of 4 would be one cloud.
    data = ArrayDataModule(train=(5, 5, 6), val_fraction=0.1)
    make_trainer(max_epochs=2).fit(make_task(), data)
    assert len(data.datasets["train"]) == 13
    assert sizes == [4, 4, 4] * 2


def test_a_last_batch_of_one_is_evaluated():
    data = ArrayDataModule(test=(3, 3, 3))
    task = make_task()
    make_trainer().test(task, data, verbose=False)
    assert task.test_confusion.compute().sum() == 9


class Recorder:
    """Keeps the points that each step sees."""

    def __init__(self, monkeypatch):
        from sharedmlp.train import ClassificationTask

        self.train: dict[int, Any] = {}
        self.val: dict[int, Any] = {}

        def wrap(name, store):
            step = getattr(ClassificationTask, name)

            def record(task, batch, batch_idx):
                for index, cloud in zip(batch["index"].tolist(), batch["points"], strict=True):
                    store.setdefault(index, []).append(cloud.clone())
                return step(task, batch, batch_idx)

            monkeypatch.setattr(ClassificationTask, name, record)

        wrap("training_step", self.train)
        wrap("validation_step", self.val)


@pytest.mark.parametrize("rotate", [True, False])
def test_augmentation_is_for_training_alone_and_new_each_epoch(monkeypatch, rotate):
    seen = Recorder(monkeypatch)
    # All points of the pool, so that only the augmentation makes a difference.
    data = ArrayDataModule(pool_size=16, batch_size=3, rotate=rotate, jitter=0.0)
    make_trainer(max_epochs=2).fit(make_task(), data)
    pool = data.datasets["val"].pool
    for index, clouds in seen.val.items():
        for cloud in clouds:
            assert np.array_equal(cloud, pool.points[index])
    for index, (first, second, *_) in seen.train.items():
        assert torch.equal(first, second) is not rotate
        assert np.array_equal(first, pool.points[index]) is not rotate
        np.testing.assert_array_equal(first[:, 2], pool.points[index][:, 2])


def test_augmentation_is_a_function_of_the_seed_of_the_run_the_epoch_and_the_clouds(monkeypatch):
    data: Any = ArrayDataModule()

    def augment(seed=0, epoch=0, index=(3, 1)):
        monkeypatch.setenv("PL_GLOBAL_SEED", str(seed))
        data.trainer = SimpleNamespace(training=True, current_epoch=epoch, overfit_batches=0)
        points = torch.linspace(-1, 1, 96).reshape(2, 16, 3)
        batch = {"points": points, "index": torch.tensor(index)}
        torch.manual_seed(torch.seed())
        return data.on_after_batch_transfer(batch, 0)["points"]

    assert torch.equal(augment(), augment())
    for change in ({"seed": 1}, {"epoch": 1}, {"index": (1, 3)}):
        assert not torch.equal(augment(), augment(**change)), change


def test_training_draws_anew_by_epoch_and_run_and_validation_never(monkeypatch):
    def draw(split, seed, epoch):
        monkeypatch.setenv("PL_GLOBAL_SEED", str(seed))
        data = ArrayDataModule(pool_size=64)
        data.setup("fit")
        data.datasets[split].set_epoch(epoch)
        return data.datasets[split][0]["points"]

    for seed, epoch in ((0, 1), (1, 0)):
        assert not torch.equal(draw("train", 0, 0), draw("train", seed, epoch))
        assert torch.equal(draw("val", 0, 0), draw("val", seed, epoch))


def test_every_augmentation_argument_has_an_effect(monkeypatch):
    neutral = {
        "pool_size": 16,
        "rotate": False,
        "jitter": 0.0,
        "scale_low": 1.0,
        "scale_high": 1.0,
        "mirror": None,
        "translate": 0.0,
        "point_dropout": 0.0,
    }
    changes = {
        "rotate": True,
        "jitter": 0.01,
        "scale_low": 0.5,
        "scale_high": 1.5,
        "mirror": "x",
        "translate": 0.1,
        "point_dropout": 0.9,
    }
    for name, value in changes.items():
        with monkeypatch.context() as patch:
            seen = Recorder(patch)
            data = ArrayDataModule(**{**neutral, name: value})
            make_trainer(max_epochs=1, limit_val_batches=0).fit(make_task(), data)
        pool = data.datasets["train"].pool
        changed = [not np.array_equal(c[0], pool.points[i]) for i, c in seen.train.items()]
        assert any(changed), name


def test_up_axis_stays(monkeypatch):
    seen = Recorder(monkeypatch)
    data = ArrayDataModule(pool_size=16, up_axis="y", jitter=0.0)
    make_trainer(max_epochs=1, limit_val_batches=0).fit(make_task(), data)
    pool = data.datasets["train"].pool
    for index, (cloud,) in seen.train.items():
        np.testing.assert_array_equal(cloud[:, 1], pool.points[index][:, 1])
        assert not np.array_equal(cloud[:, 0], pool.points[index][:, 0])


def test_derived_seeds_differ_by_value_order_and_length():
    parts = [(0,), (0, 0), (0, 1), (1, 0), (1, 0, 0), (2**40, 1)]
    seeds = {derive_seed(*part) for part in parts}
    assert len(seeds) == len(parts)
    assert all(0 <= seed < 2**63 for seed in seeds)
