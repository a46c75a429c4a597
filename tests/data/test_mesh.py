import sys
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import trimesh

from sharedmlp.data import MeshReadError, read_mesh

from .meshes import TETRAHEDRON

VERTICES = "0 0 0\n1 0 0\n0 1 0\n0 0 1\n"
FACES = "3 0 2 1\n3 0 1 3\n3 1 2 3\n3 0 3 2\n"
SQUARE = "0 0 0\n1 0 0\n1 1 0\n0 1 0\n"

# name: (content, vertices, triangles, area)
TETRA_AREA = 1.5 + np.sqrt(3) / 2
GOOD = {
    "plain": (TETRAHEDRON, 4, 4, TETRA_AREA),
    "glued header": (TETRAHEDRON.replace("OFF\n", "OFF"), 4, 4, TETRA_AREA),
    "counts on the OFF line": (TETRAHEDRON.replace("OFF\n", "OFF "), 4, 4, TETRA_AREA),
    "two counts": (TETRAHEDRON.replace("4 4 6", "4 4"), 4, 4, TETRA_AREA),
    "comments": (
        "# made by hand, OFF 9 9\n"
        + TETRAHEDRON.replace("4 4 6", "4 4 6 # counts").replace("1 0 0", "# a\n1 0 0#b\n#c"),
        4,
        4,
        TETRA_AREA,
    ),
    "comments and CR": (
        TETRAHEDRON.replace("4 4 6", "4 4 6 # counts").replace("\n", "\r"),
        4,
        4,
        TETRA_AREA,
    ),
    "a comment that is not ASCII": (f"# Körper\n{TETRAHEDRON}".encode("latin-1"), 4, 4, TETRA_AREA),
    "blank lines": ("\n\n" + TETRAHEDRON.replace("\n", "\n\n"), 4, 4, TETRA_AREA),
    "indented": (TETRAHEDRON.replace("\n", " \t\n  "), 4, 4, TETRA_AREA),
    "form feeds": (TETRAHEDRON.replace("1 0 0", "1 0\x0c0\x0c"), 4, 4, TETRA_AREA),
    "CRLF": (TETRAHEDRON.replace("\n", "\r\n"), 4, 4, TETRA_AREA),
    "CR": (TETRAHEDRON.replace("\n", "\r"), 4, 4, TETRA_AREA),
    "byte order mark": ("\ufeff" + TETRAHEDRON, 4, 4, TETRA_AREA),
    "no newline at the end": (TETRAHEDRON.rstrip(), 4, 4, TETRA_AREA),
    "exponents": (TETRAHEDRON.replace("1 0 0", "1.0e+00 -0.0 0.E0"), 4, 4, TETRA_AREA),
    "quad": (f"OFF\n4 1 0\n{SQUARE}4 0 1 2 3\n", 4, 2, 1),
    "pentagon": (f"OFF\n5 1 0\n{SQUARE}-1 0.5 0\n5 0 1 2 3 4\n", 5, 3, 1.5),
    "triangle and quad": (f"OFF\n5 2 0\n{SQUARE}-1 0.5 0\n3 0 3 4\n4 0 1 2 3\n", 5, 3, 1.5),
    "face colours": (
        TETRAHEDRON.replace("3 0 2 1", "3 0 2 1 255 0 0").replace("3 0 1 3", "3 0 1 3 1 .5 0 1"),
        4,
        4,
        TETRA_AREA,
    ),
    "COFF": (
        "COFF\n3 1 0\n0 0 0 255 0 0 255\n1 0 0 0 255 0 255\n0 1 0 0 0 9 255\n3 0 1 2\n",
        3,
        1,
        0.5,
    ),
    "NOFF": ("NOFF\n3 1 0\n0 0 0 0 0 1\n1 0 0 0 0 1\n0 1 0 0 0 1\n3 0 1 2\n", 3, 1, 0.5),
    "one face without area": (
        TETRAHEDRON.replace("4 4 6", "4 5 6") + "3 1 1 2\n",
        4,
        5,
        TETRA_AREA,
    ),
    "tiny": (f"OFF\n4 1 0\n{SQUARE.replace('1', '1e-9')}4 0 1 2 3\n", 4, 2, 1e-18),
}

