"""Text of points: what people write is read, and what can be read in two ways is not."""

import numpy as np
import pytest

from sharedmlp.data import MeshReadError, read_cloud

from .clouds import load_cloud

POINTS = np.random.default_rng(0).normal(size=(40, 3)).round(6)
COLORS = np.random.default_rng(1).integers(0, 256, size=(40, 3))
NORMALS = np.random.default_rng(2).normal(size=(40, 3))
NORMALS /= np.linalg.norm(NORMALS, axis=1, keepdims=True)


def rows(values, separator=" ", form="{:.6f}"):
    return [separator.join(form.format(value) for value in row) for row in values]


def text(values=POINTS, separator=" ", form="{:.6f}"):
    return "".join(line + "\n" for line in rows(values, separator, form))


COMMA = text().replace(".", ",")
READ = {
    "blanks": text(),
    "many blanks": "  " + text(separator="   "),
    "tabs": text(separator="\t"),
    "blanks and tabs": text().replace(" ", "\t", 1),
    "commas": text(separator=","),
    "commas and blanks": text(separator=", "),
    "blanks before commas": text(separator=" ,"),
    "semicolons": text(separator=";"),
    "semicolons and blanks": text(separator=" ; "),
    "a comma at the end": text(separator=",").replace("\n", ",\n"),
    "commas at the end": text(separator=",").replace("\n", ",,\n"),
    "a tab at the end": text(separator="\t").replace("\n", "\t\n"),
    "decimal commas and blanks": COMMA,
    "decimal commas and tabs": COMMA.replace(" ", "\t"),
    "decimal commas and semicolons": COMMA.replace(" ", ";"),
    "decimal commas, semicolons, blanks": COMMA.replace(" ", "; "),
    "decimal commas and a header": "X;Y;Z\n" + COMMA.replace(" ", ";"),
    "quotes": "".join('"' + line.replace(",", '","') + '"\n' for line in rows(POINTS, ",")),
    "CRLF": text().replace("\n", "\r\n"),
    "CR": text().replace("\n", "\r"),
    "no end of the last line": text().strip(),
    "blank lines": "\n\n" + text().replace("\n", "\n\n") + " \n",
    "exponents": text(form="{:e}").replace("e-0", "E-0"),
    "plus": text(form="{:+.6f}"),
    "a header": "x y z\n" + text(),
    "a header in capitals": "X,Y,Z\n" + text(separator=","),
    "a header of another style": "x, y, z\n" + text(separator="\t"),
    "a header in quotes": '"x","y","z"\n' + text(separator=","),
    "a header with units": "X [m];Y [m];Z (m)\n" + text(separator=";"),
    "a header and a count": "//X Y Z\n40\n" + text(),
    "a count and a header": "40\nx y z\n" + text(),
    "a count": "40\n" + text(),
    "ParaView": "Points:0,Points:1,Points:2\n" + text(separator=","),
    "comments": "# a scan, 3.5 m\n// of x y\n" + text() + "# end\n% end\n! end",
    "comments after numbers": text().replace("\n", " # a point\n", 3).replace("\n", "// b\n", 1),
    "a comment of words that are no names": "# one two three\n" + text(),
    "one point a column": "".join(line + "\n" for line in rows(POINTS.T)),
}


@pytest.mark.parametrize("case", READ)
@pytest.mark.parametrize("suffix", [".txt", ".csv"])
def test_what_people_write_is_read(tmp_path, suffix, case):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(READ[case].encode())
    np.testing.assert_allclose(load_cloud(path).points, POINTS, rtol=1e-6)


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1"]
)
def test_in_any_encoding(tmp_path, encoding):
    path = tmp_path / "a.xyz"
    path.write_bytes(("# Gebäude, Höhe über Null\n" + text()).encode(encoding))
    np.testing.assert_array_equal(load_cloud(path).points, POINTS)


