"""Arrays of points: NPY, NPZ, HDF5, KITTI's scans, vertices of PLY."""

import io
import tracemalloc
import zipfile
from typing import Any

import numpy as np
import pytest

from sharedmlp.data import MeshReadError, read_cloud

from .clouds import load_cloud

RNG = np.random.default_rng(0)
POINTS = RNG.normal(size=(40, 3))
NORMALS = POINTS / np.linalg.norm(POINTS, axis=1, keepdims=True)
COLORS = RNG.integers(0, 256, size=(40, 3)).astype("u1")
LABELS = np.arange(40) % 5


def save(path, content):
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif path.suffix == ".npz":
        np.savez_compressed(path, **content)
    elif path.suffix == ".npy":
        np.save(path, content)
    else:
        with pytest.importorskip("h5py").File(path, "w") as file:
            for name, array in content.items():
                file[name] = array
    return path


@pytest.mark.parametrize("dtype", ["f4", "f8", ">f4", "f2"])
def test_channels_first_is_turned(tmp_path, dtype):
    both = np.hstack([POINTS, NORMALS]).astype(dtype)
    for name, array in (("a", both), ("b", both.T), ("c", np.asfortranarray(both))):
        path = save(tmp_path / f"{name}.npy", array)
        np.testing.assert_array_equal(read_cloud(path, 40, seed=0, normals=True), both)
        np.testing.assert_array_equal(read_cloud(path, 40, seed=0), both[:, :3])


@pytest.mark.parametrize("shape", [(3, 3), (3, 6), (6, 6), (4, 12)])
def test_either_axis_may_be_the_points_of_a_small_array(tmp_path, shape):
    with pytest.raises(MeshReadError, match="either axis may be the points; save it with one"):
        load_cloud(save(tmp_path / "a.npy", RNG.normal(size=shape)))


@pytest.mark.parametrize("shape", [(2, 40), (20, 300), (13, 2048), (40, 40)])
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_a_wide_array_is_no_cloud_of_few_points(tmp_path, suffix, shape):
    array = RNG.normal(size=shape)
    path = save(tmp_path / f"a{suffix}", array if suffix == ".npy" else {"data": array})
    with pytest.raises(MeshReadError, match="neither axis can be told to be the points; save it"):
        load_cloud(path)


@pytest.mark.parametrize("shape", [(7, 3), (13, 12), (2, 3), (80, 70)])
def test_these_are_points_by_row(tmp_path, shape):
    array = RNG.normal(size=shape)
    cloud = load_cloud(save(tmp_path / "a.npy", array))
    np.testing.assert_array_equal(cloud.points, array[:, :3])


FIELDS: dict[str, Any] = {
    "of PCL": [("x", "f4"), ("y", "f4"), ("z", "f4"), ("rgb", "u1", (3,)), ("label", "i4")],
    "as vectors": [("xyz", "f4", (3,)), ("normal", "f4", (3,)), ("class", "u1")],
    "in another order": [("z", "f8"), ("Intensity", "u2"), ("y", "f8"), ("x", "f8")],
    "without names": [("f0", "f4"), ("f1", "f4"), ("f2", "f4"), ("f3", "f4")],
}


@pytest.mark.parametrize("case", FIELDS)
def test_structured_arrays_by_the_names_of_their_fields(tmp_path, case):
    array = np.zeros(40, FIELDS[case])
    columns: dict[str, Any] = {"x": 0, "y": 1, "z": 2, "f0": 0, "f1": 1, "f2": 2}
    columns |= {"xyz": ..., "rgb": ..., "normal": ...}
    sources = {"rgb": COLORS, "normal": NORMALS}
    for name in array.dtype.names:
        if name in columns:
            array[name] = sources.get(name, POINTS)[:, columns[name]]
        else:
            array[name] = LABELS
    cloud = load_cloud(save(tmp_path / "a.npy", array))
    np.testing.assert_allclose(cloud.points, POINTS, rtol=1e-6)
    assert (cloud.labels is None) == (case in ("in another order", "without names"))
    assert (cloud.colors is None) == (case != "of PCL")
    assert (cloud.normals is None) == (case != "as vectors")
    assert (cloud.intensity is None) == (case != "in another order")
    if cloud.colors is not None:
        np.testing.assert_allclose(cloud.colors, COLORS / 255)


