"""Labelled clouds of one's own: columns, classes, whole clouds and blocks."""

from pathlib import Path

import numpy as np
import pytest

from sharedmlp.data import (
    DataError,
    LabelledCloudOptions,
    MeshTreeError,
    MissingDataError,
    find_labelled_clouds,
    prepare_labelled_clouds,
    read_point_class_names,
)
from sharedmlp.train.datamodules.labelled_clouds import LabelledCloudsDataModule

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"


def make_points(count=300, seed=0):
    """The label is the storey, floor(z), of three; the color says it too."""
    rng = np.random.default_rng(seed)
    points = rng.random((count, 3)) * (2.5, 2.5, 3)
    labels = points[:, 2].astype(int)
    return points, labels, labels[:, None] * (100, 50, 0)


def write_ply(path, points, labels, colors):
    header = "".join(f"property float {axis}\n" for axis in "xyz")
    header += "".join(f"property uchar {name}\n" for name in ("red", "green", "blue"))
    lines = [
        " ".join(map(str, [*p, *c, label]))
        for p, label, c in zip(points.tolist(), labels.tolist(), colors.tolist(), strict=True)
    ]
    path.write_text(
        f"ply\nformat ascii 1.0\nelement vertex {len(points)}\n{header}"
        "property int scalar_Label\nend_header\n" + "\n".join(lines) + "\n"
    )


@pytest.fixture
def root(tmp_path):
    """One file of each of four formats to train on, one to test on."""
    (tmp_path / "class_names.txt").write_text("ground\nmiddle\ntop\n")
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
    points, labels, colors = make_points()
    table = np.column_stack([points, colors, labels])
    np.savetxt(
        tmp_path / "train" / "a.csv", table, delimiter=",", header="x,y,z,r,g,b,class", comments=""
    )
    np.savetxt(tmp_path / "train" / "b.txt", table, header="x y z red green blue label")
    np.savez(tmp_path / "train" / "c.npz", xyz=points, labels=labels, rgb=colors.astype(np.uint8))
    write_ply(tmp_path / "train" / "d.ply", points, labels, colors)
    write_ply(tmp_path / "test" / "e.ply", *make_points(seed=1))
    return tmp_path


def prepare(root, split="train", seed=0, **options):
    options = {"pool_size": 200, **options}
    return prepare_labelled_clouds(
        root, split, LabelledCloudOptions(**options), seed=seed, num_workers=0, progress=False
    )


def test_whole_clouds_of_every_format_keep_points_colors_and_labels_together(root):
    store = prepare(root, features=("colors",))
    assert store.names == tuple(f"train/{name}" for name in ("a.csv", "b.txt", "c.npz", "d.ply"))
    assert store.points.shape == (4, 200, 6)
    assert store.class_names == ("ground", "middle", "top")
    assert store.categories is None
    assert np.array_equal((store.points[..., 3] * 2.55).round(), store.labels)
    assert np.allclose(np.linalg.norm(store.points[..., :3], axis=-1).max(axis=1), 1)


def test_a_cloud_of_fewer_points_has_some_of_them_twice(root):
    with pytest.warns(UserWarning, match="are used as they can be"):
        store = prepare(root, "test", pool_size=700, features=("colors",))
    assert np.array_equal((store.points[..., 3] * 2.55).round(), store.labels)
    counts = np.unique(store.points[0], axis=0, return_counts=True)[1]
    assert len(counts) == 300
    assert set(counts) == {2, 3}


def test_blocks_are_centered_and_keep_their_labels(root):
    options = {"features": ("colors", "position"), "block_size": 1.0, "min_block_points": 10}
    store = prepare(root, "test", pool_size=64, **options)
    assert store.points.shape == (9, 64, 9)
    assert store.names == tuple(f"test/e.ply#{number}" for number in range(9))
    assert np.abs(store.points[..., :2]).max() <= 0.5 + 1e-5
    assert np.array_equal((store.points[..., 3] * 2.55).round(), store.labels)
    positions = store.points[..., 6:]
    assert positions.min() >= 0
    assert positions.max() <= 1
    assert np.array_equal(
        (positions[..., 2] * 2.99).astype(int)[store.labels == 0],
        0 * store.labels[store.labels == 0],
    )
    overlapping = prepare(root, "test", pool_size=64, **options, block_stride=0.5)
    assert len(overlapping) == 16


