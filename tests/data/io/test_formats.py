"""A further format is one entry of the table: everything that reads files takes it."""

import numpy as np
import pytest

from sharedmlp.data import (
    MeshReadError,
    find_cloud_files,
    prepare_mesh_tree,
    read_cloud,
    read_mesh,
)
from sharedmlp.data.io.base import Format, FormatError, MeshArrays
from sharedmlp.data.io.formats import FORMATS

# Two triangles, of area 1 below z = 0 and of area 3 above.
TEXT = "0 0 -1  2 0 -1  0 1 -1\n0 0 1  2 0 1  0 3 1\n"


def read_triangles(path, content):
    """A toy format: three corners of a triangle a line."""
    corners = np.array(content.split(), dtype=float).reshape(-1, 3)
    return MeshArrays(corners, np.arange(len(corners)).reshape(-1, 3))


def check_triangles(path, content):
    if len(content) > 200:
        raise FormatError("it has more than 200 bytes")


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setitem(FORMATS, ".tri", Format("mesh", read_triangles, check_triangles))


def write_tree(root):
    for split in ("train", "test"):
        folder = root / "pair" / split
        folder.mkdir(parents=True)
        for name in ("a.tri", "b.TRI"):
            (folder / name).write_text(TEXT)
    return root


def test_a_further_mesh_format_is_read_everywhere(toy, tmp_path):
    root = write_tree(tmp_path / "tree")
    path = root / "pair" / "train" / "a.tri"
    assert read_mesh(path).area == pytest.approx(4)
    points = read_cloud(path, 4000, seed=0)
    assert points.shape == (4000, 3)
    assert abs((points[:, 2] > 0).mean() - 0.75) < 0.03
    assert [file.name for file in find_cloud_files([root])] == ["a.tri", "b.TRI"] * 2
    store = prepare_mesh_tree(root, "train", pool_size=16, num_workers=0, progress=False)
    assert store.names == ("pair/train/a.tri", "pair/train/b.TRI")
    assert store.points.shape == (2, 16, 3)
    assert store.failures == ()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (TEXT * 10, "it has more than 200 bytes"),  # the checker's
        (TEXT + "1 2", r"cannot be parsed as \.tri \(ValueError: cannot reshape"),  # the reader's
        (TEXT.replace("3", "nan"), r"vertex 5 \(of 6, from 0\) is not finite"),  # every mesh's
        ("", "there are no faces"),
    ],
)
def test_what_its_reader_and_checker_raise_is_the_reason(toy, tmp_path, content, reason):
    path = tmp_path / "bad.tri"
    path.write_text(content)
    for read in (read_mesh, lambda path: read_cloud(path, 8, seed=0)):
        with pytest.raises(MeshReadError, match=reason) as error:
            read(path)
        assert error.value.path == path


def test_without_its_entry_it_is_no_format(tmp_path):
    root = write_tree(tmp_path / "tree")
    with pytest.raises(MeshReadError, match=r"expected one of \.asc, .*\.npy, .*\.off"):
        read_mesh(root / "pair" / "train" / "a.tri")
    with pytest.raises(FileNotFoundError, match="no file ends in one of"):
        find_cloud_files([root])
    with pytest.raises(ValueError, match=r"no file of a format .* 4 \.tri, no format"):
        prepare_mesh_tree(root, "train", num_workers=0, progress=False)


@pytest.mark.parametrize("kind", [FormatError, ValueError])
def test_an_error_is_one_line_whatever_it_quotes(monkeypatch, tmp_path, kind):
    def read(path, content):
        raise kind(f"it holds\n{content.decode()}")

    monkeypatch.setitem(FORMATS, ".raw", Format("cloud", read))
    (tmp_path / "a.raw").write_text("1 2\n" * 1000)
    with pytest.raises(MeshReadError, match="it holds 1 2 1 2") as caught:
        read_cloud(tmp_path / "a.raw", 9, seed=0)
    assert len(caught.value.reason.splitlines()) == 1
    assert len(caught.value.reason) <= 400


def test_a_further_format_of_points(monkeypatch, tmp_path):
    monkeypatch.setitem(
        FORMATS, ".raw", Format("cloud", lambda _, content: np.frombuffer(content).reshape(-1, 3))
    )
    points = np.random.default_rng(0).normal(size=(7, 3))
    path = tmp_path / "a.raw"
    path.write_bytes(points.tobytes())
    np.testing.assert_array_equal(read_cloud(path, 9, seed=0), points)
    assert find_cloud_files([tmp_path]) == [path]
    with pytest.raises(MeshReadError, match="a point cloud: 7 points and no faces"):
        read_mesh(path)


def test_a_reader_may_give_points_for_a_mesh_suffix(monkeypatch, tmp_path):
    """As a PLY file may hold either."""
    monkeypatch.setitem(FORMATS, ".tri", Format("mesh", lambda *_: np.eye(2, 3)))
    (tmp_path / "a.tri").write_text("")
    np.testing.assert_array_equal(read_cloud(tmp_path / "a.tri", 9, seed=0), np.eye(2, 3))
