import os
import sys

import numpy as np
import pytest

from sharedmlp.data import (
    MeshReadError,
    MeshTreeError,
    is_modelnet40_normals,
    modelnet40_normals,
    normalize_points,
    prepare_modelnet40_normals,
    read_modelnet40_normals_class_names,
)
from sharedmlp.data.modelnet40_normals import read_cloud_with_normals

from .io.meshes import write

CLASSES = ("night_stand", "bathtub")  # not sorted: the order of the file counts
POINTS = 50


def write_set(root, train=3, test=2, classes=CLASSES, num_points=POINTS):
    """Clouds whose numbers tell their class and number, in the layout that people have."""
    root.mkdir()
    (root / "modelnet40_shape_names.txt").write_text("".join(f"{name}\n" for name in classes))
    (root / "modelnet10_shape_names.txt").write_text(f"{classes[1]}\n")
    lists: dict[str, list[str]] = {"train": [], "test": []}
    for label, name in enumerate(classes):
        (root / name).mkdir()
        for number in range(1, train + test + 1):
            cloud = f"{name}_{number:04d}"
            lists["train" if number <= train else "test"].append(cloud)
            points = make_cloud(label, number, num_points)
            np.savetxt(root / name / f"{cloud}.txt", points, fmt="%.6f", delimiter=",")
    for split, clouds in lists.items():
        (root / f"modelnet40_{split}.txt").write_text("\r\n".join(clouds) + "\r\n")
        part = [cloud for cloud in clouds if cloud.startswith(classes[1])]
        (root / f"modelnet10_{split}.txt").write_text("\n".join(part))
    return root


def make_cloud(label, number, num_points=POINTS):
    points = np.random.default_rng([label, number]).normal(size=(num_points, 6))
    points[:, 3:] /= np.linalg.norm(points[:, 3:], axis=1, keepdims=True)
    return points


def prepare(root, split="train", **options):
    defaults = {"pool_size": POINTS, "num_workers": 0, "progress": False}
    return prepare_modelnet40_normals(root, split, **defaults | options)


@pytest.fixture
def root(tmp_path):
    return write_set(tmp_path / "set")


def test_a_split_becomes_a_memory_mapped_pool(root):
    pool = prepare(root, normals=True)
    assert pool.points.shape == (6, POINTS, 6)
    assert pool.class_names == CLASSES == read_modelnet40_normals_class_names(root)
    assert pool.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert pool.names[0] == "night_stand/night_stand_0001.txt"
    assert isinstance(pool.points, np.memmap)
    for label in range(2):
        for number in range(1, 4):
            expected = make_cloud(label, number)
            cloud = pool.points[3 * label + number - 1]
            np.testing.assert_allclose(cloud[:, :3], normalize_points(expected[:, :3]), atol=2e-6)
            np.testing.assert_allclose(cloud[:, 3:], expected[:, 3:], atol=1e-6)
    assert prepare(root).points.shape == (6, POINTS, 3)
    assert len(prepare(root, "test")) == 4


def test_the_part_that_is_modelnet10(root):
    pool = prepare(root, subset="modelnet10")
    assert pool.class_names == ("bathtub",)
    assert pool.names == tuple(f"bathtub/bathtub_000{i}.txt" for i in (1, 2, 3))
    assert set(pool.labels) == {0}


def test_a_smaller_pool_is_a_subset_of_the_normalized_cloud(root):
    whole, part = prepare(root, normals=True), prepare(root, normals=True, pool_size=20)
    again = prepare(root, normals=True, pool_size=20, cache_dir=root / "again")
    other = prepare(root, normals=True, pool_size=20, seed=1)
    np.testing.assert_array_equal(part.points, again.points)
    assert not np.array_equal(part.points, other.points)
    rows = []
    for cloud, every in zip(part.points, whole.points, strict=True):
        rows.append([np.flatnonzero((every == point).all(axis=1)).item() for point in cloud])
    assert all(np.all(np.diff(found) > 0) for found in rows)
    assert len({tuple(found) for found in rows}) == 6  # each its own


