import numpy as np
import pytest

from sharedmlp.data import MeshReadError, find_cloud_files, load_cloud, read_cloud, turn_up_axis
from tests.data.io.meshes import TETRAHEDRON, TWO_TRIANGLES

POINTS = np.random.default_rng(0).normal(size=(50, 6))
POINTS[:, 3:] /= np.linalg.norm(POINTS[:, 3:], axis=1, keepdims=True)


def write(path, points):
    if path.suffix == ".npy":
        np.save(path, points)
    else:
        np.savetxt(path, points, delimiter="," if path.suffix == ".txt" else " ")
    return path


def test_a_mesh_is_sampled_by_area(tmp_path):
    path = tmp_path / "a.off"
    path.write_text(TWO_TRIANGLES)
    points = read_cloud(path, 4000, seed=0)
    assert points.shape == (4000, 3)
    assert abs((points[:, 2] > 0).mean() - 0.75) < 0.03
    assert read_cloud(path, 10, seed=0, normals=True).shape == (10, 6)


@pytest.mark.parametrize("name", ["a.npy", "a.txt", "a.xyz", "A.NPY", "a.TXT"])
def test_a_file_of_points_gives_some_of_them_or_all(tmp_path, name):
    path = write(tmp_path / name.lower(), POINTS).rename(tmp_path / name)
    np.testing.assert_allclose(read_cloud(path, 80, seed=0), POINTS[:, :3])
    np.testing.assert_allclose(read_cloud(path, 50, seed=0, normals=True), POINTS)
    some = read_cloud(path, 20, seed=0)
    rows = [int(np.abs(POINTS[:, :3] - point).sum(1).argmin()) for point in some]
    assert len(set(rows)) == 20
    np.testing.assert_allclose(some, POINTS[rows, :3])
    assert rows != list(range(20))
    np.testing.assert_array_equal(some, read_cloud(path, 20, seed=0))
    assert not np.array_equal(some, read_cloud(path, 20, seed=1))


def test_what_numpy_saved_as_float32_or_integers_is_read(tmp_path):
    for dtype in ("float32", "int64", "uint8"):
        points = np.arange(12).reshape(4, 3).astype(dtype)
        read = read_cloud(write(tmp_path / "a.npy", points), 4, seed=0)
        assert read.dtype == np.float64
        np.testing.assert_array_equal(read, points)


def claim(shape):
    """The header of an .npy file, and nothing behind it."""
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.npy", b"", "holds no array of numbers"),
        ("a.npy", b"no array", "holds no array of numbers"),
        ("a.npy", claim((10**12, 3)), "holds no array of numbers"),
        ("a.npy", np.array([["a", "b", "c"]]), "expected an array of numbers, got dtype <U1"),
        ("a.npy", np.ones((4, 3), complex), "expected an array of numbers, got dtype complex128"),
        ("a.npy", np.array([{}]), "expected an array of numbers, got dtype object"),
        ("a.npy", np.ones((2, 4, 3)), r"\(N, 3 or more\), got \(2, 4, 3\)"),
        ("a.npy", np.ones((4, 2)), r"\(N, 3 or more\), got \(4, 2\)"),
        ("a.npy", np.array([[1, 2, 3], [1, np.nan, 3]]), r"point 1 \(from 0\) is not finite"),
        ("a.npy", np.array([[1, 2, 1e39]]), r"point 0 \(from 0\) is not finite in float32"),
        ("a.txt", b"", r"got \(0, 3\)"),
        ("a.txt", b"\n \n", r"got \(0, 3\)"),
        ("a.txt", b"a b c\n1 2 3\n", "holds no array of numbers"),
        ("a.txt", b"1 2 3\n1 2\n", "holds no array of numbers"),
        ("a.txt", b"1 2 inf\n", r"point 0 \(from 0\) is not finite"),
        ("a.txt", b"\xff\xfe\x00", "holds no array of numbers"),
        ("a.xyz", b"1 2\n", r"got \(1, 2\)"),
        ("a.off", b"OFF\n", "the file ends before"),
        ("a", b"OFF\n", "cannot be read: expected one of"),
    ],
)
def test_what_is_wrong_with_a_file_is_its_reason(tmp_path, recwarn, name, content, reason):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    with pytest.raises(MeshReadError, match=reason) as error:
        read_cloud(path, 8, seed=0)
    assert error.value.path == path
    assert not recwarn.list


@pytest.mark.parametrize("name", ["no.npy", "no.txt", "no.off", "folder", "no.mesh"])
def test_a_missing_file_is_a_reason_too(tmp_path, name):
    with pytest.raises(MeshReadError, match="cannot be opened: No such file"):
        read_cloud(tmp_path / name, 8, seed=0)


def test_normals_of_points_have_to_be_there(tmp_path):
    path = write(tmp_path / "a.npy", POINTS[:, :3])
    with pytest.raises(MeshReadError, match="has no normals"):
        read_cloud(path, 8, seed=0, normals=True)