NAMED = {
    "pandas": (",x,y,z,nx,ny,nz\n", "{0},{p},{n}"),
    "another order": ("nx,ny,nz,z,y,x\n", "{n},{q}"),
    "Cloud Compare": ("//X Y Z Scalar_Intensity Nx Ny Nz\n", "{p} 0.5 {n}"),
    "Cloud Compare with its count": ("//X,Y,Z,Nx,Ny,Nz\n40\n", "{p},{n}"),
    "words of PCL": ("x;y;z;normal_x;normal_y;normal_z;curvature\n", "{p};{n};0"),
}


@pytest.mark.parametrize("case", NAMED)
def test_columns_are_found_by_their_names(tmp_path, case):
    header, form = NAMED[case]
    separator = next(mark for mark in ";, " if mark in form)
    points, normals = rows(POINTS, separator), rows(NORMALS, separator, "{:.9f}")
    turned = rows(POINTS[:, ::-1], separator)
    path = tmp_path / "a.txt"
    lines = [
        form.format(number, p=p, n=n, q=q)
        for number, (p, n, q) in enumerate(zip(points, normals, turned, strict=True))
    ]
    path.write_text(header + "\n".join(lines))
    read = read_cloud(path, 40, seed=0, features=("normals",))
    np.testing.assert_allclose(read, np.hstack([POINTS, NORMALS]), rtol=0, atol=1e-8)


def test_labels_and_intensity_have_to_have_names(tmp_path):
    labels = np.arange(40) % 7
    path = tmp_path / "a.txt"
    lines = [f"{line} {label}" for line, label in zip(rows(POINTS), labels, strict=True)]
    path.write_text("\n".join(lines))
    assert load_cloud(path).labels is None
    with pytest.raises(MeshReadError, match="column 4 may be an intensity or a label: name the"):
        read_cloud(path, 40, seed=0, features=("intensity",))
    named = load_cloud(path, columns=("x", "y", "z", "label"))
    np.testing.assert_array_equal(named.labels, labels)
    path.write_text("x y z class\n" + "\n".join(lines))
    np.testing.assert_array_equal(load_cloud(path).labels, labels)
    read = read_cloud(path.rename(tmp_path / "a.csv"), 40, seed=0)
    np.testing.assert_array_equal(read, POINTS)
    (tmp_path / "a.pts").write_text("40\n" + "\n".join(lines))  # that is this format's
    read = read_cloud(tmp_path / "a.pts", 40, seed=0, features=("intensity",))
    np.testing.assert_array_equal(read[:, 3], labels)


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        (("x", "y", "z"), "has 4 columns where 3 names are given"),
        (("a", "b", "c", "d"), "expected columns x, y and z, given are a, b, c, d"),
    ],
)
def test_names_that_are_given_have_to_fit(tmp_path, columns, reason):
    path = tmp_path / "a.txt"
    path.write_text("1 2 3 4\n2 3 4 5\n")
    with pytest.raises(MeshReadError, match=reason):
        load_cloud(path, columns=columns)
    path.write_text("x y z i\n1 2 3 4\n2 3 4 5\n")
    with pytest.raises(MeshReadError, match="names its columns itself"):
        load_cloud(path, columns=("x", "y", "z", "i"))


