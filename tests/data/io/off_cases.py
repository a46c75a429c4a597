"""OFF files that have to be read, and those that have to be refused with the words for it."""

import numpy as np

from .meshes import TETRAHEDRON

VERTICES = "0 0 0\n1 0 0\n0 1 0\n0 0 1\n"
SQUARE = "0 0 0\n1 0 0\n1 1 0\n0 1 0\n"

HEXAGON = [(np.cos(i * np.pi / 3), np.sin(i * np.pi / 3)) for i in range(6)]

# name: (content, vertices, triangles, area)
TETRA_AREA = 1.5 + np.sqrt(3) / 2
GOOD: dict[str, tuple[str | bytes, int, int, float]] = {
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
    "UTF-16": (TETRAHEDRON.encode("utf-16"), 4, 4, TETRA_AREA),
    "UTF-16 without a mark": (TETRAHEDRON.encode("utf-16-le"), 4, 4, TETRA_AREA),
    "UTF-16, the other order": (TETRAHEDRON.encode("utf-16-be"), 4, 4, TETRA_AREA),
    "UTF-32": (TETRAHEDRON.encode("utf-32"), 4, 4, TETRA_AREA),
    "no newline at the end": (TETRAHEDRON.rstrip(), 4, 4, TETRA_AREA),
    "exponents": (TETRAHEDRON.replace("1 0 0", "1.0e+00 -0.0 0.E0"), 4, 4, TETRA_AREA),
    "many digits": (
        TETRAHEDRON.replace(
            "1 0 0", "1.0000000000000000055511151 0 -0.0000000000000000000000000001"
        ),
        4,
        4,
        TETRA_AREA,
    ),
    "quad": (f"OFF\n4 1 0\n{SQUARE}4 0 1 2 3\n", 4, 2, 1),
    "pentagon": (f"OFF\n5 1 0\n{SQUARE}-1 0.5 0\n5 0 1 2 3 4\n", 5, 3, 1.5),
    "triangle and quad": (f"OFF\n5 2 0\n{SQUARE}-1 0.5 0\n3 0 3 4\n4 0 1 2 3\n", 5, 3, 1.5),
    "face colors": (
        TETRAHEDRON.replace("3 0 2 1", "3 0 2 1 255 0 0")
        .replace("3 0 1 3", "3 0 1 3 1 .5 0 1")
        .replace("3 1 2 3", "3 1 2 3 7"),
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
    # Sizes of 3 to 6, from text in every form.
    **{
        f"a hexagonal prism, {keyword}": (
            "\n".join(
                [
                    f"{keyword}\n12 10 0",
                    *(f"{x} {y} {z}{more}" for z in (0, 1) for x, y in HEXAGON),
                    "6 5 4 3 2 1 0",
                    "3 6 7 8\n5 6 8 9 10 11",
                    *(f"4 {i} {(i + 1) % 6} {6 + (i + 1) % 6} {6 + i}" for i in range(5)),
                    "3 5 0 6\n3 5 6 11",
                ]
            ),
            12,
            20,
            6 + 3 * np.sqrt(3),
        )
        for keyword, more in (
            *(("OFF", ""), ("NOFF", " 0 0 1"), ("COFF", " 9 9 9 255"), ("STOFF", " .5 .5")),
            ("CNOFF", " 0 0 1 9 9 9 255"),
        )
    },
    "a concave quad": ("OFF\n4 1 0\n1 1 0\n4 0 0\n0 0 0\n0 4 0\n4 0 3 2 1\n", 4, 2, 4),
    "tiny": (f"OFF\n4 1 0\n{SQUARE.replace('1', '1e-9')}4 0 1 2 3\n", 4, 2, 1e-18),
}


def edit(old, new):
    assert old in TETRAHEDRON
    return TETRAHEDRON.replace(old, new)


def keyword(found):
    return f"line 1: expected the keyword OFF (or COFF, NOFF, STOFF), found {found!r}"


def counts(found, line=2):
    return f"line {line}: expected the counts of vertices, faces and edges, found {found!r}"


def promise(vertices, faces, lines, last):
    return (
        f"line 2: the header promises {vertices} vertices and {faces} faces, a line each, but "
        f"{lines} lines follow it ({last}): the counts are wrong, the file is cut short, or "
        "several records share a line"
    )


def nothing(vertices, faces):
    return f"line 2: the header promises {vertices} vertices and {faces} faces, nothing to sample"


def vertex(line, found, width=3):
    return (
        f"line {line}: expected a vertex, x, y and z and as many values as the first one "
        f"({width}), found {found!r}: it is cut short or the vertex count in the header is wrong"
    )


def finite(found, line=4):
    return f"line {line}: not a finite number: {found!r}"


def face(found, line=9):
    return (
        f"line {line}: expected a face, the number of its corners, 3 or more, and as many vertex "
        f"numbers; found {found!r}"
    )


def color(found, line=9):
    return (
        f"line {line}: after the 3 corners of a face, expected nothing or a color of 1, 3 or 4 "
        f"numbers; found {found!r}"
    )


def corner(number):
    return f"line 9: a face refers to vertex {number}, but the vertices are numbered 0 to 3"


NINES = "9" * 57 + "..."
ALONE = "alone or with a normal (3 values), a color (3 or 4) or a texture coordinate (2), found "

# name: (content, the reason)
BAD = {
    # Nothing, or no OFF at all.
    "empty": ("", "the file is empty"),
    "only a line end": ("\n", "the file is empty"),
    "only comments": ("# nothing\n\n", "the file is empty"),
    "only a byte order mark": ("\ufeff", "the file is empty"),
    "binary": (
        b"OFF BINARY\n\0\0\0\4\0\0\0\4",
        "byte 11 is NUL: the file is binary, expected OFF as plain text",
    ),
    "a NUL at the end": (
        TETRAHEDRON + "\0",
        f"byte {len(TETRAHEDRON)} is NUL: the file is binary, expected OFF as plain text",
    ),
    "not text": (bytes(range(128, 256)) * 4, keyword("\ufffd" * 57 + "...")),
    "compressed": (
        b"\x1f\x8b\x08\x08",
        keyword("\ufffd\x08\x08") + " (its content is compressed by gzip)",
    ),
    "another format": ("ply\nformat ascii 1.0\n", keyword("ply") + " (its content is a PLY file)"),
    "a web page": (
        "<html>404</html>",
        keyword("<html>404</html>")
        + " (its content is a page of HTML, such as a failed download leaves)",
    ),
    "no keyword": (TETRAHEDRON.removeprefix("OFF\n"), keyword("4 4 6")),
    "OFF in four dimensions": (edit("OFF", "4OFF"), keyword("4OFF")),
    "OFF in n dimensions": (edit("OFF", "nOFF"), keyword("nOFF")),
    "a word that begins with OFF": (edit("OFF", "OFFER"), keyword("OFFER")),
    # Counts.
    "only the keyword": ("OFF\n", "line 1: the file ends before the vertex and face counts"),
    "OFF BINARY": ("OFF BINARY\n4 4 6\n", counts("BINARY", line=1)),
    "one count": (edit("4 4 6", "4"), counts("4")),
    "four counts": (edit("4 4 6", "4 4 6 0"), counts("4 4 6 0")),
    "counts that are words": (edit("4 4 6", "a b c"), counts("a b c")),
    "counts with points": (edit("4 4 6", "4.0 4.0 6.0"), counts("4.0 4.0 6.0")),
    "negative count": (edit("4 4 6", "4 -4 6"), counts("4 -4 6")),
    "count with an underscore": (edit("4 4 6", "4 0_4 6"), counts("4 0_4 6")),
    "count of 5000 digits": (edit("4 4 6", "9" * 5000 + " 4 0"), counts(NINES)),
    "no counts": (f"OFF\n{VERTICES}", promise(0, 0, 3, "the last one is line 5")),
    "all on one line": (
        TETRAHEDRON.replace("\n", " "),
        counts(TETRAHEDRON[4:].replace("\n", " ")[:57] + "...", line=1),
    ),
    "no faces": (
        f"OFF\n4 0 0\n{VERTICES}",
        "a point cloud: 4 points and no faces, expected a mesh",
    ),
    "no faces and a vertex that is cut short": (
        f"OFF\n4 0 0\n{VERTICES[:-4]}\n",
        vertex(6, "0"),
    ),
    "no vertices": ("OFF\n0 1 0\n3 0 0 0\n", nothing(0, 1)),
    "nothing": ("OFF\n0 0 0\n", nothing(0, 0)),
    "nothing follows": ("OFF\n4 4 6\n", promise(4, 4, 0, "the file ends")),
    "huge vertex count": (
        edit("4 4 6", "999999999999999999 4 0"),
        promise(999999999999999999, 4, 8, "the last one is line 10"),
    ),
    "huge face count": (
        edit("4 4 6", "4 1000000000000 0"),
        promise(4, 1000000000000, 8, "the last one is line 10"),
    ),
    "fewer faces than promised": (
        f"OFF\n4 4 6\n{VERTICES}3 0 2 1\n3 0 1 3\n",
        promise(4, 4, 6, "the last one is line 8"),
    ),
    "more faces than promised": (
        edit("4 4 6", "4 3 6"),
        promise(4, 3, 8, "the last one is line 10"),
    ),
    "one vertex too many in the header": (
        edit("4 4 6", "5 4 6"),
        promise(5, 4, 8, "the last one is line 10"),
    ),
    "one vertex too few in the header": (
        edit("4 4 6", "3 4 6"),
        promise(3, 4, 8, "the last one is line 10"),
    ),
    "two files in one": (TETRAHEDRON * 2, promise(4, 4, 18, "the last one is line 20")),
    "truncated between lines": (TETRAHEDRON[:40], promise(4, 4, 5, "the last one is line 7")),
    # Records that do not end where their line does.
    "several faces on a line": (
        edit("3 0 2 1\n3 0 1 3", "3 0 2 1 3 0 1 3"),
        promise(4, 4, 7, "the last one is line 9"),
    ),
    "several vertices on a line": (
        edit("1 0 0\n0 1 0", "1 0 0 0 1 0"),
        promise(4, 4, 7, "the last one is line 9"),
    ),
    "several faces on a line and another count": (
        f"OFF\n4 2 0\n{VERTICES}3 0 2 1 3 0 1 3 3 1 2 3\n3 0 3 2\n",
        color("3 0 2 1 3 0 1 3 3 1 2 3", line=7),
    ),
    "a vertex over two lines": (
        edit("1 0 0\n", "1 0\n0\n"),
        promise(4, 4, 9, "the last one is line 11"),
    ),
    "a face over two lines and two on another": (
        edit("3 0 2 1\n3 0 1 3", "3 0 2\n1 3 0 1 3"),
        face("3 0 2", line=7),
    ),
    "a face counted as a vertex": (edit("4 4 6", "5 3 6"), vertex(7, "3 0 2 1")),
    "a face counted as a vertex of four": (
        "OFF\n5 3 0\n0 0 0 1\n1 0 0 1\n0 1 0 1\n0 0 1 1\n3 0 2 1\n3 0 1 3\n3 1 2 3\n3 0 3 2\n",
        f"line 3: expected a vertex, x, y and z, {ALONE}'0 0 0 1'",
    ),
    "a vertex counted as a face": (edit("4 4 6", "3 5 6"), face("0 0 1", line=6)),
    # Vertices.
    "truncated last vertex": ("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1\n3 0 1 2\n", vertex(5, "0 1")),
    "two values": (edit("1 0 0", "1 0"), vertex(4, "1 0")),
    "one value more": (edit("1 0 0", "1 0 0 0"), vertex(4, "1 0 0 0")),
    "two values in all": ("OFF\n3 1 0\n0 0\n1 0\n0 1\n3 0 1 2\n", vertex(3, "0 0", width=2)),
    "a color that is cut short": (
        "COFF\n3 1 0\n0 0 0 9 9 9 9\n1 0 0 9 9 9\n0 1 0 9 9 9 9\n3 0 1 2\n",
        vertex(4, "1 0 0 9 9 9", width=7),
    ),
    "NaN": (edit("1 0 0", "nan 0 0"), finite("nan 0 0")),
    "infinity": (edit("1 0 0", "1 -inf 0"), finite("1 -inf 0")),
    "beyond float64": (edit("1 0 0", "1 0 1e999"), finite("1 0 1e999")),
    "beyond float32": (
        edit("1 0 0", "1 0 1e39"),
        "vertex 1 (of 4, from 0) is not finite in float32: [1.0, 0.0, 1e+39]",
    ),
    "-1.#IND": (edit("1 0 0", "-1.#IND 0 0"), finite("-1.#IND 0 0")),
    "-1.#IND at the end": (edit("1 0 0", "0 0 -1.#IND"), finite("0 0 -1.#IND")),
    "1.#QNAN": (edit("1 0 0", "0 0 1.#QNAN0"), finite("0 0 1.#QNAN0")),
    "1.#INF": (edit("1 0 0", "0 1.#INF 0"), finite("0 1.#INF 0")),
    "a NaN in a color": (
        "COFF\n3 1 0\n0 0 0 0 0 0\n1 0 0 nan 0 0\n0 1 0 0 0 0\n3 0 1 2\n",
        finite("1 0 0 nan 0 0"),
    ),
    "a word": (edit("1 0 0", "1 x 0"), finite("1 x 0")),
    "a decimal comma": (edit("1 0 0", "1,5 0 0"), finite("1,5 0 0")),
    "commas between": (edit("1 0 0", "1, 0, 0"), finite("1, 0, 0")),
    "hexadecimal": (edit("1 0 0", "0x1A 0 0"), finite("0x1A 0 0")),
    "Fortran's exponent": (edit("1 0 0", "1.0D+00 0 0"), finite("1.0D+00 0 0")),
    "two points": (edit("1 0 0", "1.0.0 0 0"), finite("1.0.0 0 0")),
    "two signs": (edit("1 0 0", "--1 0 0"), finite("--1 0 0")),
    "two numbers in one": (edit("1 0 0", "1-5 0 0"), finite("1-5 0 0")),
    "two numbers in one and a point": (edit("1 0 0", "1.-5 . 0"), finite("1.-5 . 0")),
    "a sign alone": (edit("1 0 0", "1 + 0"), finite("1 + 0")),
    "a sign and a point": (edit("1 0 0", "1 -. 0"), finite("1 -. 0")),
    "a point alone": (edit("1 0 0", "1 . 0"), finite("1 . 0")),
    "an exponent without a number": (edit("1 0 0", "1 e5 0"), finite("1 e5 0")),
    "a number without its exponent": (edit("1 0 0", "1e 0 0"), finite("1e 0 0")),
    "a minus that is a dash": (edit("1 0 0", "\u22121 0 0"), finite("\ufffd\ufffd\ufffd1 0 0")),
    "an underscore": (edit("1 0 0", "1_0 0 0"), "line 4: not a number: '1_0 0 0'"),
    "line numbers count comments": (
        "# one\n\n" + edit("1 0 0", "nan 0 0"),
        finite("nan 0 0", line=6),
    ),
    "line numbers count CR": (
        edit("1 0 0", "nan 0 0").replace("\n", "\r"),
        finite("nan 0 0"),
    ),
    # Faces.
    "truncated last face": (TETRAHEDRON[: -len(" 2\n")], face("3 0 3", line=10)),
    "index too large": (edit("3 1 2 3", "3 1 2 4"), corner(4)),
    "index beyond 64 bits": (
        edit("3 1 2 3", "3 1 2 18446744073709551619"),
        corner(18446744073709551619),
    ),
    "negative index": (edit("3 1 2 3", "3 1 2 -1"), corner(-1)),
    "index of 5000 digits": (
        edit("3 1 2 3", "3 1 2 " + "9" * 5000),
        face("3 1 2 " + "9" * 51 + "..."),
    ),
    "index with a point": (edit("3 1 2 3", "3 1 2 3.0"), face("3 1 2 3.0")),
    "index that is a sign": (edit("3 1 2 3", "3 1 2 +"), face("3 1 2 +")),
    "index with an underscore": (edit("3 1 2 3", "3 1 2 0_3"), "line 9: not a number: '3 1 2 0_3'"),
    "counted from 1": (
        f"OFF\n4 2 0\n{VERTICES}3 1 3 2\n3 1 2 4\n",
        corner(4).replace("line 9", "line 8"),
    ),
    "face of two corners": (edit("3 1 2 3", "2 1 2"), face("2 1 2")),
    "face of one corner": (edit("3 1 2 3", "1 1"), face("1 1")),
    "face of no corners": (edit("3 1 2 3", "0"), face("0")),
    "negative face size": (edit("3 1 2 3", "-1 1 2 3 0"), face("-1 1 2 3 0")),
    "face size that is a word": (edit("3 1 2 3", "f 1 2 3"), face("f 1 2 3")),
    "huge face size": (edit("3 1 2 3", "1000000000000 1 2 3"), face("1000000000000 1 2 3")),
    "no face size": (edit("3 1 2 3", "1 2 3"), face("1 2 3")),
    "a color of two values": (edit("3 1 2 3", "3 1 2 3 9 9"), color("3 1 2 3 9 9")),
    "a color that is a word": (edit("3 1 2 3", "3 1 2 3 red"), color("3 1 2 3 red")),
    # Nothing to sample from.
    "no area": (
        "OFF\n3 1 0\n0 0 0\n.1 .1 .1\n.3 .3 .3\n3 0 1 2\n",
        "all 1 faces together have no area (0 at a size of 0.519615), nothing to sample",
    ),
    "no area but for rounding": (
        "OFF\n3 1 0\n.1 .1 .1\n.13 .19 .31\n.17 .31 .59\n3 0 1 2\n",
        "all 1 faces together have no area (9.6974e-19 at a size of 0.53768), nothing to sample",
    ),
    "no area, far away": (
        "OFF\n3 2 0\n7 7 7\n7 7 7\n7 7 7\n3 0 1 2\n3 2 1 0\n",
        "all 2 faces together have no area (0 at a size of 0), nothing to sample",
    ),
    "one corner thrice": (
        f"OFF\n4 2 0\n{VERTICES}3 1 1 1\n3 2 2 2\n",
        "all 2 faces together have no area (0 at a size of 1.73205), nothing to sample",
    ),
}

# Those of the good ones that the fast reader takes.
PLAIN = [
    "plain",
    "indented",
    "glued header",
    "counts on the OFF line",
    "two counts",
    "CRLF",
    "CR",
    "no newline at the end",
    "exponents",
    "many digits",
    "one face without area",
]
