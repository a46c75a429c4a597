import json
import sys
from typing import Literal

import numpy as np
import pytest

from sharedmlp.data import DataError, read_hdf5, read_hdf5_class_names

h5py = pytest.importorskip("h5py", reason="needs the extra hdf5")


def write_set(root, label_shape=(-1, 1)):
    """Two training files and one test file, 5 points a cloud; every number tells its place."""
    root.mkdir(exist_ok=True)
    (root / "shape_names.txt").write_text("chair\ntable\nlamp\n")
    for split, sizes in (("train", (4, 3)), ("test", (2,))):
        # As in the set people have: the paths of the machine that wrote it.
        files = [f"data/somewhere/ply_data_{split}{i}.h5" for i in range(len(sizes))]
        (root / f"{split}_files.txt").write_text("\n".join(files) + "\n")
        for index, size in enumerate(sizes):
            data = np.arange(size * 15, dtype=np.float32).reshape(size, 5, 3) + 100 * index
            labels = (np.arange(size, dtype=np.uint8) % 3).reshape(label_shape)
            write_file(root / f"ply_data_{split}{index}.h5", data=data, label=labels)
    return root


def write_file(path, **datasets):
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file[name] = values


@pytest.mark.parametrize("label_shape", [(-1, 1), (-1,)])
def test_the_files_of_a_split_become_one_pool(tmp_path, label_shape):
    root = write_set(tmp_path / "set", label_shape)
    pool = read_hdf5(root, "train")
    assert pool.points.shape == (7, 5, 3)
    assert pool.points.dtype == np.float32
    assert pool.points[:, 0, 0].tolist() == [0, 15, 30, 45, 100, 115, 130]
    assert pool.labels.tolist() == [0, 1, 2, 0, 0, 1, 2]
    assert pool.labels.dtype == np.int64
    assert pool.class_names == read_hdf5_class_names(root) == ("chair", "table", "lamp")
    assert pool.names[0] == "ply_data_train0.h5:0"
    assert pool.names[-1] == "ply_data_train1.h5:2"
    assert len(read_hdf5(str(root), "test")) == 2


DATA, LABEL = np.zeros((2, 5, 3), dtype=np.float32), np.zeros((2, 1), dtype=np.uint8)