def test_processes_do_not_change_the_clouds(tmp_path):
    root = write_set(tmp_path / "set", train=10)
    alone = prepare(root, pool_size=20, cache_dir=tmp_path / "one")
    together = prepare(root, pool_size=20, cache_dir=tmp_path / "two", num_workers=2)
    assert alone.names == together.names
    np.testing.assert_array_equal(alone.points, together.points)


def test_it_is_parsed_once(root, monkeypatch):
    first = prepare(root)

    def read(path):
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr(modelnet40_normals, "read_cloud_with_normals", read)
    np.testing.assert_array_equal(prepare(root).points, first.points)


def test_a_changed_file_is_parsed_anew(root):
    first = np.array(prepare(root).points)
    path = root / "bathtub" / "bathtub_0001.txt"
    stat = path.stat()
    np.savetxt(path, make_cloud(7, 7), fmt="%.6f", delimiter=",")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    changed = (prepare(root).points != first).any(axis=(1, 2))
    assert changed.tolist() == [False, False, False, True, False, False]


LINE = "1,2,3,0,0,1"
# name: (content, points)
GOOD = {
    "as the set has it": (f"{LINE}\n0.5,-0.25,1e-3,1,0,0\n", [[1, 2, 3], [0.5, -0.25, 0.001]]),
    "CRLF": (f"{LINE}\r\n{LINE}\r\n", [[1, 2, 3]] * 2),
    "no newline at the end": (f"{LINE}\n{LINE}", [[1, 2, 3]] * 2),
    "blank lines": (f"\n{LINE}\n\n{LINE}\n\n\n", [[1, 2, 3]] * 2),
    "blanks": ("1, 2,\t3 ,0,0,1 \n", [[1, 2, 3]]),
    "more digits than an integer has": (
        "0.12345678901234567890123,1,1,0,0,1\n",
        [[0.12345678901234567890123, 1, 1]],
    ),
}


def fault(line, found):
    return f"line {line}: expected x,y,z,nx,ny,nz, six finite numbers, found {found!r}"


# name: (content, the reason)
BAD: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "the file is empty"),
    "only line ends": ("\n\n", "the file is empty"),
    "cut short within a line": (f"{LINE}\n{LINE}\n1,2,3,0,", fault(3, "1,2,3,0,")),
    "cut short after a number": (f"{LINE}\n1,2,3,0,0\n", fault(2, "1,2,3,0,0")),
    "five numbers": (f"1,2,3,0,0\n{LINE}\n", fault(1, "1,2,3,0,0")),
    "seven numbers": (f"{LINE}\n{LINE},1\n", fault(2, f"{LINE},1")),
    "seven and five": ("1,2,3,0,0,1,1\n2,3,0,0,1\n", fault(1, "1,2,3,0,0,1,1")),
    "an empty field": ("1,,3,0,0,1\n", fault(1, "1,,3,0,0,1")),
    "an empty field and one more": ("1,,2,3,0,0,1\n", fault(1, "1,,2,3,0,0,1")),
    "an empty field and two in one": ("1,,2 3,0,0,1\n", fault(1, "1,,2 3,0,0,1")),
    "blanks for commas": ("1 2 3 0 0 1\n", fault(1, "1 2 3 0 0 1")),
    "NaN": (f"{LINE}\n1,nan,3,0,0,1\n", fault(2, "1,nan,3,0,0,1")),
    "infinity": ("1,2,3,0,-inf,1\n", fault(1, "1,2,3,0,-inf,1")),
    "beyond float32": ("1,2,1e39,0,0,1\n", fault(1, "1,2,1e39,0,0,1")),
    "a word": ("x,y,z,nx,ny,nz\n" + LINE, fault(1, "x,y,z,nx,ny,nz")),
    "an underscore": ("1_0,2,3,0,0,1\n", fault(1, "1_0,2,3,0,0,1")),
    "binary": (b"\x93NUMPY\1\0" + bytes(9), fault(1, "\ufffdNUMPY\1\0" + "\0" * 9)),
    "a long line": ("9" * 200, fault(1, "9" * 57 + "...")),
}


@pytest.mark.parametrize("case", GOOD)
def test_text_that_has_to_be_read(case, tmp_path):
    content, points = GOOD[case]
    values = read_cloud_with_normals(write(tmp_path / "cloud.txt", content))
    assert values[:, :3].tolist() == points


