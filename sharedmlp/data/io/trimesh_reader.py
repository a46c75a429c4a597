"""Meshes by trimesh's parsers, from memory."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sharedmlp.data.io.base import MeshArrays
from sharedmlp.utils.optional_imports import require_modules

if TYPE_CHECKING:
    import trimesh


def require_trimesh() -> None:
    """Raise an ImportError that names the extra to install if trimesh is missing."""
    require_modules("trimesh", extra="train", purpose="Reading or making meshes")


def read_with_trimesh(path: Path, content: bytes) -> MeshArrays:
    """Read a mesh that refers to no other file; materials are left out."""
    return load_with_trimesh(content, path.suffix.lower())


def load_with_trimesh(
    content: bytes, suffix: str, resolver: trimesh.resolvers.Resolver | None = None
) -> MeshArrays:
    """Parse a mesh, or all meshes of a scene as one.

    Args:
        content: The bytes of the file.
        suffix: Its suffix, lower case, with the dot: the format.
        resolver: Finds the files that it refers to; None if it must not refer to any.

    Raises:
        Exception: Whatever the parsing runs into.
    """
    import trimesh

    # Not from the path: a reader that asks a file for 4 GB gets room for them first.
    mesh = trimesh.load_scene(
        io.BytesIO(content),
        file_type=suffix[1:],
        resolver=resolver,
        process=False,
        skip_materials=True,
    ).to_mesh()
    return MeshArrays(np.asarray(mesh.vertices), np.asarray(mesh.faces))
