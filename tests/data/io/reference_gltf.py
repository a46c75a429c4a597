"""A second reader of glTF, as its specification reads: slow, strict, no NumPy.

It knows less than the package: raw float positions, no skins, no morph targets, no rotations, no
bounds that are wrong. Whatever else a document has is a ValueError.
"""

import base64
import json
import math
import struct

CODES = {5121: "B", 5123: "H", 5125: "I", 5126: "f"}
WIDTHS = {"SCALAR": 1, "VEC3": 3}
KNOWN = {
    "document": "asset buffers bufferViews accessors meshes nodes scenes scene",
    "asset": "version",
    "buffers": "byteLength uri",
    "bufferViews": "buffer byteOffset byteLength byteStride target",
    "accessors": "bufferView byteOffset componentType count type sparse min max",
    "meshes": "primitives",
    "primitives": "attributes indices mode",
    "nodes": "mesh children translation scale matrix",
    "scenes": "nodes",
}


def check_keys(part, kind):
    if not isinstance(part, dict) or not part.keys() <= set(KNOWN[kind].split()):
        raise ValueError(part)


def whole(value, least=0):
    if type(value) is not int or value < least:
        raise ValueError(value)
    return value


def listed(part, key):
    values = part.get(key, [])
    if type(values) is not list:
        raise ValueError(values)
    return values


def numbers(values, length):
    if type(values) is not list or len(values) != length:
        raise ValueError(values)
    if not all(type(value) in (int, float) and math.isfinite(value) for value in values):
        raise ValueError(values)
    return [float(value) for value in values]


def one(document, kind, index):
    if whole(index) >= len(document[kind]):
        raise ValueError(index)
    return document[kind][index]


def read_view(document, index):
    view = one(document, "bufferViews", index)
    buffer = one(document, "buffers", view["buffer"])
    head, data = buffer["uri"].split(",")
    if head != "data:application/octet-stream;base64":
        raise ValueError(head)
    content = base64.b64decode(data, validate=True)
    if whole(buffer["byteLength"]) > len(content):
        raise ValueError("short")
    start = whole(view.get("byteOffset", 0))
    end = start + whole(view["byteLength"])
    if end > buffer["byteLength"]:
        raise ValueError("beyond")
    return content[start:end], whole(view["byteStride"], 1) if "byteStride" in view else None


def read_values(document, part, code, width, count):
    content, stride = read_view(document, part["bufferView"])
    if whole(count) > len(content):
        raise ValueError("too many")
    code = f"<{width}{CODES[code]}"
    stride = struct.calcsize(code) if stride is None else whole(stride, struct.calcsize(code))
    offset = whole(part.get("byteOffset", 0))
    return [list(struct.unpack_from(code, content, offset + i * stride)) for i in range(count)]


def read_accessor(document, index, kind):
    accessor = one(document, "accessors", index)
    check_keys(accessor, "accessors")
    if accessor["type"] != kind:
        raise ValueError(accessor)
    width, code = WIDTHS[kind], accessor["componentType"]
    if (code == 5126) != (kind == "VEC3") or "bufferView" not in accessor:
        raise ValueError(accessor)
    values = read_values(document, accessor, code, width, accessor["count"])
    sparse = accessor.get("sparse")
    if sparse is not None:
        if not sparse or not sparse.keys() <= {"count", "indices", "values"}:
            raise ValueError(sparse)
        count = whole(sparse["count"])
        if sparse["indices"]["componentType"] == 5126:
            raise ValueError(sparse)
        places = read_values(
            document, sparse["indices"], sparse["indices"]["componentType"], 1, count
        )
        places = [place for (place,) in places]
        if sorted(set(places)) != places or (places and places[-1] >= len(values)):
            raise ValueError(places)
        for place, value in zip(
            places, read_values(document, sparse["values"], code, width, count), strict=True
        ):
            values[place] = value
    for key, bound in (("min", min), ("max", max)):
        if key in accessor and values:
            found = [float(bound(column)) for column in zip(*values, strict=True)]
            if numbers(accessor[key], width) != found:
                raise ValueError(found)
    return values


