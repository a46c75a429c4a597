"""OBJ: every form that has to be read, and every fault that has to be named."""

import numpy as np
import pytest

from sharedmlp.data import MeshReadError, read_mesh

from .meshes import BOX_FACES, BOX_SIDES, BOX_VERTICES, assert_is_box, write

V = "".join(f"v {x} {y} {z}\n" for x, y, z in BOX_VERTICES)
F = "".join(f"f {a + 1} {b + 1} {c + 1}\n" for a, b, c in BOX_FACES)
Q = "".join("f " + " ".join(str(corner + 1) for corner in side) + "\n" for side in BOX_SIDES)
# The same by corners that count backwards from the eighth vertex.
R = "".join(f"f {a - 8} {b - 8} {c - 8}\n" for a, b, c in BOX_FACES)
MIXED = Q[: Q.index("\n") + 1] + "".join(F.splitlines(keepends=True)[2:])

GOOD: dict[str, str | bytes] = {
    "plain": V + F,
    "quads": V + Q,
    "a quad and triangles": V + MIXED,
    "faces first": F + V,
    "relative": V + R,
    "tabs": (V + F).replace(" ", "\t"),
    "indented": "  " + (V + F).replace("\n", "\n \t"),
    "blanks at the ends": (V + F).replace("\n", "  \n"),
    "comments": "# a\n" + (V + F).replace("\n", " # face\n"),
    "comments without a blank": (V + F).replace("\n", "#\n"),
    "CR": (V + F).replace("\n", "\r"),
    "CRLF": (V + F).replace("\n", "\r\n"),
    "no line end at the end": (V + F).rstrip(),
    "continued": (V + F).replace(" 1", " \\\n1"),
    "continued with blanks after": V + Q.replace("f 1 ", "f 1 \\  \n   "),
    "continued by CRLF": (V + F).replace(" 1", " \\\r\n1"),
    "a comment that ends in a backslash": "# C:\\models\\\n" + V + F,
    "a byte order mark": "\ufeff" + V + F,
    "UTF-16": (V + F).encode("utf-16"),
    "Latin-1 in comments and names": ("# Körper\no Würfel\ng ä ö\n" + V + F).encode("latin-1"),
    "form feeds": V.replace(" 0", "\f0") + F,
    "weights": V.replace("\n", " 1.0\n") + F,
    "colors": V.replace("\n", " 1 0.5 0\n") + F,
    "colors with alpha": V.replace("\n", " 1 0.5 0 1\n") + F,
    "some colors": V.replace("v 0 0 0\n", "v 0 0 0 1 0 0\n") + F,
    "exponents": V.replace(" 2 ", " +2.0e+00 ") + F,
    "textures": V + "vt 0 0\n" + F.replace(" 1", " 1/1"),
    "normals": V
    + "vn 0 0 1\n"
    + "".join(f"f {a + 1}//1 {b + 1}//1 {c + 1}//1\n" for a, b, c in BOX_FACES),
    "all references": V
    + "".join(f"f {a + 1}/1/1 {b + 1}/-1/-1 {c + 1}/1/1\n" for a, b, c in BOX_FACES),
    "other keywords": "mtllib a.mtl\no a\ng b c\ns off\nusemtl m\nlod 1\n"
    + V
    + "vp 0 0\np 1\nl 1 2\n"
    + F,
    "unused vertices": V + "v .5 .5 .5\n" + F,
}


@pytest.mark.parametrize("case", GOOD)
def test_obj_that_has_to_be_read(case, tmp_path):
    mesh = read_mesh(write(tmp_path / "a.obj", GOOD[case]))
    assert_is_box(mesh)
    assert len(mesh.faces) == 12
    assert mesh.volume == pytest.approx(6)  # all faces the same way round
    if case in ("plain", "tabs", "continued", "relative", "comments", "CR"):
        assert mesh.vertices.tolist() == [list(map(float, vertex)) for vertex in BOX_VERTICES]
        assert mesh.faces.tolist() == [list(face) for face in BOX_FACES]


def test_relative_corners_count_from_the_vertices_so_far(tmp_path):
    far = V.replace("v 0", "v 10").replace("v 1 ", "v 11 ")
    mesh = read_mesh(write(tmp_path / "a.obj", V + R + far + R))
    assert_is_box(mesh, (11, 2, 3), 44)
    np.testing.assert_array_equal(mesh.faces[12:], mesh.faces[:12] + 8)


