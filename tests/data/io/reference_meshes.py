"""Second readers of OBJ, PLY and STL, written as their specifications read: slow, strict, no NumPy.

Each takes the content to vertices (x, y, z) and polygons (positions in the vertices), or raises
ValueError for what is not sound, and for some of what is sound but unusual.
"""

import math
import re
import struct
from typing import Any

NUMBER = re.compile(r"[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][+-]?[0-9]+)?")
INTEGER = re.compile(r"[+-]?[0-9]{1,17}")
CORNER = re.compile(r"([+-]?[0-9]{1,17})(/[+-]?[0-9]*)?(/[+-]?[0-9]*)?")
OBJ_KEYWORDS = ("o", "g", "s", "vt", "vn", "usemtl", "mtllib", "l", "p")
CODES = {"char": "b", "uchar": "B", "short": "h", "ushort": "H", "int": "i", "uint": "I"}
CODES |= {"float": "f", "double": "d"}


def text_of(content):
    text = content.decode("ascii").replace("\r\n", "\n").replace("\r", "\n")
    if re.search("[^\t\n -~]", text):
        raise ValueError("not plain text")
    return text


def number(token):
    if not NUMBER.fullmatch(token) or not math.isfinite(float(token)):
        raise ValueError(token)
    return float(token)


def integer(token):
    if not INTEGER.fullmatch(token):
        raise ValueError(token)
    return int(token)


def check_polygons(vertices, polygons):
    if not polygons:
        raise ValueError("no faces")
    for polygon in polygons:
        if len(polygon) < 3 or not all(0 <= corner < len(vertices) for corner in polygon):
            raise ValueError(polygon)
    return vertices, polygons


def read_obj(content):
    vertices, polygons = [], []
    text = text_of(content)
    if "\\" in text:
        raise ValueError("continued lines")
    for line in text.split("\n"):
        keyword, *tokens = line.split("#")[0].split() or [""]
        if keyword == "v":
            values = [number(token) for token in tokens]
            if len(values) not in (3, 4, 6, 7):
                raise ValueError(line)
            vertices.append(values[:3])
        elif keyword == "f":
            matches = [CORNER.fullmatch(token) for token in tokens]
            corners = [int(match[1]) for match in matches if match]
            if not all(matches) or 0 in corners:
                raise ValueError(line)
            polygons.append([c - 1 if c > 0 else len(vertices) + c for c in corners])
        elif keyword and keyword not in OBJ_KEYWORDS:
            raise ValueError(line)
    return check_polygons(vertices, polygons)


def read_stl(content):
    if content[:5] != b"solid":
        (count,) = struct.unpack_from("<I", content[80:84].ljust(4, b"\xff"))
        if not count or len(content) != 84 + 50 * count or content[:5].lower() == b"solid":
            raise ValueError("another size")
        corners: list[Any] = [
            struct.unpack_from("<9f", content, 84 + 50 * i + 12) for i in range(count)
        ]
    else:
        lines = [line.split() for line in text_of(content).lower().split("\n") if line.strip()]
        if lines[0][0] != "solid" or lines[-1][0] != "endsolid" or len(lines) % 7 != 2:
            raise ValueError("another grammar")
        corners = []
        for i in range(1, len(lines) - 1, 7):
            words = [line[:2] for line in lines[i : i + 2]] + [
                line[0] for line in lines[i + 2 : i + 7]
            ]
            if words != [
                ["facet", "normal"],
                ["outer", "loop"],
                *["vertex"] * 3,
                "endloop",
                "endfacet",
            ]:
                raise ValueError(words)
            if [len(line) for line in lines[i : i + 7]] != [5, 2, 4, 4, 4, 1, 1]:
                raise ValueError("more or less words")
            corners.append([number(w) for line in lines[i + 2 : i + 5] for w in line[1:]])
    vertices = [list(facet[i : i + 3]) for facet in corners for i in (0, 3, 6)]
    return check_polygons(vertices, [[i, i + 1, i + 2] for i in range(0, len(vertices), 3)])


def read_ply_header(content):
    end = content.index(b"\nend_header\n")
    lines = [line.split() for line in text_of(content[:end]).split("\n")]
    if lines[0] != ["ply"] or lines[1][:1] != ["format"] or b"\r" in content[:end]:
        raise ValueError("no PLY")
    elements: list[tuple[str, int, list[list[str]]]] = []
    for line in lines[2:]:
        if line[:1] == ["comment"]:
            continue
        if line[0] == "element" and len(line) == 3 and re.fullmatch("[0-9]{1,17}", line[2]):
            elements.append((line[1], int(line[2]), []))
        elif (
            line[0] == "property"
            and len(line) in (3, 5)
            and (line[1] == "list") == (len(line) == 5)
        ):
            elements[-1][2].append(line[1:])
        else:
            raise ValueError(line)
    for names in ([element[0] for element in elements], *([p[-1] for p in e[2]] for e in elements)):
        if len(set(names)) < len(names):
            raise ValueError("a name twice")
    return lines[1], elements, content[end + len("\nend_header\n") :]


def read_ply(content):
    """With an error of any kind where the header is none."""
    form, elements, body = read_ply_header(content)
    if form not in (["format", f"{kind}", "1.0"] for kind in ("ascii", *ORDERS)):
        raise ValueError(form)
    if form[1] == "ascii":
        lines = [line for line in text_of(body).split("\n") if line.strip()]
        take = None
    else:
        lines = []
        take = Bytes(body, ORDERS[form[1]])
    tables: dict[str, list[dict[str, Any]]] = {}
    for name, count, properties in elements:
        if count > len(body) or not properties:
            raise ValueError("too many")
        tables[name] = []
        for _ in range(count):
            source = take or Words(lines.pop(0))
            record = {}
            for *types, part in properties:
                if types[0] == "list":
                    if types[1] in ("float", "double"):
                        raise ValueError(types)
                    size = source.get(types[1])
                    if not 0 <= size <= len(body):
                        raise ValueError(size)
                    record[part] = [source.get(types[2]) for _ in range(size)]
                    if types[2] in ("float", "double") and part.startswith("vertex_ind"):
                        raise ValueError(types)
                else:
                    record[part] = source.get(types[0])
            source.finish()
            tables[name].append(record)
    if lines or (take and take.position < len(body)):
        raise ValueError("more than promised")
    vertices = [[float(record[axis]) for axis in "xyz"] for record in tables["vertex"]]
    if tables.get("tristrips"):
        raise ValueError("strips")
    key = "vertex_indices"
    polygons = [record[key] for record in tables["face"]]
    if not all(isinstance(polygon, list) for polygon in polygons):
        raise ValueError("no lists")
    return check_polygons(vertices, polygons)


ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">"}


class Words:
    def __init__(self, line):
        self.words = line.split()

    def get(self, kind):
        if kind not in CODES:
            raise ValueError(kind)
        token = self.words.pop(0)
        return number(token) if kind in ("float", "double") else integer(token)

    def finish(self):
        if self.words:
            raise ValueError(self.words)


class Bytes:
    def finish(self):
        """A record ends where it ends."""

    def __init__(self, body, order):
        self.body, self.order, self.position = body, order, 0

    def get(self, kind):
        code = self.order + CODES[kind]
        (value,) = struct.unpack_from(code, self.body, self.position)
        self.position += struct.calcsize(code)
        return value
