"""PLY: every form that has to be read, and every fault that has to be named."""

import struct

import numpy as np
import pytest

from sharedmlp.data import MeshReadError, read_cloud, read_mesh
from sharedmlp.data.io.ply_header import PlyElement, PlyProperty, parse_ply_header

from .meshes import BOX_FACES, BOX_SIDES, BOX_VERTICES, assert_is_box, write

CODES = {"char": "b", "uchar": "B", "short": "h", "ushort": "H", "int": "i", "uint": "I"}
CODES |= {"float": "f", "double": "d"}
XYZ = ("float x", "float y", "float z")
LIST = "list uchar int vertex_indices"
MIXED = [BOX_SIDES[0], *BOX_FACES[2:6], BOX_SIDES[3], BOX_SIDES[4], *BOX_FACES[10:]]
VERTEX = ("vertex", XYZ, BOX_VERTICES)
FACE = ("face", (LIST,), [(face,) for face in BOX_FACES])
SIDE = ("face", (LIST,), [(side,) for side in BOX_SIDES])
MIX = ("face", (LIST,), [(face,) for face in MIXED])
FORMATS = ("ascii", "binary_little_endian", "binary_big_endian")


def make(kind, *elements, end="\n", header=""):
    """A PLY file of elements: name, properties as in the header, records."""
    lines = ["ply", f"format {kind} 1.0", *header.split("\n")]
    body = b""
    for name, properties, records in elements:
        lines += [f"element {name} {len(records)}", *(f"property {part}" for part in properties)]
        for record in records:
            values = []
            for part, value in zip(properties, record, strict=True):
                types = part.split()[:-1]
                if types[0] == "list":
                    values.append((types[1], len(value)))
                    values += [(types[2], item) for item in value]
                else:
                    values.append((types[0], value))
            if kind == "ascii":
                body += " ".join(str(value) for _, value in values).encode() + end.encode()
            else:
                order = "<" if "little" in kind else ">"
                body += b"".join(struct.pack(order + CODES[code], value) for code, value in values)
    lines = [line for line in lines if line]
    return end.join([*lines, "end_header", ""]).encode() + body


def extend(element, properties, values):
    name, old, records = element
    return name, (*old, *properties), [(*record, *values) for record in records]


FORMS = {
    "triangles": (VERTEX, FACE),
    "quads": (VERTEX, SIDE),
    "triangles and quads": (VERTEX, MIX),
    "faces first": (MIX, VERTEX),
    "doubles": (("vertex", ("double x", "double y", "double z"), BOX_VERTICES), MIX),
    "shorts": (("vertex", ("short x", "uchar y", "int z"), BOX_VERTICES), FACE),
    "normals and colors": (
        extend(VERTEX, ("float nx", "float ny", "float nz", "uchar red"), (0, 0, 1, 255)),
        extend(MIX, ("uchar red", "uchar green", "uchar blue"), (1, 2, 3)),
    ),
    "properties before": (
        ("vertex", ("uchar red", *XYZ), [(9, *vertex) for vertex in BOX_VERTICES]),
        ("face", ("int group", LIST), [(7, face) for face in MIXED]),
    ),
    "texture coordinates": (
        extend(VERTEX, ("float s", "float t"), (0, 1)),
        extend(FACE, ("list uchar float texcoord", "int texnumber"), ((0, 0, 1, 0, 0, 1), 0)),
    ),
    "texture coordinates of some": (
        VERTEX,
        (
            "face",
            (LIST, "list uchar float texcoord"),
            [(face, (0.5,) * len(face)) for face in MIXED],
        ),
    ),
    "lists of vertices": (
        ("vertex", (*XYZ, "list uchar int more"), [(*v, range(v[1])) for v in BOX_VERTICES]),
        FACE,
    ),
    "other elements": (
        ("camera", ("float a", "list uchar int b"), [(1.5, (1, 2))]),
        VERTEX,
        ("edge", ("int vertex1", "int vertex2"), [(0, 1), (1, 2)]),
        MIX,
        ("empty", ("list int int a",), []),
        ("material", (), []),
    ),
    "vertex_index": (VERTEX, ("face", ("list uchar uint vertex_index",), MIX[2])),
    "long lists": (VERTEX, ("face", ("list int ushort vertex_index",), MIX[2])),
    "strips": (
        VERTEX,
        (
            "tristrips",
            ("list int int vertex_indices",),
            [((0, 1, 2, 3, 6, 7, 4, 5, 0, 1, -1, 0, 2, 4, 6, -1, 5, 7, 1, 3),)],
        ),
    ),
}


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("form", FORMS)
def test_ply_that_has_to_be_read(form, kind, tmp_path):
    mesh = read_mesh(write(tmp_path / "a.ply", make(kind, *FORMS[form])))
    assert_is_box(mesh)
    assert len(mesh.faces) == 12
    assert abs(mesh.volume) == pytest.approx(6)  # all faces the same way round
    assert mesh.vertices.tolist() == [list(map(float, vertex)) for vertex in BOX_VERTICES]
    if form != "strips":
        assert mesh.faces.tolist() == [list(face) for face in BOX_FACES]