@pytest.mark.parametrize(
    ("datasets", "message"),
    [
        ({"label": LABEL}, "no dataset"),
        ({"data": DATA}, "no dataset"),
        ({"data": DATA[..., :2], "label": LABEL}, r"\(2, 5, 2\)"),
        ({"data": DATA[0], "label": LABEL}, r"\(5, 3\)"),
        ({"data": DATA.astype(int), "label": LABEL}, "int64"),
        ({"data": DATA, "label": LABEL[:1]}, r"\(1, 1\)"),
        ({"data": DATA, "label": LABEL + 0.5}, r"label 0 is 0\.5, expected integers"),
        ({"data": DATA, "label": LABEL + np.uint8(3)}, "labels from 3 to 3"),
        ({"data": DATA, "label": LABEL.astype(int) - 1}, "labels from -1 to -1"),
        ({"data": DATA * [[[1]], [[np.nan]]], "label": LABEL}, "cloud 1 .* not finite"),
        ({"data": DATA[:, :4], "label": LABEL}, r"clouds of shape \(4, 3\)"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, datasets, message):
    root = write_set(tmp_path / "set")
    write_file(root / "ply_data_train1.h5", **datasets)
    with pytest.raises(ValueError, match=message) as caught:
        read_hdf5(root, "train")
    assert "ply_data_train1.h5" in str(caught.value)


def test_files_that_are_not_there(tmp_path):
    root = write_set(tmp_path / "set")
    (root / "ply_data_test0.h5").unlink()
    with pytest.raises(FileNotFoundError, match=r"ply_data_test0\.h5: named by test_files\.txt"):
        read_hdf5(root, "test")
    (root / "test_files.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"test_files\.txt is missing; expected"):
        read_hdf5(root, "test")
    with pytest.raises(FileNotFoundError, match=r"shape_names\.txt is missing"):
        read_hdf5(tmp_path, "train")


def test_files_that_are_no_hdf5_or_cut_short(tmp_path):
    root = write_set(tmp_path / "set")
    path = root / "ply_data_test0.h5"
    for content in (b"", b"hello", path.read_bytes()[:1000]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="no readable HDF5 file") as caught:
            read_hdf5(root, "test")
        assert str(path) in str(caught.value)


def test_empty_lists_and_other_splits(tmp_path):
    root = write_set(tmp_path / "set")
    with pytest.raises(ValueError, match="'train', 'val' or 'test', got 'both'"):
        read_hdf5(root, "both")  # type: ignore[arg-type]  # what is tested
    (root / "train_files.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"train_files\.txt is empty"):
        read_hdf5(root, "train")


def test_without_h5py_the_error_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"pip install 'sharedmlp\[hdf5\]'"):
        read_hdf5(tmp_path, "train")


def write_random_set(root, data, label, lists="a.h5\n", **more):
    root.mkdir(exist_ok=True)
    (root / "shape_names.txt").write_text("chair\ntable\n")
    (root / "train_files.txt").write_bytes(lists.encode())
    write_file(root / "a.h5", data=data, label=label, **more)
    return root


POINTS = np.random.default_rng(0).normal(size=(4, 40, 3)).astype(np.float32)
UNIT = POINTS / np.linalg.norm(POINTS, axis=2, keepdims=True)
LABELS = np.array([0, 1, 1, 0])


@pytest.mark.parametrize("channels", [3, 6])
@pytest.mark.parametrize("first", [False, True])
def test_channels_first_and_further_channels(tmp_path, channels, first):
    data = np.concatenate([POINTS, UNIT], axis=2)[..., :channels]
    root = write_random_set(tmp_path, data.transpose(0, 2, 1) if first else data, LABELS)
    np.testing.assert_array_equal(read_hdf5(root, "train").points, POINTS)
    if channels == 6:
        pool = read_hdf5(root, "train", features=["normals"])
        np.testing.assert_array_equal(pool.points, data)
        with pytest.raises(DataError, match=r"a\.h5: has no colors: the numbers are from -"):
            read_hdf5(root, "train", features=["colors"])
    else:
        with pytest.raises(DataError, match=r"a\.h5: has no normals: expected an array"):
            read_hdf5(root, "train", features=["normals"])


@pytest.mark.parametrize("shape", [(4, 3, 6), (4, 6, 5), (4, 13, 2), (4, 2, 12, 3)])
def test_axes_that_cannot_be_told_apart_are_refused(tmp_path, shape):
    root = write_random_set(tmp_path, np.ones(shape, dtype=np.float32), LABELS)
    with pytest.raises(DataError, match=r"a\.h5: expected 'data' of shape \(n, P, 3\)"):
        read_hdf5(root, "train")


def test_colors_are_scaled_and_normals_have_length_1(tmp_path):
    colors = np.random.default_rng(1).integers(0, 256, POINTS.shape)
    root = write_random_set(tmp_path, POINTS, LABELS, color=colors, normal=2 * UNIT)
    points = read_hdf5(root, "train", features=["colors"]).points
    np.testing.assert_allclose(points[..., 3:], colors / 255, atol=1e-6)
    with pytest.raises(DataError, match="has no normals: the vectors have lengths from 2"):
        read_hdf5(root, "train", features=["normals"])


def test_labels_may_be_floats_and_count_from_1(tmp_path):
    root = write_random_set(tmp_path / "float", POINTS, LABELS.astype(np.float64))
    assert read_hdf5(root, "train").labels.tolist() == [0, 1, 1, 0]
    root = write_random_set(tmp_path / "one", POINTS, LABELS + 1)
    # The highest label is in the training split alone.
    (root / "test_files.txt").write_text("b.h5\n")
    write_file(root / "b.h5", data=POINTS, label=np.ones(4))
    expected: dict[Literal["train", "test"], list[int]]
    expected = {"train": [0, 1, 1, 0], "test": [0] * 4}
    for split, labels in expected.items():
        with pytest.warns(UserWarning, match="labels count from 1 to 2"):
            assert read_hdf5(root, split).labels.tolist() == labels
    root = write_random_set(tmp_path / "none", POINTS, np.ones(4))
    with pytest.warns(UserWarning, match=r"no cloud has the label 0 \(chair\)"):
        assert read_hdf5(root, "train").labels.tolist() == [1] * 4


@pytest.mark.parametrize(
    "lists", ["C:\\data\\set\\a.h5\r\n", "data\\set\\a.h5\r\n", "/data/set/a.h5", "../../a.h5"]
)
def test_lists_name_files_of_other_machines(tmp_path, lists):
    root = write_random_set(tmp_path / "set", POINTS, LABELS, lists)
    assert len(read_hdf5(root, "train")) == 4
    (root / "train_files.txt").write_text(f"{lists}\n{lists}")
    with pytest.raises(DataError, match=r"names a\.h5 more than once"):
        read_hdf5(root, "train")


def test_files_in_folders_below_are_found(tmp_path):
    root = write_random_set(tmp_path, POINTS, LABELS, "deeper\\a.h5")
    (root / "deeper").mkdir()
    write_file(root / "deeper" / "a.h5", data=POINTS[:1], label=LABELS[:1])
    assert len(read_hdf5(root, "train")) == 1


def test_another_order_of_class_names_is_refused(tmp_path):
    names = np.array(["table", "chair"], dtype="S")
    root = write_random_set(tmp_path / "a", POINTS, LABELS, class_names=names)
    with pytest.raises(DataError, match=r"'class_names' differs .* \(0 is 'table' here and 'chair"):
        read_hdf5(root, "train")
    write_random_set(root, POINTS, LABELS, class_names=names[::-1])
    assert len(read_hdf5(root, "train")) == 4
    clouds = ["chair_0001", "table_0001", "table_0002", "chair_0007"]
    (root / "a_id2file.json").write_text(json.dumps(clouds))
    assert len(read_hdf5(root, "train")) == 4
    (root / "shape_names.txt").write_text("table\nchair\n")
    write_file(root / "a.h5", data=POINTS, label=LABELS)
    with pytest.raises(DataError, match=r"cloud 0 has the label 0, and a_id2file\.json .* a chair"):
        read_hdf5(root, "train")


def test_a_class_that_is_named_twice_is_refused(tmp_path):
    root = write_random_set(tmp_path, POINTS, LABELS)
    (root / "shape_names.txt").write_text("chair\nchair\n")
    with pytest.raises(DataError, match=r"shape_names\.txt: names the class chair more than once"):
        read_hdf5(root, "train")


@pytest.mark.parametrize("num_points", [1, 5])
def test_clouds_without_an_extent_are_told(tmp_path, num_points):
    points = POINTS[:, :num_points].copy()
    points[1:3] = points[1:3, :1]
    root = write_random_set(tmp_path, points, LABELS)
    count, first = (4, 0) if num_points == 1 else (2, 1)
    message = rf"a\.h5: {count} of 4 clouds are of equal points .* the first is cloud {first}:"
    with pytest.warns(UserWarning, match=message):
        read_hdf5(root, "train")


def test_a_validation_split_has_a_list_of_its_own(tmp_path):
    root = write_random_set(tmp_path, POINTS, LABELS)
    (root / "val_files.txt").write_text("v.h5")
    write_file(root / "v.h5", data=POINTS[:2], label=LABELS[:2])
    assert len(read_hdf5(root, "val")) == 2
