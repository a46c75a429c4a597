import warnings

import numpy as np
import pytest

from sharedmlp.data import MeshReadError, read_cloud

from .clouds import load_cloud
from .pcd_files import header, write_pcd

RNG = np.random.default_rng(0)
POINTS = RNG.normal(size=(60, 3)).astype("f4")
COLORS = RNG.integers(0, 256, size=(60, 3)).astype("u4")
X, Y, Z = POINTS.T
ENCODINGS = ["ascii", "binary", "binary_compressed"]


@pytest.fixture
def read(tmp_path):
    def load(content):
        (tmp_path / "a.pcd").write_bytes(content)
        return load_cloud(tmp_path / "a.pcd")

    return load


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_fields_of_any_type_and_count_come_by_name(read, encoding):
    normals = POINTS / np.linalg.norm(POINTS, axis=1, keepdims=True)
    arrays = {
        "intensity": RNG.random(60).astype("f4"),
        "z": Z.astype("f8"),
        "_": np.zeros((60, 3), "u1"),
        "x": X,
        "histogram": RNG.random((60, 5)).astype("f4"),
        "label": RNG.integers(0, 2**31, 60).astype("u4"),
        "y": Y,
        **dict(zip(("normal_x", "normal_y", "normal_z"), normals.T, strict=True)),
        "ring": np.arange(60).astype("u2"),
    }
    counts = [array.size // 60 for array in arrays.values()]
    cloud = read(write_pcd(list(arrays), list(arrays.values()), encoding, counts))
    np.testing.assert_array_equal(cloud.points, POINTS)
    np.testing.assert_array_equal(cloud.normals, normals)
    np.testing.assert_array_equal(cloud.intensity, arrays["intensity"])
    np.testing.assert_array_equal(cloud.labels, arrays["label"])
    assert cloud.colors is None


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("packed", ["rgb of floats", "rgb of integers", "rgba", "r g b"])
def test_colors_packed_and_plain(read, encoding, packed):
    bits = (255 << 24 if packed == "rgba" else 0) + (COLORS << np.array([16, 8, 0])).sum(axis=1)
    bits = bits.astype("u4")
    if packed == "r g b":
        names, arrays = ["r", "g", "b"], list(COLORS.astype("u1").T)
    else:
        names = [packed.split()[0]]
        arrays = [bits.view("f4") if packed.endswith("floats") else bits]
    cloud = read(write_pcd(["x", "y", "z", *names], [X, Y, Z, *arrays], encoding))
    np.testing.assert_allclose(cloud.colors, COLORS / 255)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_where_a_depth_camera_saw_nothing_is_left_out_and_counted(tmp_path, encoding):
    points = POINTS.copy()
    points[[3, 4, 59]] = np.nan
    points[7, 2] = np.inf if encoding != "ascii" else np.nan
    labels = np.arange(60).astype("u2")
    path = tmp_path / "a.pcd"
    names = ["x", "y", "z", "label"]
    path.write_bytes(write_pcd(names, [*points.T, labels], encoding, WIDTH=10, HEIGHT=6))
    with pytest.warns(UserWarning, match=r"a\.pcd: left out 4 of 60 points, whose coordinates"):
        cloud = load_cloud(path)
    kept = np.setdiff1d(np.arange(60), [3, 4, 7, 59])
    np.testing.assert_array_equal(cloud.labels, kept)
    np.testing.assert_array_equal(cloud.points, POINTS[kept])


def test_nan_elsewhere_costs_no_point(read):
    normals = POINTS / np.linalg.norm(POINTS, axis=1, keepdims=True)
    normals[5] = np.nan
    names = ["x", "y", "z", "normal_x", "normal_y", "normal_z"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cloud = read(write_pcd(names, [X, Y, Z, *normals.T], "ascii"))
    assert len(cloud) == 60
    assert cloud.normals is None
    assert cloud.reasons["normals"] == "1 of its 60 normals are not finite"


@pytest.mark.parametrize("encoding", ["binary", "binary_compressed", "ascii"])
def test_what_pypcd4_writes(tmp_path, encoding):
    pypcd4 = pytest.importorskip("pypcd4")
    points = np.repeat(POINTS.round(1), 50, axis=0)  # so that there is something to compress
    path = tmp_path / "a.pcd"
    written = pypcd4.PointCloud.from_xyz_points(points)
    written.save(path, encoding=pypcd4.Encoding(encoding))
    np.testing.assert_allclose(load_cloud(path).points, points, rtol=1e-9)
    assert encoding != "binary_compressed" or path.stat().st_size < points.nbytes / 2


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_dark_colors_stay_dark(read, encoding):
    """Of 255 if the type is an integer's, though no number is beyond 1."""
    dark = [(COLORS[:, i] % 2).astype("u1") for i in range(3)]
    cloud = read(write_pcd(["x", "y", "z", "r", "g", "b"], [X, Y, Z, *dark], encoding))
    assert cloud.colors.max() == 1 / 255


@pytest.mark.parametrize(
    "lines",
    [
        {"VERSION": ".5", "COUNT": None, "VIEWPOINT": None},
        {"POINTS": None},
        {"WIDTH": 10, "HEIGHT": 6},
        {"HEIGHT": None},
        {"TYPE": "f f f"},
    ],
)
def test_headers_of_other_versions(read, lines):
    content = write_pcd(["x", "y", "z"], [X, Y, Z], "binary", **lines)
    np.testing.assert_array_equal(read(content).points, POINTS)


def test_text_as_people_edit_it(read):
    content = write_pcd(["x", "y", "z"], [X, Y, Z], "ascii")
    for changed in (
        content.replace(b"\n", b"\r\n"),
        content.replace(b" ", b"  ").replace(b"\n", b" \n"),
        content + b"\n\n",
        content.replace(b"FIELDS", b"# a comment\n\nFIELDS"),
        content.replace(b"FIELDS", b"COLUMNS"),
        b"\xef\xbb\xbf" + content,
        content.decode().encode("utf-16"),
    ):
        np.testing.assert_array_equal(read(changed).points, POINTS)


PLAIN = {encoding: write_pcd(["x", "y", "z"], [X, Y, Z], encoding) for encoding in ENCODINGS}
XYZ = (["x", "y", "z"], ["f4"] * 3)
HUGE = 10**12
REFUSED = {
    "empty": (b"", "its header does not end"),
    "another format": (b"ply\nformat ascii 1.0\n", r"found 'ply' \(its content is a PLY file\)"),
    "no data": (header(*XYZ, 5, "binary"), "promises 5 points of 12 bytes, 60 in all, and 0"),
    "cut short": (PLAIN["binary"][:-1], "720 in all, and 719 follow: the file is cut short"),
    "too long": (PLAIN["binary"] + b"\1" * 12, "720 in all, and 732 follow"),
    "a line is missing": (PLAIN["ascii"].rsplit(b"\n", 2)[0], "holds 59 lines of 3 numbers where"),
    "a line too many": (PLAIN["ascii"] + b"1 2 3\n", "holds 61 lines"),
    "a short line": (PLAIN["ascii"][:-4] + b"\n1 2\n", "line 72 has 2 where line 12 has 3"),
    "a word": (PLAIN["ascii"][:-4] + b"x\n", "which is no number"),
    "compressed and cut": (PLAIN["binary_compressed"][:-1], "of which 742 follow: the file is"),
    "compressed, no sizes": (header(*XYZ, 5, "binary_compressed"), "ends before its compressed"),
    "compressed and damaged": (
        PLAIN["binary_compressed"][:-33] + b"\xff" * 33,
        "compressed data are damaged",
    ),
    "many points": (header(*XYZ, HUGE, "binary") + b"\0" * 60, "the file is cut short or its c"),
    "many lines": (header(*XYZ, HUGE, "ascii") + b"0 0 0\n", f"promises {HUGE} points of 3"),
    "many compressed": (
        header(*XYZ, 300_000_000, "binary_compressed") + b"\x08\0\0\0\0\xa4\x93\xd6" + b"\0" * 8,
        "the file is cut short or its counts are wrong",
    ),
    "many values": (
        header(*XYZ, 1, "binary", COUNT=f"1 1 {HUGE}"),
        "has more than 100000 values a point",
    ),
    "no points": (header(*XYZ, 0, "binary"), "holds no points"),
    "no z": (write_pcd(["x", "y"], [X, Y], "binary"), "no columns named x, y and z; .* x, y$"),
    "no fields": (header([], [], 5, "binary"), "has 0 FIELDS and 0 of SIZE"),
    "too few types": (header(*XYZ, 5, "binary", TYPE="F F"), "has 3 FIELDS and 2 of TYPE"),
    "another type": (header(*XYZ, 5, "binary", TYPE="F F X"), "'z': no type of PCD: X of size 4"),
    "half floats": (header(*XYZ, 5, "binary", SIZE="2 2 2"), "no type of PCD: F of size 2"),
    "no number": (header(*XYZ, 5, "binary", WIDTH="-5"), "expected a number as WIDTH, found '-5'"),
    "another product": (header(*XYZ, 5, "binary", HEIGHT=2), "promises 5 points, and 5 x 2 of"),
    "another encoding": (header(*XYZ, 5, "zip"), "expected DATA ascii, binary or binary_comp"),
    "another entry": (
        header(*XYZ, 5, "ascii", VERSION="1\nUNITS m"),
        "line 3: expected the header",
    ),
    "an entry twice": (header(*XYZ, 5, "ascii", VERSION="1\nVERSION 1"), "line 3: expected the"),
    "all NaN": (
        write_pcd(["x", "y", "z"], [X * np.nan, Y, Z], "binary"),
        "none of its 60 points has finite coordinates",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_is_said_in_a_line(read, case):
    content, reason = REFUSED[case]
    with pytest.raises(MeshReadError, match=reason) as error:
        read(content)
    assert "\n" not in str(error.value)


def test_a_missing_extra_is_named(read, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lzf", None)
    with pytest.raises(ImportError, match=r"compressed PCD needs lzf: pip install .*\[clouds\]"):
        read(PLAIN["binary_compressed"])
    assert len(read(PLAIN["binary"])) == 60


def test_points_are_drawn_as_of_any_file(tmp_path):
    path = tmp_path / "a.pcd"
    path.write_bytes(PLAIN["binary"])
    np.save(tmp_path / "a.npy", POINTS)
    np.testing.assert_array_equal(
        read_cloud(path, 20, seed=1), read_cloud(tmp_path / "a.npy", 20, seed=1)
    )