ASCII = make("ascii", VERTEX, MIX)
BINARY = make("binary_little_endian", VERTEX, MIX)
GOOD: dict[str, bytes] = {
    **{f"{kind}, CRLF": make(kind, VERTEX, MIX, end="\r\n") for kind in FORMATS},
    **{f"{kind}, CR": make(kind, VERTEX, MIX, end="\r") for kind in FORMATS},
    "comments": make("ascii", VERTEX, MIX, header="comment end_header\nobj_info 1\ncomment"),
    "a comment in Latin-1": BINARY.replace(b"1.0\n", "1.0\ncomment Körper\n".encode("latin-1")),
    "a byte order mark": b"\xef\xbb\xbf" + ASCII,
    "UTF-16": ASCII.decode().encode("utf-16"),
    "blank lines": ASCII.replace(b"\n0 0 0\n", b"\n\n0 0 0\n\n"),
    "tabs": ASCII.replace(b"0 ", b"0\t"),
    "no line end at the end": ASCII.rstrip(),
    "exponents": ASCII.replace(b"\n0 0 3\n", b"\n0 -0.0 3.0e+00\n"),
    "a line end after binary": BINARY + b"\n",
    "other names of types": BINARY.replace(b"float ", b"float32 ").replace(
        b"uchar int", b"uint8 int32"
    ),
}


@pytest.mark.parametrize("case", GOOD)
def test_text_of_ply_that_has_to_be_read(case, tmp_path):
    assert_is_box(read_mesh(write(tmp_path / "a.ply", GOOD[case])))


def replace_face(corners):
    return make("binary_little_endian", VERTEX, ("face", (LIST,), [(corners,), *FACE[2][1:]]))


def edit(old, new):
    assert old in ASCII
    return ASCII.replace(old, new, 1)


BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "the file is empty"),
    "no PLY": (b"OFF\n", "line 1: expected 'ply', found 'OFF'"),
    "only the first line": (b"ply\n", "the header does not end: no line 'end_header'"),
    "no format": (b"ply\nelement vertex 0\nend_header\n", "the header has no line 'format'"),
    "another format": (
        edit(b"ascii", b"binary"),
        "line 2: expected 'format', 'element NAME COUNT'",
    ),
    "a word for a count": (edit(b"vertex 8", b"vertex x"), "line 3: expected 'format'"),
    "a negative count": (edit(b"vertex 8", b"vertex -8"), "line 3: expected 'format'"),
    "an element twice": (edit(b"element face", b"element vertex"), "line 7: expected 'format'"),
    "an unknown type": (edit(b"float x", b"real x"), "line 4: expected 'format'"),
    "a property twice": (edit(b"float y", b"float x"), "line 5: a second property 'x'"),
    "a property without an element": (
        b"ply\nformat ascii 1.0\nproperty int x\n",
        "line 3: expected",
    ),
    "no z": (edit(b"float z", b"float w"), "its vertices have no property 'z'"),
    "no vertices": (make("ascii", FACE), "it has no element 'vertex'"),
    "no indices": (
        edit(b"vertex_indices", b"corners"),
        "its element 'face' has no property 'vertex_",
    ),
    "points": (make("ascii", VERTEX), "a point cloud: 8 points and no faces, expected a mesh"),
    "no faces": (
        make("ascii", VERTEX, ("face", (LIST,), [])),
        "a point cloud: 8 points and no faces",
    ),
    "no faces in binary": (
        make("binary_big_endian", ("vertex", XYZ, BOX_VERTICES * 150)),
        "1,200 points",
    ),
    "too few faces": (
        ASCII[: ASCII.rindex(b"\n", 0, -1)],
        "promises 9 records of 'face', but the file ends after 8",
    ),
    "too many faces": (ASCII + b"3 0 1 2\n", "line 27: the last record that the header promises"),
    "a vertex too many": (
        edit(b"vertex 8", b"vertex 9"),
        "line 18: expected the numbers x, y, z of one vertex",
    ),
    "a vertex too few": (
        edit(b"vertex 8", b"vertex 7"),
        "line 17: expected the numbers a list vertex_in",
    ),
    "cut short in a face": (ASCII[:-3], "line 26: expected the numbers a list vertex_indices (its"),
    "NaN": (edit(b"\n0 0 3\n", b"\n0 nan 3\n"), "vertex 1 (of 8, from 0) is not finite"),
    "a word": (
        edit(b"\n0 0 3\n", b"\n0 x 3\n"),
        "line 11: expected the numbers x, y, z of one vertex, found '0 x 3'",
    ),
    "an underscore": (edit(b"\n0 0 3\n", b"\n0 0 1_0\n"), "line 11: expected the numbers"),
    "two values": (edit(b"\n0 0 3\n", b"\n0 0\n"), "line 11: expected the numbers"),
    "an index too large": (
        edit(b"\n4 0 1 3 2\n", b"\n4 0 1 3 8\n"),
        "face 0 (of 9, from 0) refers to vertex 8",
    ),
    "a huge index": (
        edit(b"\n4 0 1 3 2\n", b"\n4 0 1 3 99999999999999999999\n"),
        "line 18: expected",
    ),
    "a face of two": (edit(b"\n4 0 1 3 2\n", b"\n2 0 1\n"), "face 0 (of 9, from 0) has 2 corners"),
    "a binary face of two": (replace_face((0, 1)), "face 0 (of 12, from 0) has 2 corners"),
    "a binary index too large": (replace_face((0, 1, 8)), "refers to vertex 8"),
    "a binary index of -1": (replace_face((0, 1, -1)), "refers to vertex -1"),
    "binary cut short": (BINARY[:-1], "promises 9 records of 'face', but the file ends after 8"),
    "binary cut short in the vertices": (BINARY[:200], "promises 8 records of 'vertex', but"),
    "binary with more": (BINARY + BINARY[-13:], "13 bytes follow the last record that the header"),
    "a binary vertex too few": (BINARY.replace(b"vertex 8", b"vertex 7"), ""),
    "a list of -1": (
        BINARY.replace(b"list uchar", b"list char").replace(b"\4\0\0\0\0", b"\xff\0\0\0\0", 1),
        "record 0 (from 0) of 'face' has a list of -1 values",
    ),
    "triangles of strips out of range": (
        make("ascii", VERTEX, ("tristrips", (LIST,), [((0, 1, 2, 9),)])),
        "refers to vertices [2, 1, 9], but there are 8",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_ply_that_has_to_be_refused(case, tmp_path):
    content, message = BAD[case]
    with pytest.raises(MeshReadError) as caught:
        read_mesh(write(tmp_path / "a.ply", content))
    assert message in caught.value.reason
    assert "\n" not in caught.value.reason
    assert len(caught.value.reason) < 300


@pytest.mark.parametrize("kind", FORMATS)
def test_points_without_faces(kind, tmp_path):
    path = write(tmp_path / "a.ply", make(kind, VERTEX))
    np.testing.assert_array_equal(read_cloud(path, 9, seed=0), BOX_VERTICES)


def test_the_header():
    content = make("binary_big_endian", VERTEX, MIX, header="comment a\nobj_info b", end="\r\n")
    header = parse_ply_header(content + b"\n\n")
    assert header.format == "binary_big_endian"
    xyz = tuple(PlyProperty(name, "f4") for name in "xyz")
    indices = PlyProperty("vertex_indices", "i4", "u1")
    assert header.elements == (PlyElement("vertex", 8, xyz), PlyElement("face", 9, (indices,)))
    assert content[header.offset - 12 : header.offset] == b"end_header\r\n"
    assert header.num_lines == 11