BAD: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "there are no faces and no vertices: the file is empty or no OBJ"),
    "points": (V, "a point cloud: 8 points and no faces, expected a mesh"),
    "many points": (V * 150, "a point cloud: 1,200 points and no faces, expected a mesh"),
    "lines": (V + "l 1 2\n", "a point cloud: 8 points, 1 lines and no faces, expected a mesh"),
    "curves": (V + "cstype bezier\nsurf 0 1 0 1 1 2 3 4\n", "holds free-form curves or surfaces"),
    "binary": (b"v 0\0", "byte 3 is NUL: the file is binary, expected OBJ as plain text"),
    "a corner too large": (V + F + "f 1 2 9\n", "line 21: a face refers to vertex 9, but the "),
    "a corner of 0": (V + "f 0 1 2\n", "line 9: a face refers to vertex 0, but the vertices are"),
    "a relative corner too small": (V + "f -9 -8 -7\n", "vertex -9 of 8 so far, but"),
    "a relative corner before its vertex": ("f -1 -2 -3\n" + V, "vertex -1 of 0 so far, but"),
    "a huge corner": (V + "f 1 2 99999999999999999999\n", "line 9: "),
    "two corners": (V + "f 1 2\n", "line 9: expected a face, 3 or more corners"),
    "two corners among others": (V + F + "f 1 2\n", "line 21: expected a face, 3 or more corners"),
    "no corners": (V + "f\n", "line 9: expected a face"),
    "a corner that is a word": (V + "f 1 2 x\n", "line 9: expected a face"),
    "a corner that is a fraction": (V + "f 1 2 3.0\n", "line 9: expected a face"),
    "a reference too many": (V + "f 1/1/1/1 2 3\n", "line 9: expected a face"),
    "a reference that is a word": (V + "f 1/x 2 3\n", "line 9: expected a face"),
    "a sign in a corner": (V + "f 1 2-3 4\n", "line 9: expected a face"),
    "NaN": (V.replace("v 0 0 3", "v 0 nan 3") + F, "line 2: not a finite number: '0 nan 3'"),
    "beyond float64": (V.replace("v 0 0 3", "v 0 1e999 3") + F, "line 2: not a finite number"),
    "beyond float32": (V.replace("v 0 0 3", "v 0 1e39 3") + F, "vertex 1 (of 8, from 0)"),
    "a word": (V.replace("v 0 0 3", "v 0 x 3") + F, "line 2: expected a vertex, x, y and z"),
    "a decimal comma": (V.replace("v 0 0 3", "v 0,5 0 3") + F, "line 2: expected a vertex"),
    "an underscore": (V.replace("v 0 0 3", "v 0 0 1_0") + F, "line 2: expected a vertex"),
    "two values": (V.replace("v 0 0 3", "v 0 0") + F, "line 2: expected a vertex, x, y and z"),
    "five values": (V.replace("v 0 0 3", "v 0 0 3 1 1") + F, "line 2: expected a vertex"),
    "a number alone": (V + "1 2 3\n" + F, "line 9: expected a record of OBJ"),
    "upper case": ((V + F).upper(), "line 1: expected a record of OBJ"),
    "another file": ("call a.obj\n" + V + F, "line 1: another file would be read"),
    "ends in a continued line": (V + F[:-1] + " \\", "line 20: the file ends in a line that"),
    "line numbers count continued lines": (
        V.replace("v 0 0 0", "v 0 \\\n 0 \\\n 0") + "f 1\n",
        "line 11",
    ),
    "no area": ("v 0 0 0\nv 1 1 1\nv 2 2 2\nf 1 2 3\n", "no area"),
}


@pytest.mark.parametrize("case", BAD)
def test_obj_that_has_to_be_refused(case, tmp_path):
    content, message = BAD[case]
    with pytest.raises(MeshReadError) as caught:
        read_mesh(write(tmp_path / "a.obj", content))
    assert message in caught.value.reason
    assert "\n" not in caught.value.reason
    assert len(caught.value.reason) < 300


def test_long_lines_and_many_continued_ones_take_no_time_to_speak_of(tmp_path):
    for content in (
        "v " + "\\\n" * 300_000,
        "f " + "1/" * 300_000,
        "v " + "1 " * 300_000,
        "#\n" * 500_000,
    ):
        with pytest.raises(MeshReadError):
            read_mesh(write(tmp_path / "a.obj", V + content))