def test_blocks_need_points_and_the_right_units(root):
    with pytest.raises(MeshTreeError, match=r"none of its .* blocks of 0.01 has 100 points"):
        prepare(root, "test", block_size=0.01)
    with pytest.raises(MeshTreeError, match="more than 10,000: are block_size and the points"):
        prepare(root, "test", block_size=1e-4)


def test_the_ignored_label_is_ignored_and_others_are_refused(root):
    points, labels, colors = make_points()
    labels[:50], labels[50:53] = 255, 7
    write_ply(root / "test" / "e.ply", points, labels, colors)
    with pytest.raises(MeshTreeError, match="53 of its 300 points have the label 7, 255, expected"):
        prepare(root, "test")
    labels[50:53] = 2
    write_ply(root / "test" / "e.ply", points, labels, colors)
    store = prepare(root, "test", pool_size=300, ignored_label=255)
    assert np.count_nonzero(store.labels == -1) == 50
    assert store.labels.max() == 2


def test_classes_that_are_not_told_apart_are_other(root):
    store = prepare(root, "test", classes=("top", "ground"), features=("colors",))
    assert store.class_names == ("top", "ground", "other")
    storeys = (store.points[..., 3] * 2.55).round().astype(int)
    assert np.array_equal(np.array([1, 2, 0])[storeys], store.labels)
    with pytest.raises(DataError, match="has no class 'roof': its classes are ground, middle, top"):
        prepare(root, classes=("roof",))


def test_columns_without_names_need_them(root):
    points, labels, _ = make_points()
    np.savetxt(root / "test" / "f.txt", np.column_stack([points, labels]))
    (root / "test" / "e.ply").unlink()
    with pytest.raises(MeshTreeError, match="has no labels: column 4 may be an intensity or a lab"):
        prepare(root, "test")
    store = prepare(root, "test", columns=("x", "y", "z", "label"))
    assert set(np.unique(store.labels)) == {0, 1, 2}


def test_what_is_missing_is_said(root):
    with pytest.raises(MissingDataError, match="has no files for the val split; expected"):
        prepare(root, "val")
    (root / "class_names.txt").write_text("a\na\n")
    with pytest.raises(DataError, match="has the class 'a' twice"):
        read_point_class_names(root)
    (root / "class_names.txt").unlink()
    with pytest.raises(MissingDataError, match=r"class_names\.txt is missing; expected"):
        prepare(root)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": ("position",)}, "belong to blocks"),
        ({"block_stride": 0.5}, "belong to blocks"),
        ({"block_size": 1.0, "block_stride": 2.0}, "block_stride above 0 and at most that"),
        ({"features": ("color",)}, "features are normals, colors, intensity, position"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(DataError, match=message):
        LabelledCloudOptions(**options)


def test_hidden_and_other_files_are_no_clouds(root):
    (root / "train" / ".a.ply").write_text("")
    (root / "train" / "readme.md").write_text("")
    assert [path.name[0] for path in find_labelled_clouds(root, "train")] == list("abcd")


def test_the_data_module_gives_batches_of_blocks(root):
    data = LabelledCloudsDataModule(
        str(root), 64, ["colors", "position"], block_size=1.0, min_block_points=10, num_points=32,
        batch_size=5, val_fraction=0.3,
    )  # fmt: skip
    assert data.class_names == ["ground", "middle", "top"]
    assert data.in_channels == 9
    data.setup("fit")
    assert data.preprocessing["block_size"] == data.preprocessing["block_stride"] == 1.0
    batch = next(iter(data.train_dataloader()))
    assert batch["points"].shape == (5, 32, 9)
    assert batch["label"].shape == (5, 32)
    files = [
        {data.datasets[split].pool.names[i].split("#")[0] for i in data.datasets[split].indices}
        for split in ("train", "val")
    ]
    assert len(files[1]) == 1
    assert files[0].isdisjoint(files[1])


@pytest.mark.skipif(
    not (SHARED / "scans20_ply").is_dir(), reason="needs ../shared/data/scans20_ply"
)
def test_a_real_scan_is_cut_into_blocks(tmp_path):
    (tmp_path / "train").mkdir()
    for name, place in (("class_names.txt", ""), ("scene0000_00.ply", "train")):
        (tmp_path / place / name).symlink_to(SHARED / "scans20_ply" / name)
    store = prepare(
        tmp_path, pool_size=512, features=("colors", "position"), block_size=1.5, ignored_label=255
    )
    assert store.points.shape[1:] == (512, 9)
    assert store.labels.min() == -1
    assert len(store) > 5
