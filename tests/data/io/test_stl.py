"""STL, text and binary: every form that has to be read, and every fault that has to be named."""

import struct

import numpy as np
import pytest

from sharedmlp.data import MeshReadError, read_mesh

from .meshes import BOX_FACES, BOX_VERTICES, assert_is_box, write

CORNERS = np.array(BOX_VERTICES, dtype="<f4")[np.array(BOX_FACES)]


def binary(corners=CORNERS, count=None, header=b"x" * 80, attribute=0):
    content = header.ljust(80, b"\0") + struct.pack("<I", len(corners) if count is None else count)
    for triangle in corners:
        content += np.zeros(3, "<f4").tobytes() + triangle.astype("<f4").tobytes()
        content += struct.pack("<H", attribute)
    return content


def text(corners=CORNERS, name=" box", end=" box"):
    lines = [f"solid{name}"]
    for triangle in corners:
        lines += ["facet normal 0 0 1", "  outer loop"]
        lines += [f"    vertex {x:.6e} {y:.6e} {z:.6e}" for x, y, z in triangle]
        lines += ["  endloop", "endfacet"]
    return "\n".join([*lines, f"endsolid{end}\n"])


GOOD: dict[str, str | bytes] = {
    "binary": binary(),
    "solid in its header": binary(header=b"solid box"),
    "endsolid and facets in its header": binary(header=b"solid a\nfacet normal\nendsolid"),
    "attributes": binary(attribute=0x7FFF),
    "trailing bytes": binary() + b"made by a program",
    "trailing text as long as facets": binary() + b"made by a program " * 25,
    "trailing zeros as long as facets": binary() + b"\0" * 100,
    "solid in its header and trailing bytes": binary(header=b"solid box") + b"\1\2\3",
    "a count of 0": binary(count=0),
    "a count of -1": binary(count=0xFFFFFFFF),
    "a count of 10**9": binary(count=10**9),
    "a count of 10**9 and solid": binary(count=10**9, header=b"solid box"),
    "two solids, one after the other": binary(CORNERS[:5]) + binary(CORNERS[5:]),
    "text": text(),
    "no names": text(name="", end=""),
    "solid in a name": text(name=" my solid box"),
    "endsolid in a name": text(name=" endsolid", end=" endsolid endsolid"),
    "facets in a name": text(name=" facet normal vertex", end=" endfacet"),
    "a name that is not ASCII": text(name=" Körper").encode("latin-1"),
    "several solids": text(CORNERS[:5]) + text(CORNERS[5:], name=" solid", end=""),
    "upper case": text().upper(),
    "indented with tabs": text().replace("\n", "\n\t"),
    "CR": text().replace("\n", "\r"),
    "CRLF": text().replace("\n", "\r\n"),
    "a byte order mark": "\ufeff" + text(),
    "UTF-16": text().encode("utf-16"),
    "blank lines before": "\n\n" + text(),
    "a facet a line": text()
    .replace("\n    ", " ")
    .replace("\n  ", " ")
    .replace("\nend", " end", 12),
    "normals that are no numbers": text().replace("normal 0 0 1", "normal -nan(ind) nan nan"),
    "many digits": text().replace("0e+00", "000000000000000000000e+00"),
}


@pytest.mark.parametrize("case", GOOD)
def test_stl_that_has_to_be_read(case, tmp_path):
    mesh = read_mesh(write(tmp_path / "a.stl", GOOD[case]))
    assert_is_box(mesh)
    assert mesh.volume == pytest.approx(6)  # all faces the same way round
    np.testing.assert_array_equal(mesh.vertices, CORNERS.reshape(-1, 3))
    np.testing.assert_array_equal(mesh.faces, np.arange(36).reshape(-1, 3))
    assert len(read_mesh(write(tmp_path / "a.stl_ascii", GOOD[case])).faces) == 12


FIRST = text().splitlines()
NAN = CORNERS.copy()
NAN[2, 1, 0] = np.nan
BAD: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "the file is empty"),
    "short": ("hello", "the file has 5 bytes: expected 'solid' and text, or 84 bytes"),
    "no STL": ("hello " * 100, "no text that begins with 'solid', and as binary STL its header"),
    "no facets": (binary(CORNERS[:0]), "there are no faces: the file is an empty solid"),
    "no facets in text": ("solid a\nendsolid a\n", "there are no faces: the file is an empty"),
    "cut short": (binary()[:-20], "promises 12 triangles of 50 bytes, but 580 bytes follow it"),
    "cut short by facets": (binary()[:-100], "promises 12 triangles of 50 bytes, but 500 bytes"),
    "cut short early": (binary()[:90], "promises 12 triangles of 50 bytes, but 6 bytes follow it"),
    "a count too small": (binary(count=3), "the header promises 3 triangles, but 12 follow it"),
    "a count too small and trailing bytes": (
        binary(count=3) + b"abc",
        "promises 3 triangles, but 12",
    ),
    "a count of 0 and trailing bytes": (binary(count=0) + b"abc", "promises 0 triangles of 50"),
    "NaN": (binary(NAN), "vertex 7 (of 36, from 0) is not finite"),
    "no endsolid": ("\n".join(FIRST[:-1]), "does not end with 'endsolid': the file is cut short"),
    "cut short in a facet": ("\n".join(FIRST[:-3]), "does not end with 'endsolid'"),
    "a facet without its end": (
        "\n".join([*FIRST[:-3], FIRST[-1]]),
        "facet 11 (from 0) of the solid in line 1",
    ),
    "four vertices": (
        text().replace("  endloop", "    vertex 0 0 0\n  endloop"),
        "facet 0 (from 0)",
    ),
    "two values": (text().replace("vertex 0.000000e+00", "vertex", 1), "facet 0 (from 0)"),
    "a word": (text().replace("vertex 0.000000e+00", "vertex x", 1), "expected finite numbers"),
    "an underscore": (text().replace("vertex 0.000000e+00", "vertex 1_0", 1), "finite numbers"),
    "NaN in text": (text().replace("vertex 0.000000e+00", "vertex nan", 1), "finite numbers"),
    "text after the end": (text() + "hello\n", "does not end with 'endsolid'"),
    "solid twice": (
        "solid a\n" + text(),
        "line 2: expected 'endsolid' before it, found 'solid box'",
    ),
    "endsolid twice": (text() + "endsolid\n", "line 87: expected 'solid' before it"),
}


@pytest.mark.parametrize("case", BAD)
def test_stl_that_has_to_be_refused(case, tmp_path):
    content, message = BAD[case]
    with pytest.raises(MeshReadError) as caught:
        read_mesh(write(tmp_path / "a.stl", content))
    assert message in caught.value.reason
    assert "\n" not in caught.value.reason
    assert len(caught.value.reason) < 300