@pytest.mark.parametrize("case", BAD)
def test_text_that_has_to_be_refused(case, tmp_path):
    content, reason = BAD[case]
    with pytest.raises(MeshReadError) as caught:
        read_cloud_with_normals(write(tmp_path / "cloud.txt", content))
    assert caught.value.reason == reason


def test_a_file_that_cannot_be_opened(tmp_path):
    with pytest.raises(MeshReadError, match="cannot be opened"):
        read_cloud_with_normals(tmp_path / "none.txt")


def test_bad_clouds_are_left_out_and_named(root):
    (root / "bathtub" / "bathtub_0002.txt").write_text("1,2,3\n")
    (root / "night_stand" / "night_stand_0001.txt").write_text(f"{LINE}\n" * 9)
    failures = (
        f"night_stand/night_stand_0001.txt: 9 points where pool_size asks for {POINTS}",
        f"bathtub/bathtub_0002.txt: {fault(1, '1,2,3')}",
    )
    with pytest.warns(UserWarning, match="2 of 6 train clouds"):
        assert prepare(root).failures == failures
    with pytest.raises(MeshTreeError, match="2 of 6 train clouds") as caught:
        prepare(root, strict=True)
    assert caught.value.failures == failures


def test_clouds_that_are_no_shapes_or_have_no_normals_are_left_out(root):
    points = make_cloud(0, 1)
    np.savetxt(root / "bathtub/bathtub_0001.txt", np.tile(points[:1], (POINTS, 1)), delimiter=",")
    points[:, 3:] = np.random.default_rng(0).integers(0, 256, (POINTS, 3))  # colors
    np.savetxt(root / "bathtub/bathtub_0002.txt", points, delimiter=",")
    with pytest.warns(UserWarning, match="1 of 6 train clouds"):
        assert prepare(root).failures == (
            f"bathtub/bathtub_0001.txt: all {POINTS} points are equal",
        )
    with pytest.warns(UserWarning, match="2 of 6 train clouds"):
        _, colored = prepare(root, normals=True).failures
    assert "bathtub_0002.txt: columns 4 to 6 are no normals: their lengths are from" in colored


def test_lists_that_do_not_fit(root, tmp_path):
    assert is_modelnet40_normals(root)
    assert not is_modelnet40_normals(tmp_path)
    listing = root / "modelnet40_train.txt"
    clouds = listing.read_text()
    listing.write_text(f"{clouds}\nbathtub_0099\nbathtub_0098\n")
    with pytest.raises(FileNotFoundError, match=r"2 of 8 clouds .* bathtub/bathtub_0099\.txt"):
        prepare(root)
    listing.write_text(f"{clouds}\nbathtub_0001\n")
    with pytest.raises(ValueError, match="'bathtub_0001' is named more than once"):
        prepare(root)
    for name in ("lamp_0001", "bathtub", "../night_stand_0001"):
        listing.write_text(f"{clouds}\n{name}\n")
        with pytest.raises(ValueError, match="belongs to no class of 2"):
            prepare(root)
    listing.write_text("\n")
    with pytest.raises(ValueError, match=r"modelnet40_train\.txt is empty; expected the layout"):
        prepare(root)
    listing.write_bytes(bytes(range(128, 256)))
    with pytest.raises(ValueError, match=r"modelnet40_train\.txt is no text"):
        prepare(root)
    listing.unlink()
    with pytest.raises(FileNotFoundError, match=r"modelnet40_train\.txt is missing; expected"):
        prepare(root)
    with pytest.raises(FileNotFoundError, match=r"modelnet40_shape_names\.txt is missing"):
        prepare(tmp_path)


def test_wrong_arguments(root):
    with pytest.raises(ValueError, match="'train' or 'test', got 'val'"):
        prepare(root, "val")
    with pytest.raises(ValueError, match="'modelnet40' or 'modelnet10', got '40'"):
        prepare(root, subset="40")
    with pytest.raises(ValueError, match="pool_size has to be 1 or more"):
        prepare(root, pool_size=0)


def test_it_needs_no_reader_of_meshes(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "trimesh", None)
    assert len(prepare(root)) == 6