def multiply(a, b):
    return [[sum(a[i][k] * b[k][j] for k in range(4)) for j in range(4)] for i in range(4)]


def place_of(node):
    if "matrix" in node:
        if node.keys() & {"translation", "scale"}:
            raise ValueError(node)
        values = numbers(node["matrix"], 16)
        if values[3::4] != [0, 0, 0, 1]:
            raise ValueError(values)
        return [values[i::4] for i in range(4)]
    scale = numbers(node.get("scale", [1, 1, 1]), 3)
    shift = numbers(node.get("translation", [0, 0, 0]), 3)
    return [[scale[i] * (i == j) for j in range(3)] + [shift[i]] for i in range(3)] + [[0, 0, 0, 1]]


def triangles_of(corners, mode):
    if mode == 4:
        if len(corners) % 3:
            raise ValueError(len(corners))
        return [corners[i : i + 3] for i in range(0, len(corners), 3)]
    if mode == 5:
        return [
            [corners[i + i % 2], corners[i + 1 - i % 2], corners[i + 2]]
            for i in range(len(corners) - 2)
        ]
    if mode == 6:
        return [[corners[0], *corners[i : i + 2]] for i in range(1, len(corners) - 1)]
    raise ValueError(mode)


def read_gltf(content):
    """The corners of all triangles, and an error of any kind for all that is not known."""
    document = json.loads(content.decode("utf-8"))
    check_keys(document, "document")
    if document["asset"] != {"version": "2.0"}:
        raise ValueError("asset")
    for kind in ("buffers", "bufferViews", "accessors", "meshes", "nodes", "scenes"):
        for part in document[kind]:
            check_keys(part, kind)
    for accessor in document["accessors"]:
        whole(accessor["count"])
    for view in document["bufferViews"]:
        whole(view["byteLength"])
    parents = [child for node in document["nodes"] for child in listed(node, "children")]
    if len(set(parents)) < len(parents):
        raise ValueError("two parents")
    found = []

    def visit(index, place, above):
        node = one(document, "nodes", index)
        if index in above:
            raise ValueError("a circle")
        place = multiply(place, place_of(node))
        if "mesh" in node:
            for primitive in one(document, "meshes", node["mesh"])["primitives"]:
                check_keys(primitive, "primitives")
                if primitive["attributes"].keys() != {"POSITION"}:
                    raise ValueError(primitive)
                points = read_accessor(document, primitive["attributes"]["POSITION"], "VEC3")
                corners = list(range(len(points)))
                if "indices" in primitive:
                    corners = [
                        v for (v,) in read_accessor(document, primitive["indices"], "SCALAR")
                    ]
                if any(corner >= len(points) for corner in corners):
                    raise ValueError("a corner")
                moved = [
                    [sum(row[k] * point[k] for k in range(3)) + row[3] for row in place[:3]]
                    for point in points
                ]
                found.extend(
                    [
                        [moved[corner] for corner in triangle]
                        for triangle in triangles_of(corners, primitive.get("mode", 4))
                    ]
                )
        for child in listed(node, "children"):
            visit(child, place, [*above, index])

    identity = [[float(i == j) for j in range(4)] for i in range(4)]
    roots = listed(one(document, "scenes", document.get("scene", 0)), "nodes")
    if len(set(roots)) < len(roots) or set(roots) & set(parents):
        raise ValueError("no roots")
    for root in roots:
        visit(root, identity, [])
    for index in range(len(document["nodes"])):  # those that are not shown form no circle either
        visit_all(document, index, [])
    if not found:
        raise ValueError("no triangles")
    return found


def visit_all(document, index, above):
    if index in above:
        raise ValueError("a circle")
    node = one(document, "nodes", index)
    place_of(node)
    if "mesh" in node:
        one(document, "meshes", node["mesh"])
    for child in listed(node, "children"):
        visit_all(document, child, [*above, index])