# name: (content, what the message has to say)
BAD = {
    "empty": ("", "the file is empty"),
    "only comments": ("# nothing\n\n", "the file is empty"),
    "binary": (b"OFF BINARY\n\0\0\0\4\0\0\0\4", "NUL"),
    "OFF BINARY": ("OFF BINARY\n4 4 6\n", "line 1: expected the counts"),
    "not UTF-8": (bytes(range(128, 256)) * 4, "line 1: expected the keyword OFF"),
    "UTF-16": (TETRAHEDRON.encode("utf-16"), "UTF-16"),
    "no keyword": (TETRAHEDRON.removeprefix("OFF\n"), "line 1: expected the keyword OFF"),
    "4OFF": (TETRAHEDRON.replace("OFF", "4OFF"), "line 1: expected the keyword OFF"),
    "another format": ("ply\nformat ascii 1.0\n", "line 1: expected the keyword OFF"),
    "only the keyword": ("OFF\n", "line 1: the file ends before the vertex and face counts"),
    "one count": (TETRAHEDRON.replace("4 4 6", "4"), "line 2: expected the counts"),
    "counts that are words": (TETRAHEDRON.replace("4 4 6", "a b c"), "line 2: expected the counts"),
    "negative count": (TETRAHEDRON.replace("4 4 6", "4 -4 6"), "line 2: expected the counts"),
    "all on one line": (TETRAHEDRON.replace("\n", " "), "line 1: expected the counts"),
    "huge vertex count": (
        TETRAHEDRON.replace("4 4 6", "999999999999999999 4 0"),
        "line 2: the header promises 999999999999999999 vertices",
    ),
    "count of 5000 digits": (TETRAHEDRON.replace("4 4 6", "9" * 5000 + " 4 0"), "line 2: expected"),
    "no faces": (f"OFF\n4 0 0\n{VERTICES}", "line 2: the header promises 4 vertices and 0 faces"),
    "no vertices": ("OFF\n0 1 0\n3 0 0 0\n", "0 vertices and 1 faces"),
    "nothing": ("OFF\n0 0 0\n", "0 vertices and 0 faces"),
    "fewer faces than promised": (f"OFF\n4 4 6\n{VERTICES}3 0 2 1\n3 0 1 3\n", "6 lines follow"),
    "more faces than promised": (TETRAHEDRON.replace("4 4 6", "4 3 6"), "8 lines follow"),
    "truncated between lines": (TETRAHEDRON[:40], "the last one is line 7"),
    "truncated last face": (TETRAHEDRON[: -len(" 2\n")], "line 10: expected a face"),
    "truncated last vertex": ("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1\n3 0 1 2\n", "line 5: expected"),
    "several faces on a line": (
        TETRAHEDRON.replace("3 0 2 1\n3 0 1 3", "3 0 2 1 3 0 1 3"),
        "several records share a line",
    ),
    "several vertices on a line": (
        TETRAHEDRON.replace("1 0 0\n0 1 0", "1 0 0 0 1 0"),
        "several records share a line",
    ),
    "several faces on a line and another count": (
        f"OFF\n4 2 0\n{VERTICES}3 0 2 1 3 0 1 3 3 1 2 3\n3 0 3 2\n",
        "line 7: after the 3 corners of a face",
    ),
    "one vertex too many in the header": (TETRAHEDRON.replace("4 4 6", "5 4 6"), "8 lines follow"),
    "one vertex too few in the header": (TETRAHEDRON.replace("4 4 6", "3 4 6"), "8 lines follow"),
    "a face counted as a vertex": (
        TETRAHEDRON.replace("4 4 6", "5 3 6"),
        "line 7: expected a vertex, x, y and z and as many values as the first one (3), "
        "found '3 0 2 1'",
    ),
    "a vertex counted as a face": (TETRAHEDRON.replace("4 4 6", "3 5 6"), "line 6"),
    "NaN": (TETRAHEDRON.replace("1 0 0", "nan 0 0"), "line 4: not a finite number: 'nan 0 0'"),
    "infinity": (TETRAHEDRON.replace("1 0 0", "1 -inf 0"), "line 4: not a finite number"),
    "beyond float64": (TETRAHEDRON.replace("1 0 0", "1 0 1e999"), "line 4: not a finite number"),
    "beyond float32": (TETRAHEDRON.replace("1 0 0", "1 0 1e39"), "vertex 1"),
    "-1.#IND": (TETRAHEDRON.replace("1 0 0", "-1.#IND 0 0"), "line 4: not a finite number"),
    "-1.#IND at the end": (TETRAHEDRON.replace("1 0 0", "0 0 -1.#IND"), "line 4: not a finite"),
    "1.#QNAN": (TETRAHEDRON.replace("1 0 0", "0 0 1.#QNAN0"), "line 4: not a finite number"),
    "a word": (TETRAHEDRON.replace("1 0 0", "1 x 0"), "line 4: not a finite number: '1 x 0'"),
    "two values": (TETRAHEDRON.replace("1 0 0", "1 0"), "line 4: expected a vertex"),
    "index too large": (TETRAHEDRON.replace("3 1 2 3", "3 1 2 4"), "line 9: a face refers"),
    "negative index": (TETRAHEDRON.replace("3 1 2 3", "3 1 2 -1"), "refers to vertex -1"),
    "index of 5000 digits": (TETRAHEDRON.replace("3 1 2 3", "3 1 2 " + "9" * 5000), "line 9"),
    "index with a point": (TETRAHEDRON.replace("3 1 2 3", "3 1 2 3.0"), "line 9: expected a face"),
    "face of two corners": (TETRAHEDRON.replace("3 1 2 3", "2 1 2"), "line 9: expected a face"),
    "face of no corners": (TETRAHEDRON.replace("3 1 2 3", "0"), "line 9: expected a face"),
    "negative face size": (TETRAHEDRON.replace("3 1 2 3", "-1 1 2 3 0"), "line 9: expected a face"),
    "line numbers count comments": (
        "# one\n\n" + TETRAHEDRON.replace("1 0 0", "nan 0 0"),
        "line 6: not a finite number",
    ),
    "no area": ("OFF\n3 1 0\n0 0 0\n.1 .1 .1\n.3 .3 .3\n3 0 1 2\n", "no area"),
    "no area but for rounding": (
        "OFF\n3 1 0\n.1 .1 .1\n.13 .19 .31\n.17 .31 .59\n3 0 1 2\n",
        "no area",
    ),
    "no area, far away": ("OFF\n3 2 0\n7 7 7\n7 7 7\n7 7 7\n3 0 1 2\n3 2 1 0\n", "no area"),
}


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("case", GOOD)
def test_off_that_has_to_be_read(case, tmp_path):
    content, num_vertices, num_triangles, area = GOOD[case]
    mesh = read_mesh(write(tmp_path / "mesh.off", content))
    assert mesh.vertices.shape == (num_vertices, 3)
    assert mesh.faces.shape == (num_triangles, 3)
    assert mesh.area == pytest.approx(area)


