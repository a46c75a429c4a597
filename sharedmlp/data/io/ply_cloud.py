"""The vertices of a PLY file without faces, as a cloud."""

from __future__ import annotations

import numpy as np

from sharedmlp.data.io.base import PointCloud
from sharedmlp.data.io.fields import cloud_from_fields, restore_integers
from sharedmlp.data.io.ply_header import PlyHeader
from sharedmlp.data.io.ply_table import PlyTable


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
    return cloud_from_fields(
        {
            name: restore_integers(column, types[name])
            for name, column in vertices.items()
            if isinstance(column, np.ndarray)
        }
    )