@pytest.mark.parametrize("scale", [1, 1 / 255])
@pytest.mark.parametrize("suffix", [".txt", ".pts"])
def test_colors_are_no_normals(tmp_path, scale, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_text(text(np.hstack([POINTS, COLORS * scale])))
    read = read_cloud(path, 40, seed=0, features=("colors",))
    np.testing.assert_allclose(read[:, 3:], COLORS / 255, atol=1e-6)
    for options in ({"normals": True}, {"features": ("normals",)}):
        with pytest.raises(MeshReadError, match=r"a\....: has no normals"):
            read_cloud(path, 40, seed=0, **options)


def test_what_other_columns_hold_is_said(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(text(np.hstack([POINTS, COLORS])))
    with pytest.raises(MeshReadError, match=r"has no normals: columns 4 to 6 are colors"):
        read_cloud(path, 40, seed=0, normals=True)
    path.write_text(text(np.hstack([POINTS, NORMALS])))
    with pytest.raises(MeshReadError, match=r"has no colors: columns 4 to 6 are normals"):
        read_cloud(path, 40, seed=0, features=("colors",))
    path.write_text(text(np.hstack([POINTS, NORMALS, COLORS])))
    assert not load_cloud(path).reasons


def test_normals_are_no_colors(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(text(np.hstack([POINTS, np.abs(NORMALS)]), form="{:.2f}"))
    assert load_cloud(path).normals is not None
    with pytest.raises(MeshReadError, match="has no colors"):
        read_cloud(path, 40, seed=0, features=("colors",))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (NORMALS * np.arange(1, 41)[:, None], "are no normals, with lengths from 1 to 40, and no"),
        (np.eye(3)[np.arange(40) % 3], "are 0 and 1, which normals and colors may be"),
        (COLORS * 300, "are no normals"),
        (np.zeros((40, 3)), "are no normals"),
    ],
)
def test_columns_that_may_be_anything_need_names(tmp_path, values, reason):
    path = tmp_path / "a.txt"
    path.write_text(text(np.hstack([POINTS, values])))
    np.testing.assert_array_equal(read_cloud(path, 40, seed=0), POINTS)
    for feature in ("normals", "colors"):
        with pytest.raises(MeshReadError, match=f"has no {feature}: columns 4 to 6 {reason}"):
            read_cloud(path, 40, seed=0, features=(feature,))


def test_more_columns_without_names(tmp_path):
    path = tmp_path / "a.txt"
    intensity = np.linspace(-2000, 2000, 40).round()[:, None]
    path.write_text(text(np.hstack([POINTS, intensity, COLORS])))  # Semantic3D
    cloud = load_cloud(path)
    np.testing.assert_allclose(cloud.colors, COLORS / 255)
    np.testing.assert_allclose(cloud.intensity, intensity[:, 0])
    for order in ((COLORS, NORMALS), (NORMALS, COLORS)):
        path.write_text(text(np.hstack([POINTS, *order]), form="{:.9f}"))
        read = read_cloud(path, 40, seed=0, features=("colors", "normals"))
        np.testing.assert_allclose(read[:, 3:], np.hstack([COLORS / 255, NORMALS]), atol=1e-8)
    path.write_text(text(np.hstack([POINTS, COLORS, COLORS[:, :1] % 13])))
    with pytest.raises(MeshReadError, match="columns 4 to 6 or 5 to 7 may be its colors: name the"):
        read_cloud(path, 40, seed=0, features=("colors",))
    path = path.rename(tmp_path / "a.pts")  # whose order is known
    np.testing.assert_allclose(load_cloud(path).intensity, COLORS[:, 0])


REFUSED: dict[str, tuple[str | bytes, str]] = {
    "an empty field": ("1,2,3\n4,,6\n7,8,9\n", "line 2 has an empty field, in column 2"),
    "one that evens out": ("1,2,3,4\n4,,6,7\n", "line 2 has an empty field, in column 2"),
    "the first field": (",2,3\n4,5,6\n", "line 1 has an empty field, in column 1"),
    "between semicolons": ("1;2;3\n4;;6\n", "line 2 has an empty field"),
    "between tabs": ("1\t2\t3\t4\n4\t\t6\t7\n", "line 2 has an empty field"),
    "an empty column": ("1,,3,4\n4,,6,7\n", "line 1 has an empty field, in column 2"),
    "the last field of some": ("1,2,3\n4,5,\n", "line 2 has an empty field, in column 3"),
    "a short line": ("1 2 3\n4 5\n6 7 8\n", "line 2 has 2 where line 1 has 3"),
    "a long line": ("x y z\n1 2 3\n4 5 6 7\n", "line 3 has 4 where line 2 has 3"),
    "short and long": ("1 2 3\n4 5\n6 7 8 9\n", "line 2 has 2 where line 1 has 3"),
    "a word": ("1 2 3\n4 five 6\n", "line 2 has 'five', which is no number, in column 2"),
    "an underscore": ("1 2 3\n4 1_0 6\n", "'1_0', which is no number"),
    "hexadecimal": ("1 2 3\n4 0x10 6\n", "'0x10', which is no number"),
    "another alphabet": ("1 2 3\n4 \u0665 6\n", "which is no number"),
    "a control character": ("1 2 3\n4 18\x105 6\n", "control character 0x10 inside of '18.x105'"),
    "commas of both kinds": ("0,05,1,5,2,5\n1,05,2,5,3,5\n", "seems to have commas both as dec"),
    "commas and blanks of both kinds": ("1,5, 2,5, 3,5\n1,5, 2,5, 3,5\n", "commas inside of num"),
    "thousands": ("1,234.5 2,345.6 3,456.7\n", "commas inside of numbers and points too"),
    "thousands between commas": ("1,234.5, 2,345.6, 3,456.7\n", "commas inside of numbers and"),
    "thousands in German": ("1.234,5;2.345,6;3.456,7\n", "has commas and points in its numbers"),
    "a wrong count": ("4\n1 2 3\n4 5 6\n", "promises 4 points before the first one, and 2 follow"),
    "a huge count": ("1000000000000\n1 2 3\n4 5 6\n", "promises 1000000000000 points"),
    "other names": ("a,b,c\n1,2,3\n4,5,6\n", "'a,b,c' stands before lines of 3 numbers, and names"),
    "names of too few": ("x y z\n1 2 3 4\n4 5 6 7\n", "'x y z' stands before lines of 4 numbers"),
    "words": ("a lovely\nletter\n", "line 2 has 'letter', which is no number"),
    "a word alone": ("letter\n", "no line begins with one, the first line is 'letter'"),
    "names alone": ("x y z\n", "holds no points"),
    "a molecule": ("2\nwater\nO 0 0 0\nH 1 0 0\n", "holds no array of numbers"),
    "binary": (b"\x00\x01\x02" * 100, "it is binary, no text"),
    "more names than numbers": ("x,y,z,label\n1,2,3,\n4,5,6,\n", "names 4 columns"),
    "two columns of one name": ("x y z X\n1 2 3 4\n4 5 6 7\n", "has 2 columns named x"),
    "two columns": ("1 2\n3 4\n", r"expected points of shape \(N, 3 or more\), got \(2, 2\)"),
    "one point": ("1 2 3\n", "there is 1 point: without an extent it is no shape"),
    "equal points": ("1 2 3\n" * 1200, "there are 1,200 equal points: without an extent"),
    "NaN": (
        "1 2 3\nnan nan nan\n4 5 inf\n",
        r"point 1 \(from 0\) is not finite .*so are 2 of its 3 points",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_is_said_in_a_line(tmp_path, case):
    content, reason = REFUSED[case]
    path = tmp_path / "a.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(MeshReadError, match=reason) as error:
        load_cloud(path)
    assert "\n" not in str(error.value)
    assert len(error.value.reason) < 300


def test_numbers_are_those_of_python(tmp_path):
    """On the fast path and on the one that goes line by line, which the quotes ask for."""
    values = np.random.default_rng(3).normal(size=(30, 3)) * 10.0 ** np.arange(-12, 18)[:, None]
    path = tmp_path / "a.csv"
    lines = [[repr(value) for value in row] for row in values.tolist()]
    for form in ("{},{},{}", '"{}","{}","{}"'):
        path.write_text("\n".join(form.format(*line) for line in lines))
        np.testing.assert_array_equal(load_cloud(path).points, values)
