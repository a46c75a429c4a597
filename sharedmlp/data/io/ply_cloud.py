"""The vertices of a PLY file without faces, as a cloud."""

from __future__ import annotations

import numpy as np

from sharedmlp.data.io.base import PointArray, PointCloud
from sharedmlp.data.io.fields import cloud_from_fields
from sharedmlp.data.io.ply_body import PlyTable
from sharedmlp.data.io.ply_header import PlyHeader


def cloud_from_vertices(vertices: PlyTable, header: PlyHeader) -> PointCloud:
    """Return the cloud of the vertices' properties, of which lists are left out.

    Args:
        vertices: The columns of the element `vertex`.
        header: Says which of them are integers, which the columns of text are not.

    Raises:
        FormatError: As `cloud_from_fields`.
    """
    types = {
        part.name: np.dtype(part.dtype)
        for element in header.elements
        if element.name == "vertex"
        for part in element.properties
    }
    fields: dict[str, PointArray] = {}
    for name, column in vertices.items():
        if not isinstance(column, np.ndarray):
            continue
        fields[name] = column
        dtype = types[name]
        if column.dtype.kind == "f" and dtype.kind in "iu" and len(column):
            bounds = np.iinfo(dtype)
            if ((column >= bounds.min) & (column <= bounds.max) & (column % 1 == 0)).all():
                fields[name] = column.astype(dtype)
    return cloud_from_fields(fields)
