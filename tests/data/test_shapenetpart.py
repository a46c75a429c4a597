"""ShapeNetPart in its three layouts, written tiny."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from sharedmlp.data import (
    SHAPENETPART,
    DataError,
    MeshTreeError,
    MissingDataError,
    prepare_shapenetpart,
)
from sharedmlp.data.shapenetpart import read_shape
from sharedmlp.train.datamodules.shapenetpart import ShapeNetPartDataModule

SAMPLES = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "shapenetpart_samples"
SHAPES = {"02691156": 0, "04379243": 47, "03797390": 36}  # and their first labels
CATEGORIES = [0, 15, 11]


def make_shape(parts, count=40):
    """The part is the sign of x; the normal points along z."""
    points = np.random.default_rng(0).uniform(-1, 1, (count, 3))
    return points, (points[:, 0] > 0).astype(int) * (parts - 1)


def write_lists(root):
    folder = root / "train_test_split"
    folder.mkdir()
    for split in ("train", "test"):
        names = [f"shape_data/{synset}/{split}1" for synset in SHAPES]
        (folder / f"shuffled_{split}_file_list.json").write_text(json.dumps(names))


def write_v0(root):
    write_lists(root)
    for synset in SHAPES:
        for split in ("train", "test"):
            points, parts = make_shape(2)
            for folder, values, form, suffix in (
                ("points", points, "%.5f", "pts"),
                ("points_label", parts + 1, "%d", "seg"),
            ):
                (root / synset / folder).mkdir(parents=True, exist_ok=True)
                np.savetxt(root / synset / folder / f"{split}1.{suffix}", values, fmt=form)


def write_v0_normal(root):
    write_lists(root)
    for synset, first in SHAPES.items():
        (root / synset).mkdir()
        for split in ("train", "test"):
            points, parts = make_shape(2)
            normals = np.tile([0, 0, 1], (len(points), 1))
            table = np.column_stack([points, normals, parts + first])
            np.savetxt(root / synset / f"{split}1.txt", table, fmt="%.6f")


def write_hdf5(root, shift=0):
    for split in ("train", "test"):
        points, parts = make_shape(2)
        with h5py.File(root / f"ply_data_{split}0.h5", "w") as file:
            file["data"] = np.stack([points] * 3).astype(np.float32)
            file["label"] = np.array(CATEGORIES, dtype=np.uint8)[:, None]
            pid = np.stack([parts + first for first in SHAPES.values()]) + shift
            file["pid"] = pid.astype(np.uint8)


def prepare(root, split="train", **options):
    return prepare_shapenetpart(root, split, num_workers=0, progress=False, **options)


def test_there_are_16_categories_and_50_parts():
    assert len(SHAPENETPART.categories) == 16
    assert len(SHAPENETPART.class_names) == 50
    assert SHAPENETPART.parts_of_category[15] == [47, 48, 49]
    assert SHAPENETPART.parts_of_category[10] == [30, 31, 32, 33, 34, 35]


@pytest.mark.parametrize("write", [write_v0, write_v0_normal, write_hdf5])
def test_every_layout_gives_the_same_labels(tmp_path, write):
    write(tmp_path)
    store = prepare(tmp_path, pool_size=40)
    assert store.categories.tolist() == CATEGORIES
    assert store.class_names[47] == "Table 1"
    points, parts = make_shape(2)
    for cloud, labels, first in zip(store.points, store.labels, SHAPES.values(), strict=True):
        order = np.argsort(cloud[:, 0])
        assert np.array_equal(labels[order], (parts + first)[np.argsort(points[:, 0])])
    data = ShapeNetPartDataModule(str(tmp_path), pool_size=40, num_points=16)
    data.setup("test")
    assert data.datasets["test"][1]["label"].shape == (16,)
    assert data.up_axis == "y"


def test_normals_are_those_of_v0_normal(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    write_v0_normal(tmp_path / "a")
    store = prepare(tmp_path / "a", pool_size=64, normals=True)
    assert store.points.shape == (3, 64, 6)
    assert np.array_equal(store.points[..., 3:], np.tile([0, 0, 1], (3, 64, 1)))
    write_v0(tmp_path / "b")
    with pytest.raises(DataError, match="has no normals: take the layout v0_normal"):
        prepare(tmp_path / "b", normals=True)


def test_a_part_of_another_category_is_named(tmp_path):
    (tmp_path / "h").mkdir()
    write_hdf5(tmp_path / "h", shift=3)
    with pytest.raises(DataError, match="is of the category Airplane, whose parts are 0 to 3, got"):
        prepare(tmp_path / "h")
    write_v0(tmp_path)
    seg = tmp_path / "03797390" / "points_label" / "train1.seg"
    seg.write_text("3\n" * 40)
    with pytest.raises(MeshTreeError, match="expected parts from 1 to 2 of the category Mug"):
        prepare(tmp_path, strict=True)
    seg.write_text("1\n" * 39)
    with pytest.raises(MeshTreeError, match="has 39 lines for 40 points"):
        prepare(tmp_path, strict=True)


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(MissingDataError, match=r"shuffled_train_file_list\.json is missing"):
        prepare(tmp_path)
    write_v0(tmp_path)
    (tmp_path / "03797390" / "points_label" / "train1.seg").unlink()
    with pytest.raises(MissingDataError, match=r"1 of 3 shapes .* the first is 03797390/train1"):
        prepare(tmp_path)


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="needs shapenetpart_samples of ../shared")
def test_real_shapes_can_be_read():
    name = "shapenetcore_partanno_segmentation_benchmark"
    roots = [SAMPLES / f"{name}_{layout}" for layout in ("v0", "v0_normal")]
    for root, pattern in zip(roots, ("*/points/*.pts", "[0-9]*/*.txt"), strict=True):
        paths = sorted(root.glob(pattern))
        assert paths
        for path in paths:
            points, labels = read_shape(root, path.relative_to(root).as_posix())
            assert len(points) == len(labels) > 100