@pytest.mark.parametrize("case", BAD)
def test_off_that_has_to_be_refused(case, tmp_path):
    content, message = BAD[case]
    path = write(tmp_path / "mesh.off", content)
    with pytest.raises(MeshReadError) as caught:
        read_mesh(path)
    assert message in caught.value.reason
    assert caught.value.path == path
    assert str(caught.value) == f"{path}: {caught.value.reason}"
    assert len(caught.value.reason) < 500


@pytest.mark.parametrize("length", range(len(TETRAHEDRON) - 2))
def test_off_cut_short_anywhere_is_refused(length, tmp_path):
    # The last two characters are a line end and the only digit of a last corner.
    with pytest.raises(MeshReadError):
        read_mesh(write(tmp_path / "mesh.off", TETRAHEDRON[:length]))


@pytest.mark.parametrize("suffix", ["OFF", "ply", "stl", "obj", "glb"])
def test_other_formats_hold_the_same_mesh(suffix, tmp_path):
    box = trimesh.creation.box(extents=(1, 2, 3))
    path = tmp_path / f"mesh.{suffix}"
    box.export(path, file_type=suffix.lower())
    mesh = read_mesh(path)
    assert len(mesh.faces) == 12
    assert mesh.area == pytest.approx(22)


def test_a_scene_becomes_one_mesh(tmp_path):
    first, second = trimesh.creation.box(), trimesh.creation.box()
    scene = trimesh.Scene(first)
    scene.add_geometry(second, transform=trimesh.transformations.translation_matrix([5, 0, 0]))
    scene.export(tmp_path / "scene.glb")
    mesh = read_mesh(tmp_path / "scene.glb")
    assert len(mesh.faces) == 24
    np.testing.assert_allclose(mesh.bounds, [[-0.5, -0.5, -0.5], [5.5, 0.5, 0.5]])