NAMED = {
    "vectors": {"points": POINTS, "normals": NORMALS, "colors": COLORS, "labels": LABELS},
    "columns": {
        **dict(zip("xyz", POINTS.T, strict=True)),
        **dict(zip(("nx", "ny", "nz"), NORMALS.T, strict=True)),
        **dict(zip(("red", "green", "blue"), COLORS.T, strict=True)),
        "label": LABELS[:, None],
    },
    "channels first": {"xyz": POINTS.T, "normal": NORMALS.T, "rgb": COLORS / 255, "class": LABELS},
}


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".hdf5"])
@pytest.mark.parametrize("case", NAMED)
def test_arrays_by_their_names(tmp_path, suffix, case):
    path = save(tmp_path / f"a{suffix}", NAMED[case])
    read = read_cloud(path, 40, seed=0, features=("colors", "normals"))
    np.testing.assert_allclose(read, np.hstack([POINTS, COLORS / 255, NORMALS]))
    np.testing.assert_array_equal(load_cloud(path).labels, LABELS)


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_a_single_array_of_any_name(tmp_path, suffix):
    path = save(tmp_path / f"a{suffix}", {"arr_0": np.hstack([POINTS, NORMALS])})
    np.testing.assert_allclose(load_cloud(path).normals, NORMALS)
    path = save(tmp_path / f"b{suffix}", {"points": np.hstack([POINTS, NORMALS]).T, "id": 3})
    np.testing.assert_allclose(load_cloud(path).normals, NORMALS)


def test_further_arrays_of_an_npz_do_no_harm(tmp_path):
    path = save(
        tmp_path / "a.npz", {"xyz": POINTS, "classes": np.array(["a", "b"]), "pose": np.eye(4)}
    )
    np.testing.assert_array_equal(load_cloud(path).points, POINTS)
    for label in (np.array(3), np.array([3])):  # of the whole cloud
        cloud = load_cloud(save(tmp_path / "b.npz", {"points": POINTS, "label": label}))
        np.testing.assert_array_equal(cloud.points, POINTS)
        assert cloud.labels is None


def test_kitti_and_nuscenes(tmp_path):
    for name, channels in (("a.bin", 4), ("a.pcd.bin", 5)):
        scan = RNG.random((40, channels)).astype("<f4")
        path = save(tmp_path / name, scan.tobytes())
        read = read_cloud(path, 40, seed=0, features=("intensity",))
        np.testing.assert_array_equal(read, scan[:, :4])


PLY = "ply\nformat {} 1.0\nelement vertex 40\n{}end_header\n"
VERTEX = [
    *((name, "f4") for name in ("x", "y", "z", "nx", "ny", "nz")),
    *((name, "u1") for name in ("red", "green", "blue")),
    *((name, "f4") for name in ("scalar_Label", "f_dc_0")),
]
VERTEX[1] = ("y", "f8")
TYPES = {"f4": "float", "f8": "double", "u1": "uchar", "u2": "ushort"}


def write_ply(path, form, fields=VERTEX, colors=COLORS):
    """A file of points in one of the three forms."""
    columns = np.hstack([POINTS, NORMALS, colors, LABELS[:, None], LABELS[:, None]]).T
    names = [name for name, _ in VERTEX]
    header = "".join(f"property {TYPES[code]} {name}\n" for name, code in fields)
    records = np.zeros(
        40, [(name, (">" if "big" in form else "<") + code) for name, code in fields]
    )
    for name, _ in fields:
        records[name] = columns[names.index(name)]
    if form == "ascii":
        body = "".join(" ".join(map(str, record)) + "\n" for record in records.tolist()).encode()
    else:
        body = records.tobytes()
    return save(path, PLY.format(form, header).encode() + body)


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_vertices_of_ply(tmp_path, form):
    cloud = load_cloud(write_ply(tmp_path / "a.ply", form))
    np.testing.assert_allclose(cloud.points, POINTS, rtol=1e-6)
    np.testing.assert_allclose(cloud.normals, NORMALS, atol=1e-6)
    np.testing.assert_allclose(cloud.colors, COLORS / 255)
    np.testing.assert_array_equal(cloud.labels, LABELS)
    cloud = load_cloud(write_ply(tmp_path / "b.ply", form, colors=COLORS % 2))
    assert cloud.colors.max() == 1 / 255  # of 255 whatever the largest is, as the type is uchar
    path = write_ply(tmp_path / "c.ply", form, fields=VERTEX[:3])
    with pytest.raises(MeshReadError, match=r"c\.ply: has no colors$"):
        read_cloud(path, 40, seed=0, features=("colors",))


def test_normals_of_a_splat_are_often_zero(tmp_path):
    columns = [*VERTEX[:6], VERTEX[-1]]
    path = write_ply(tmp_path / "a.ply", "binary_little_endian", fields=columns)
    content = bytearray(path.read_bytes())
    start = content.index(b"end_header\n") + 11
    records = np.frombuffer(content, [(n, "<" + c) for n, c in columns], offset=start)
    for name in ("nx", "ny", "nz"):
        records[name] = 0
    path.write_bytes(content)
    np.testing.assert_allclose(read_cloud(path, 40, seed=0), POINTS, rtol=1e-6)
    with pytest.raises(
        MeshReadError, match=r"a\.ply: has no normals: its normals all have length 0"
    ):
        read_cloud(path, 40, seed=0, normals=True)


