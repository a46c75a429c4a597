"""Whatever the bytes: the mesh that they describe, or `MeshReadError`, and soon."""

import subprocess
import sys
import textwrap
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sharedmlp.data import MeshReadError, read_mesh
from sharedmlp.data.io.plain_off import read_plain_off

from .meshes import TETRAHEDRON, TWO_TRIANGLES, edges
from .reference_off import read_off

QUADS = "OFF\n5 2 0\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n-1 0.5 0\n3 0 3 4\n4 0 1 2 3\n"
COLORED = "COFF\n3 1 0\n0 0 0 255 0 0 255\n1 0 0 0 255 0 255\n0 1 0 0 0 9 255\n3 0 1 2 1 .5 0\n"
SEEDS = [
    TETRAHEDRON,
    TETRAHEDRON.replace("OFF\n", "OFF"),
    TETRAHEDRON.replace("\n", "\r\n"),
    TETRAHEDRON.replace("1 0 0", "-1.25e-3 +0.5 .125") + "# end\n",
    TWO_TRIANGLES,
    QUADS,
    COLORED,
    "\ufeff# a\n\nOFF # b\n3 1\n0 0 0\n1 0 0\n\n0 1.000000000000000001 1e0\n3 0 1 2\n",
]
# What a mutation writes: all that means something in the format, and what nearly does.
TOKENS = [
    *(bytes([byte]) for byte in b"0123456789+-.eE #_\t\n\r\v\f\0\x1c\x1f\x85\xa0\xff"),
    *(b"OFF", b"COFF", b"nan", b"inf", b"1.#IND", b"0x1A", b"1e999", b"-1", b"1_0", b"1-2"),
    *(
        b"3 0 1 2\n",
        b"0 0 1\n",
        b"4 4 6\n",
        b"-0.0",
        b"+ ",
        b"-.",
        b"9" * 20,
        b"1000000000000",
        b"\r\n",
        b"\n\n",
    ),
]


@st.composite
def mutated(draw):
    """A sound file, or the start of one, with a few pieces replaced, inserted or cut out."""
    content = bytearray(draw(st.sampled_from(SEEDS)).encode())
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(content)))
        length = draw(st.sampled_from([0, 0, 1, 1, 2, 8, 1000]))
        content[start : start + length] = draw(st.sampled_from([b"", *TOKENS]))
    return bytes(content)


def sort_triangles(vertices, faces):
    """The triangles as a multiset that is the same wherever each begins."""
    corners = [[tuple(map(float, vertices[i])) for i in face] for face in faces]
    return Counter(min((*t,), (t[1], t[2], t[0]), (t[2], t[0], t[1])) for t in map(tuple, corners))


def check(path, content):
    """Hold `read_mesh` against the reference on one file; True where both read it."""
    path.write_bytes(content)
    try:
        expected = read_off(content)
    except ValueError:
        with pytest.raises(MeshReadError):
            read_mesh(path)
        return False
    try:
        mesh = read_mesh(path)
    except MeshReadError as error:
        if "no area" in error.reason or "not finite in float32" in error.reason:
            return False
        raise
    np.testing.assert_array_equal(mesh.vertices, expected[0])
    assert len(mesh.faces) == len(expected[1])
    # A concave polygon is cut elsewhere than into the reference's fan, along the same outline.
    if sort_triangles(mesh.vertices, mesh.faces) != sort_triangles(*expected):
        assert edges(mesh.faces.tolist()) == edges(expected[1])
    return True


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "mesh.off"


EXAMPLES = [
    # Signs and points that would make the numbers of a plain line come out even.
    TETRAHEDRON.replace("1 0 0", "1.-5 . 0"),
    TETRAHEDRON.replace("1 0 0", "1-5 0"),
    TETRAHEDRON.replace("1 0 0\n0 1 0", "1 0 0 0\n1 0"),
    TETRAHEDRON.replace("3 0 2 1\n3 0 1 3", "3 0 2\n1 3 0 1 3"),
    TETRAHEDRON.replace("1 0 0", "1.0.0 0 0"),
    TETRAHEDRON.replace("1 0 0", "1 + 0"),
    TETRAHEDRON.replace("1 0 0", "1 .-1 0"),
    TETRAHEDRON.replace("1 0 0", "1 0 1-1"),
    TETRAHEDRON.replace("1 0 0", "1 0 -."),
    TETRAHEDRON.replace("1 0 0", "1e 0 e1"),
    TETRAHEDRON.replace("3 0 3 2", "3 0 3 +"),
    TETRAHEDRON.replace("1 0 0", "12345678901234567890.5 0 1"),
    TETRAHEDRON.replace("1 0 0", "-99999999999999999999 0 1"),
    TETRAHEDRON.replace("1 0 0", "0.1000000000000000055511151231257827 0 1"),
    TETRAHEDRON.replace("1 0 0", "0.00000000000000000000000001 0 1"),
    TETRAHEDRON.replace("1 0 0", "9007199254740993 0.9007199254740993 1"),
    TETRAHEDRON.replace("1 0 0", "-0.0 -.5 5."),
    TETRAHEDRON.replace("3 1 2 3", "3 1 2 18446744073709551619"),
    TETRAHEDRON.replace("3 1 2 3", "4 1 2 3"),
    TETRAHEDRON.replace("3 1 2 3", "3 1 2 3 x"),
    # A face that is not convex.
    "OFF\n5 2 0\n10 0 0\n1 0 0\n1 1 0\n0 1 0\n-1 0.5 0\n3 0 3 4\n4 0 1 2 3\n",
    "OFF\n5 3 0\n0 0 0 1\n1 0 0 1\n0 1 0 1\n0 0 1 1\n3 0 2 1\n3 0 1 3\n3 1 2 3\n3 0 3 2\n",
]