def ply(vertices: str, faces: str) -> str:
    return (
        f"ply\nformat ascii 1.0\nelement vertex {vertices.count(chr(10))}\n"
        "property float x\nproperty float y\nproperty float z\n"
        f"element face {faces.count(chr(10))}\nproperty list uchar int vertex_indices\n"
        f"end_header\n{vertices}{faces}"
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("nan.ply", ply(VERTICES.replace("1 0 0", "nan 0 0"), FACES), "vertex 1 (of 4, from 0)"),
        ("range.ply", ply(VERTICES, FACES.replace("3 1 2 3", "3 1 2 4")), "4"),
        ("negative.ply", ply(VERTICES, FACES.replace("3 1 2 3", "3 1 2 -1")), "-1"),
        ("cut.ply", ply(VERTICES, FACES)[:-8], "3 triangles could be read where the header"),
        ("flat.ply", ply("0 0 0\n1 1 1\n2 2 2\n", "3 0 1 2\n"), "no area"),
        ("cloud.ply", ply(VERTICES, ""), "no faces"),
        ("cloud.xyz", VERTICES, "no faces"),
        ("nan.obj", "v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "vertex 0"),
        ("empty.ply", "", "trimesh cannot read it"),
        ("empty.stl", "", ""),
        ("binary.obj", bytes(range(256)), ""),
        ("cut.glb", b"glTF\2\0\0\0", "trimesh cannot read it"),
        ("mesh.docx", "hello", "trimesh cannot read it"),
    ],
)
def test_other_formats_that_have_to_be_refused(name, content, message, tmp_path):
    path = write(tmp_path / name, content)
    with pytest.raises(MeshReadError) as caught:
        read_mesh(path)
    assert message in caught.value.reason
    assert caught.value.path == path


def test_files_that_cannot_be_opened(tmp_path):
    for path in (tmp_path / "missing.off", tmp_path / "missing.ply", tmp_path):
        with pytest.raises(MeshReadError) as caught:
            read_mesh(path)
        assert caught.value.path == path


def test_the_error_survives_the_way_between_processes():
    error = ForkingPickler.loads(ForkingPickler.dumps(MeshReadError("a.off", "line 3: bad")))
    assert (str(error), error.reason) == ("a.off: line 3: bad", "line 3: bad")


def test_without_trimesh_the_error_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "trimesh", None)
    with pytest.raises(ImportError, match=r"pip install 'sharedmlp\[train\]'"):
        read_mesh(tmp_path / "mesh.off")