def test_normals_of_other_lengths_are_scaled_if_they_are_named(tmp_path):
    path = save(tmp_path / "a.npz", {"points": POINTS, "normals": NORMALS * 127})
    np.testing.assert_allclose(load_cloud(path).normals, NORMALS)


def bomb():
    """A small file that holds 100 MB of zeros."""
    start = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        start, {"descr": "<f8", "fortran_order": False, "shape": (1 << 22, 3)}
    )
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("points.npy", start.getvalue() + bytes(100_663_296))
    return file.getvalue()


NPZ = io.BytesIO()
np.savez_compressed(NPZ, points=POINTS)
REFUSED = {
    "no zip": ("a.npz", b"1 2 3\n", "is no sound .npz file"),
    "a cut zip": ("a.npz", NPZ.getvalue()[:-30], "is no sound .npz file"),
    "objects": ("a.npz", {"points": np.array([{}])}, "expected an array of numbers, got dtype obj"),
    "many arrays": ("a.npz", {"a": POINTS, "b": POINTS}, r"found a \(40, 3\), b \(40, 3\)"),
    "no array": ("a.npz", {}, "is no sound .npz file|found none"),
    "other lengths": ("a.npz", {"points": POINTS, "labels": LABELS[:7]}, "has 7 labels for 40"),
    "columns of other lengths": ("a.npz", {"x": LABELS, "y": LABELS[:7], "z": LABELS}, "has colu"),
    "fields without names": ("a.npy", np.zeros(4, [("a", "f4", (2,))]), "has no fields named x, y"),
    "fields of other names": (
        "a.npy",
        np.zeros(4, [("intensity", "f4"), ("px", "f4"), ("py", "f4"), ("pz", "f4")]),
        "has no fields named x, y and z; its fields are intensity, px, py, pz",
    ),
    "an array of records": ("a.npy", np.zeros((2, 2), [("x", "f4")]), r"of shape \(N,\), got"),
    "a set of clouds": ("a.h5", {"data": POINTS[None]}, r"is a set of clouds, 'data' of shape"),
    "no HDF5": ("a.h5", b"1 2 3\n", "is no readable HDF5 file"),
    "an NPY as KITTI": ("a.bin", b"\x93NUMPY" + bytes(123), r"\(its content is a NumPy array\)"),
    "no bytes": ("a.bin", b"", "has 0 bytes, no multiple of 16: expected float32 x, y, z, int"),
    "a buffer of glTF": ("a.bin", POINTS.astype("<f4").tobytes(), "cannot be a scan's, the first"),
    "random bytes": ("a.bin", RNG.bytes(1600), "of its 100 points cannot be a scan's"),
    "JSON": ("a.txt", b'{"points": [[1, 2, 3]]}', "holds no array of numbers"),
    "a pickle": ("a.txt", b"\x80\x04\x95\0\0\0", "a Python pickle, which is not read"),
    "a web page": ("a.csv", b"<!DOCTYPE html>\n<p>404", "a page of HTML, such as a failed down"),
    "a PLY as text": ("a.txt", b"ply\nformat ascii 1.0\n", r"\(its content is a PLY file\)"),
    "packed splats": (
        "a.ply",
        b"ply\nformat ascii 1.0\nelement vertex 1\nproperty uint packed_position\nend_header\n7\n",
        "holds compressed Gaussian splats, which are not read",
    ),
    "gzip": ("a.pcd", b"\x1f\x8b\x08\0", "compressed by gzip"),
    "Git LFS": ("a.las", b"version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_is_said_in_a_line(tmp_path, case):
    name, content, reason = REFUSED[case]
    path = save(tmp_path / name, content)
    with pytest.raises(MeshReadError, match=reason) as error:
        load_cloud(path)
    assert "\n" not in str(error.value)


def test_a_bomb_is_not_unpacked(tmp_path):
    path = save(tmp_path / "a.npz", bomb())
    tracemalloc.start()
    try:
        with pytest.raises(MeshReadError, match="claims 100663424 bytes of arrays, more than 100"):
            load_cloud(path)
        assert tracemalloc.get_traced_memory()[1] < 30e6
    finally:
        tracemalloc.stop()


def test_hdf5_reads_no_other_file_and_makes_no_room(tmp_path):
    h5py = pytest.importorskip("h5py")
    save(tmp_path / "secret.h5", {"points": POINTS})
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["points"] = h5py.ExternalLink("secret.h5", "points")
    with pytest.raises(MeshReadError, match="expected an array named points or xyz"):
        load_cloud(tmp_path / "a.h5")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file.create_dataset("points", (10**10, 3), "f8", chunks=(1000, 3))
    with pytest.raises(MeshReadError, match="claims 240000000000 bytes for 'points'"):
        load_cloud(tmp_path / "b.h5")


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    path = save(tmp_path / "a.h5", {"points": POINTS})
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(ImportError, match=r"HDF5 needs h5py: pip install 'sharedmlp\[hdf5\]'"):
        load_cloud(path)
