"""PLY files: triangles, or points if there are no faces."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sharedmlp.data.io.base import FormatError, MeshArrays, PointCloud
from sharedmlp.data.io.ply_body import read_ply_body
from sharedmlp.data.io.ply_cloud import cloud_from_vertices
from sharedmlp.data.io.ply_header import parse_ply_header
from sharedmlp.data.io.ply_table import PlyLists, PlyTable
from sharedmlp.data.io.polygons import cut_into_triangles, strip_triangles
from sharedmlp.data.io.text import convert_to_utf8

_INDEX_NAMES = ("vertex_indices", "vertex_index")


def read_ply(path: Path, content: bytes) -> MeshArrays | PointCloud:
    """Read the triangles of a PLY file, or its points if it has no faces.

    Read are ASCII and both binary forms, properties of any type, faces of any sizes and triangle
    strips.

    Returns:
        The mesh, or the points with what else the file says of them.

    Raises:
        FormatError: If the content is not what the header says.
    """
    content = convert_to_utf8(content)
    header = parse_ply_header(content)
    tables = read_ply_body(content, header)
    vertices = tables.get("vertex")
    if vertices is None:
        raise FormatError("it has no element 'vertex'")
    missing = [name for name in "xyz" if not isinstance(vertices.get(name), np.ndarray)]
    if missing and "packed_position" in vertices:
        raise FormatError("holds compressed Gaussian splats, which are not read: save them as PLY")
    if missing:
        raise FormatError(f"its vertices have no property {missing[0]!r}")
    points = _stack(vertices, ("x", "y", "z"))
    counts = {element.name: element.count for element in header.elements}
    parts = []
    if counts.get("face"):
        parts.append(cut_into_triangles(points, *_find_indices(tables, "face")))
    if counts.get("tristrips"):
        parts.append(strip_triangles(*_find_indices(tables, "tristrips")))
    if parts:
        return MeshArrays(points, np.concatenate(parts))
    return cloud_from_vertices(vertices, header)


def _stack(table: PlyTable, names: tuple[str, ...]) -> NDArray[np.float64]:
    return np.stack([np.asarray(table[name], dtype=np.float64) for name in names], axis=1)


def _find_indices(tables: dict[str, PlyTable], element: str) -> PlyLists:
    """Return the vertex numbers of an element."""
    for name in _INDEX_NAMES:
        indices = tables[element].get(name)
        if isinstance(indices, PlyLists) and indices.values.dtype.kind in "iu":
            return indices
    raise FormatError(
        f"its element {element!r} has no property 'vertex_indices', a list of integers"
    )