@pytest.mark.parametrize(
    ("name", "features", "reason"),
    [
        ("a.off", ("colors",), "has no colors: of a mesh, points have normals alone"),
        ("a.off", ("normals", "intensity"), "has no intensity: of a mesh"),
        ("a.npy", ("intensity",), r"a\.npy: has no intensity$"),
        ("a.npy", ("normals", "colors"), r"a\.npy: has no colors: columns 4 to 6 are normals$"),
    ],
)
def test_the_file_that_lacks_a_feature_is_named(tmp_path, name, features, reason):
    (tmp_path / "a.off").write_text(TWO_TRIANGLES)
    np.save(tmp_path / "a.npy", POINTS)
    with pytest.raises(MeshReadError, match=reason):
        read_cloud(tmp_path / name, 8, seed=0, features=features)


def test_there_are_three_features(tmp_path):
    path = write(tmp_path / "a.npy", POINTS)
    with pytest.raises(ValueError, match=r"of \['normals', 'colors', 'intensity'\], got 'labels'"):
        read_cloud(path, 8, seed=0, features=("labels",))


def test_features_come_in_the_order_in_which_they_are_asked_for(tmp_path):
    colors, intensity = np.abs(POINTS[:, :3]) % 1, np.arange(50.0)
    path = tmp_path / "a.npz"
    np.savez(path, points=POINTS[:, :3], normals=POINTS[:, 3:], colors=colors, intensity=intensity)
    read = read_cloud(path, 50, seed=0, features=("intensity", "colors", "normals"))
    expected = np.hstack([POINTS[:, :3], intensity[:, None], colors, POINTS[:, 3:]])
    np.testing.assert_array_equal(read, expected)
    some = read_cloud(path, 7, seed=0, features=("colors",))
    np.testing.assert_array_equal(some[:, :3], read_cloud(path, 7, seed=0))
    turned = turn_up_axis(read, "y", "z", features=("intensity", "colors", "normals"))
    np.testing.assert_array_equal(turned[:, 3:7], read[:, 3:7])
    for columns in (slice(3), slice(7, 10)):  # the coordinates and the normals
        np.testing.assert_array_equal(
            turned[:, columns], turn_up_axis(read[:, columns], "y", "z", features=())
        )


def test_a_mesh_is_no_cloud(tmp_path):
    (tmp_path / "a.off").write_text(TWO_TRIANGLES)
    with pytest.raises(MeshReadError, match="holds a mesh of 2 faces, expected points"):
        load_cloud(tmp_path / "a.off")


@pytest.mark.parametrize("count", [1, 1200])
def test_points_without_an_extent_are_no_shape(tmp_path, count):
    path = write(tmp_path / "a.npy", np.repeat(POINTS[:1], count, axis=0))
    with pytest.raises(MeshReadError, match=r"points?: without an extent"):
        read_cloud(path, 8, seed=0)


def test_no_points_are_no_cloud(tmp_path):
    with pytest.raises(ValueError, match="1 or more, got 0"):
        read_cloud(write(tmp_path / "a.npy", POINTS), 0, seed=0)


def test_files_come_as_named_and_those_of_folders_sorted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("d/b.OFF", "d/a/z.stl", "d/c.npy", "d/notes.txt", "d/.hidden/x.npy", "d/.x.off"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(TETRAHEDRON)
    found = find_cloud_files(["missing.txt", "d", "d/notes.txt"])
    names = [path.as_posix() for path in found]
    assert names == ["missing.txt", "d/a/z.stl", "d/b.OFF", "d/c.npy", "d/notes.txt"]


def test_a_hidden_folder_that_is_named_is_searched(tmp_path):
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "a.off").write_text(TETRAHEDRON)
    assert len(find_cloud_files([tmp_path / ".cache"])) == 1


def test_a_folder_without_any_says_what_it_looked_for(tmp_path):
    (tmp_path / "a.txt").write_text("1 2 3\n")
    with pytest.raises(FileNotFoundError, match=r"\.npy, .*\.off.* FOLDER/\*\.txt"):
        find_cloud_files([tmp_path])


@pytest.mark.parametrize("source", "xyz")
@pytest.mark.parametrize("target", "xyz")
def test_up_points_up_and_no_cloud_is_mirrored(source, target):
    before = POINTS.copy()
    turned = turn_up_axis(POINTS, source, target)
    np.testing.assert_array_equal(POINTS, before)
    np.testing.assert_array_equal(turned[:, "xyz".index(target)], POINTS[:, "xyz".index(source)])
    matrix = turn_up_axis(np.eye(3), source, target)
    np.testing.assert_allclose(np.linalg.det(matrix), 1)
    np.testing.assert_allclose(turned[:, :3], POINTS[:, :3] @ matrix)
    np.testing.assert_allclose(turned[:, 3:], POINTS[:, 3:] @ matrix)  # the normals too
    np.testing.assert_array_equal(turn_up_axis(turned, target, source), POINTS)


def test_y_up_becomes_z_up_as_everywhere():
    np.testing.assert_array_equal(turn_up_axis([[1, 2, 3]], "y", "z"), [[1, -3, 2]])


def test_another_axis_is_refused():
    with pytest.raises(ValueError, match="got 'up' to be turned to 'z'"):
        turn_up_axis(POINTS, "up", "z")
