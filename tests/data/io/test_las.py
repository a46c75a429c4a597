import io
import struct
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from sharedmlp.data import MeshReadError, read_cloud

from .clouds import load_cloud

laspy = pytest.importorskip("laspy")
pytest.importorskip("lazrs")

RNG = np.random.default_rng(0)
# As in UTM: more digits than a float32 has.
POINTS = np.array([500_000, 5_000_000, 300]) + RNG.normal(size=(500, 3)).round(3)


def make_las(point_format=3, *, compress=False, count=500, colors=65535, extra=(), version="1.4"):
    las = laspy.create(point_format=point_format, file_version=version)
    las.header.scales, las.header.offsets = [0.001] * 3, [500_000, 5_000_000, 0]
    for name in extra:
        las.add_extra_dim(laspy.ExtraBytesParams(name=name, type="f4"))
    las.x, las.y, las.z = POINTS[:count].T
    las.intensity = np.arange(count)
    las.classification = np.arange(count) % 20
    for name in ("red", "green", "blue"):
        if name in las.point_format.dimension_names:
            las[name] = RNG.integers(0, colors + 1, size=count)
    for name in extra:
        las[name] = np.full(count, 3**-0.5)
    file = io.BytesIO()
    las.write(file, do_compress=compress)
    return file.getvalue(), las


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize(
    ("point_format", "version"), [(0, "1.2"), (3, "1.2"), (6, "1.4"), (7, "1.4")]
)
def test_las_and_laz_of_any_point_format(tmp_path, compress, point_format, version):
    content, las = make_las(point_format, compress=compress, version=version)
    path = tmp_path / ("a.laz" if compress else "a.las")
    path.write_bytes(content)
    cloud = load_cloud(path)
    np.testing.assert_allclose(cloud.points, POINTS, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(cloud.intensity, np.arange(500))
    np.testing.assert_array_equal(cloud.labels, np.arange(500) % 20)
    assert (cloud.colors is None) == (point_format in (0, 6))
    if cloud.colors is not None:
        expected = np.stack([las.red, las.green, las.blue], axis=1) / 65535
        np.testing.assert_allclose(cloud.colors, expected)
    assert read_cloud(path, 64, seed=0, features=("intensity",)).shape == (64, 4)
    with pytest.raises(MeshReadError, match=r"a\.la[sz]: has no normals$"):
        read_cloud(path, 64, seed=0, features=("normals",))


def test_colors_of_eight_bits_and_of_none(tmp_path):
    path = tmp_path / "a.las"
    content, las = make_las(3, colors=255)
    path.write_bytes(content)
    expected = np.stack([las.red, las.green, las.blue], axis=1) / 255
    np.testing.assert_allclose(load_cloud(path).colors, expected)
    path.write_bytes(make_las(3, colors=0)[0])  # room for colors that nobody wrote
    assert load_cloud(path).colors is None


def test_normals_among_the_extra_bytes(tmp_path):
    path = tmp_path / "a.las"
    path.write_bytes(make_las(extra=("NormalX", "NormalY", "NormalZ"))[0])
    np.testing.assert_allclose(load_cloud(path).normals, 3**-0.5, rtol=1e-6)


def with_count(content, count):
    """The same file, whose header promises more points."""
    changed = bytearray(content)
    changed[247:255] = struct.pack("<Q", count)  # of LAS 1.4
    return bytes(changed)


LAS, LAZ = make_las()[0], make_las(compress=True)[0]
REFUSED = {
    "empty": (b"", "does not begin as a LAS file does"),
    "text": (b"1 2 3\n", "does not begin as a LAS file does: expected LASF, got b'1 2 '"),
    "the magic alone": (b"LASF", "cannot be read as LAS"),
    "cut in the header": (LAS[:200], "cannot be read as LAS|promises"),
    "cut short": (LAS[:-1], "its header promises 500 points of 34 bytes: the file of"),
    "cut short and compressed": (LAZ[: len(LAZ) // 2], "cannot be read as LAS|promises"),
    "many points": (with_count(LAS, 10**12), "promises 1000000000000 points"),
    "many compressed": (with_count(LAZ, 10**12), "promises 1000000000000 points"),
    "more compressed": (with_count(LAZ, 600), "cannot be read as LAS|holds 500 points where"),
    "no points": (make_las(count=0)[0], "holds no points"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_is_said_in_a_line(tmp_path, case, capfd):
    content, reason = REFUSED[case]
    path = tmp_path / "a.laz"
    path.write_bytes(content)
    with pytest.raises(MeshReadError, match=reason):
        load_cloud(path)
    assert not any(capfd.readouterr())


def test_many_chunks(tmp_path):
    """The chunks of LAZ have 50,000 points."""
    path = tmp_path / "a.laz"
    points = np.random.default_rng(2).normal(size=(120_000, 3)).round(3)
    for point_format in (1, 7):
        las = laspy.create(point_format=point_format)
        las.header.scales = [0.001] * 3
        las.x, las.y, las.z = points.T
        las.write(path)
        np.testing.assert_allclose(load_cloud(path).points, points, rtol=0, atol=1e-4)


def damage(files, rng):
    """Write over a few bytes, mostly of the header, and maybe cut the end off."""
    content = bytearray(files[rng.integers(len(files))])
    most = len(content) if rng.random() < 0.3 else 700
    for _ in range(rng.integers(1, 4)):
        start, length = rng.integers(most), rng.choice([1, 1, 2, 4, 8])
        values = [0, 1, 127, 255, rng.integers(256)]
        content[start : start + length] = bytes(rng.choice(values, size=length).tolist())
    return content if rng.random() < 0.8 else content[: rng.integers(1, len(content))]


@pytest.mark.parametrize("count", [150, pytest.param(10_000, marks=pytest.mark.slow)])
def test_damaged_files_are_refused_or_read(tmp_path, count):
    """Whatever they promise: lazrs would end the process if there is not so much memory."""
    code = f"""
        import contextlib, resource, sys
        import numpy as np
        from tests.data.io.test_las import damage, load_cloud, make_las, MeshReadError
        files = [make_las()[0], make_las(3, extra=("NormalX",))[0]]
        files += [make_las(f, compress=True, version="1.4")[0] for f in (0, 3, 6, 7)]
        rng = np.random.default_rng(0)
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 400_000_000,) * 2)
        resource.setrlimit(resource.RLIMIT_CPU, ({count // 50 + 60},) * 2)
        path = {str(tmp_path / "a.laz")!r}
        for _ in range({count}):
            with open(path, "wb") as file:
                file.write(damage(files, rng))
            with contextlib.suppress(MeshReadError):
                load_cloud(path)
        print("done")
    """
    if not sys.platform.startswith("linux"):
        pytest.skip("limits of memory are Linux's")
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=900
    )
    assert result.stdout == "done\n", result.stderr[-2000:]


@pytest.mark.parametrize("module", ["laspy", "lazrs"])
def test_a_missing_extra_is_named(tmp_path, monkeypatch, module):
    monkeypatch.setitem(__import__("sys").modules, module, None)
    (tmp_path / "a.las").write_bytes(LAS)
    with pytest.raises(ImportError, match=r"LAS and LAZ needs laspy and lazrs: pip .*\[clouds\]"):
        load_cloud(tmp_path / "a.las")
