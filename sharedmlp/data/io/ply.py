"""PLY files of meshes: parsed by trimesh and held against the face count of their header."""

import re
from pathlib import Path

from sharedmlp.data.io.base import MeshArrays, check_triangle_count
from sharedmlp.data.io.trimesh_reader import read_with_trimesh


def read_ply(path: Path, content: bytes) -> MeshArrays:
    """Read a mesh.

    Raises:
        FormatError: If there are fewer faces than the header promises; of a text file that is cut
            short, trimesh reads what is there.
        Exception: Whatever the parsing runs into.
    """
    header = content[:65536].partition(b"end_header")[0]
    count = re.search(rb"^\s*element\s+face\s+(\d{1,18})\s*$", header, re.MULTILINE)
    mesh = read_with_trimesh(path, content)
    return check_triangle_count(mesh, int(count[1]) if count else 0)
