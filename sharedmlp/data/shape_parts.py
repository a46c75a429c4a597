"""The parts that the generated shapes are built from: boxes, rods, lathe work and rings, z up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import trimesh

    Parts = list[trimesh.Trimesh]


def box(size: Sequence[float], center: Sequence[float]) -> trimesh.Trimesh:
    """Return an axis-aligned box."""
    from trimesh.creation import box as create_box

    mesh: trimesh.Trimesh = create_box(extents=size)
    return move(mesh, *center)


def rod(
    rng: np.random.Generator, start: Sequence[float], end: Sequence[float], radius: float
) -> trimesh.Trimesh:
    """Return a cylinder between two points, of 5 to 16 sides."""
    from trimesh.creation import cylinder

    sections = int(rng.integers(5, 17))
    mesh: trimesh.Trimesh = cylinder(radius=radius, segment=[start, end], sections=sections)
    return mesh


def lathe(rng: np.random.Generator, profile: Sequence[Sequence[float]]) -> trimesh.Trimesh:
    """Return a profile of (radius, z) pairs turned about the up axis, of 8 to 32 sides."""
    from trimesh.creation import revolve

    sections = int(rng.integers(8, 33))
    mesh: trimesh.Trimesh = revolve(np.asarray(profile, dtype=float), sections=sections)
    return mesh


def ring(rng: np.random.Generator, radius: float, thickness: float) -> trimesh.Trimesh:
    """Return a torus about the up axis."""
    from trimesh.creation import torus

    sections = rng.integers([10, 5], [33, 13])
    mesh: trimesh.Trimesh = torus(radius, thickness, *map(int, sections))
    return mesh


def named(name: str, mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """Say which part of its shape a mesh is, one of `shape_classes.PARTS`, and return it."""
    mesh.metadata["part"] = name
    return mesh


def move(mesh: trimesh.Trimesh, x: float, y: float, z: float) -> trimesh.Trimesh:
    """Move a mesh in place and return it."""
    mesh.apply_translation([x, y, z])
    return mesh


def stand(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """Turn a mesh in place about x by a quarter, so that y points up, and return it."""
    mesh.apply_transform(np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]]))
    return mesh


def legs(
    rng: np.random.Generator, width: float, depth: float, height: float, count: int = 4
) -> Parts:
    """Return legs below a seat or board at `height`: square or round, upright or splayed."""
    thickness, splay = rng.uniform(0.02, 0.05), rng.choice([0.0, rng.uniform(0.02, 0.12)])
    if count == 4:
        corners = [(x, y) for x in (-1.0, 1.0) for y in (-1.0, 1.0)]
    else:
        angles = 2 * np.pi * np.arange(count) / count
        corners = [(float(np.cos(angle)), float(np.sin(angle))) for angle in angles]
    square = rng.random() < 0.5 and splay == 0
    parts = []
    for x, y in corners:
        top = (x * (width / 2 - thickness), y * (depth / 2 - thickness), height)
        foot = (top[0] + x * splay, top[1] + y * splay, 0)
        if square:
            parts.append(box((2 * thickness, 2 * thickness, height), (*top[:2], height / 2)))
        else:
            parts.append(rod(rng, foot, top, thickness))
    # A leg may be missing, as parts of scanned and of badly modelled objects are.
    if rng.random() < 0.15:
        parts.pop(int(rng.integers(len(parts))))
    return [named("leg", part) for part in parts]


def pedestal(rng: np.random.Generator, radius: float, height: float) -> Parts:
    """Return a column on a flat foot."""
    foot = radius * rng.uniform(0.5, 0.9)
    profile = [(0, 0), (foot, 0), (foot, 0.03), (0, 0.03 + foot * rng.uniform(0, 0.2))]
    parts = [lathe(rng, profile), rod(rng, (0, 0, 0.02), (0, 0, height), rng.uniform(0.03, 0.07))]
    return [named("leg", part) for part in parts]


def board(rng: np.random.Generator, width: float, depth: float, z: float) -> trimesh.Trimesh:
    """Return a table top or a seat whose upper side is at z, square or round."""
    thickness = rng.uniform(0.03, 0.09)
    if rng.random() < 0.35:
        top = lathe(rng, [(0, z - thickness), (0.65, z - thickness), (0.65, z), (0, z)])
        top.vertices[:, :2] *= (width, depth)
        return top
    return box((width, depth, thickness), (0, 0, z - thickness / 2))