@pytest.mark.parametrize("content", [*SEEDS, *EXAMPLES])
def test_readers_agree(path, content):
    check(path, content.encode())


def test_the_sound_ones_are_read(path):
    assert all(check(path, content.encode()) for content in SEEDS)
    plain = [read_plain_off(content.encode()) is not None for content in SEEDS]
    assert plain == [True, True, True, False, True, False, False, False]


@settings(
    max_examples=400,
    deadline=1000,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(content=mutated())
@example(content=b"OFF")
def test_mutated_files(path, content):
    check(path, content)


@pytest.mark.slow
@settings(max_examples=50_000, deadline=1000, suppress_health_check=list(HealthCheck))
@given(content=mutated() | st.binary(max_size=200))
def test_many_mutated_files(path, content):
    check(path, content)


@settings(max_examples=300, deadline=1000, derandomize=True)
@given(
    values=st.lists(
        st.floats(allow_nan=False, allow_infinity=False) | st.decimals(-1000, 1000, places=6),
        min_size=9,
        max_size=30,
    ),
    form=st.sampled_from(["{}", "{:.6f}", "{:.17g}", "{:e}", "{:+.3f}", "{:.30f}"]),
)
def test_numbers_are_rounded_as_python_rounds_them(values, form):
    texts = [form.format(value) for value in values[: len(values) // 3 * 3]]
    lines = [" ".join(texts[i : i + 3]) for i in range(0, len(texts), 3)]
    plain = read_plain_off(f"OFF\n{len(lines)} 1 0\n{chr(10).join(lines)}\n3 0 1 2\n".encode())
    assert plain is not None
    assert plain.vertices.ravel().tolist() == [float(text) for text in texts]


HUGE = {
    "vertices": "OFF\n1000000000000 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n",
    "faces": "OFF\n3 1000000000000 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n",
    "both": "OFF 999999999999999999 999999999999999999 0\n3 0 1 2\n",
    "sum beyond 64 bits": "OFF\n18446744073709551619 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n",
    "edges": "OFF\n3 1 999999999999999999\n0 0 0\n1 0 0\n0 1 0\n3 0 1 3\n",
    "corners": "OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n1000000000000 0 1 2\n",
    "index": "OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 1000000000000\n",
    "exponent": "OFF\n3 1 0\n0 0 0\n1e999999999 0 0\n0 1 0\n3 0 1 2\n",
    "small exponent": "OFF\n3 1 0\n0 0 0\n1e-999999999 0 0\n0 0 0\n3 0 1 2\n",
}


@pytest.mark.parametrize("case", HUGE)
def test_no_hundred_bytes_take_much_memory(case, path):
    path.write_text(HUGE[case])
    assert path.stat().st_size <= 100
    tracemalloc.start()
    try:
        with pytest.raises(MeshReadError):
            read_mesh(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000


def test_all_of_them_pass_in_a_process_of_little_memory(tmp_path):
    """Also what no tracer of Python sees: address space, and time."""
    for name, content in HUGE.items():
        (tmp_path / f"{name}.off").write_text(content)
    code = f"""
        import resource, trimesh
        from pathlib import Path
        from sharedmlp.data.io.mesh import MeshReadError, read_mesh
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 50_000_000,) * 2)
        resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
        for path in Path({str(tmp_path)!r}).glob("*.off"):
            try:
                read_mesh(path)
            except MeshReadError:
                print("refused")
    """
    if not sys.platform.startswith("linux"):
        pytest.skip("limits of memory are Linux's")
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=300
    )
    assert result.stdout.split() == ["refused"] * len(HUGE), result.stderr


def test_a_long_line_takes_no_time_to_speak_of(path):
    """No check may be quadratic in the length of a line or in the number of lines."""
    import time

    for content in (
        "OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 " + "2" * 1_000_000,
        "OFF" + " " * 1_000_000 + "\n3 1 0\n",
        "OFF\n" * 200_000,
        "#\n" * 500_000,
        "1." * 500_000,
        "OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 " + "0 " * 500_000 + "\n3 0 1 2\n",
    ):
        path.write_text(content)
        start = time.perf_counter()
        with pytest.raises(MeshReadError):
            read_mesh(path)
        assert time.perf_counter() - start < 5
