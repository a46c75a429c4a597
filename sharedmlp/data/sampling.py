"""From a mesh to points: area-weighted sampling and normalization. NumPy only, no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    import trimesh


def sample_points(
    mesh: trimesh.Trimesh,
    num_points: int,
    *,
    seed: int | np.random.Generator,
    normals: bool = False,
) -> NDArray[np.float32]:
    """Draw points from the surface of a mesh, uniformly by area.

    Args:
        mesh: The mesh, with positive area.
        num_points: How many points to draw, N.
        seed: A number, or a generator that is advanced; there is no unseeded way.
        normals: Whether to append the unit normal of the face that each point lies on. It points
            to the side from which the face's corners run counter-clockwise.

    Returns:
        (N, 3) or, with normals, (N, 6): x, y, z in the mesh's own units, nx, ny, nz.

    Raises:
        ValueError: If `num_points` is less than 1.
    """
    return draw_surface(mesh, num_points, seed=seed, normals=normals).astype(np.float32)


def draw_surface(
    mesh: trimesh.Trimesh,
    num_points: int,
    *,
    seed: int | np.random.Generator,
    normals: bool = False,
) -> NDArray[np.float64]:
    """Draw points as `sample_points` does, in float64: a mesh far from 0 keeps its detail."""
    return draw_surface_and_faces(mesh, num_points, seed=seed, normals=normals)[0]


def draw_surface_and_faces(
    mesh: trimesh.Trimesh,
    num_points: int,
    *,
    seed: int | np.random.Generator,
    normals: bool = False,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return points as `draw_surface` does, and the face (N,) that each of them lies on."""
    if num_points < 1:
        raise ValueError(f"num_points has to be 1 or more, got {num_points}")
    # What trimesh.sample.sample_surface draws from the same generator, number by number, but it
    # gathers the corners of all faces first and then takes those that were drawn.
    rng = np.random.default_rng(seed)
    areas = np.cumsum(mesh.area_faces)
    faces = np.searchsorted(areas, rng.random(num_points) * areas[-1])
    corners = np.asarray(mesh.vertices)[np.asarray(mesh.faces)[faces]]
    origins = corners[:, 0]
    first, second = corners[:, 1] - origins, corners[:, 2] - origins
    lengths = rng.random((num_points, 2))
    # Beyond the diagonal of the parallelogram: back into the triangle.
    lengths[lengths[:, 0] + lengths[:, 1] > 1] -= 1
    lengths = np.abs(lengths)
    points: NDArray[np.float64] = first * lengths[:, :1] + second * lengths[:, 1:] + origins
    if not normals:
        return points, faces
    # Not mesh.face_normals: those are zero for the small faces that trimesh takes for degenerate.
    directions = np.cross(first, second)
    lengths = np.linalg.norm(directions, axis=1, keepdims=True)
    directions /= np.where(lengths > 0, lengths, 1)
    return np.concatenate([points, directions], axis=1), faces


def choose_or_repeat(num_points: int, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return `count` positions below `num_points`, each equally often or once more."""
    times, rest = divmod(count, num_points)
    some = np.sort(rng.choice(num_points, rest, replace=False))
    return np.concatenate([np.tile(np.arange(num_points), times), some])


def normalize_points(points: ArrayLike) -> NDArray[np.float32]:
    """Center clouds on their mean and scale them into the unit sphere.

    Args:
        points: (..., N, C) with x, y, z first, C at least 3, N at least 1; every cloud is
            normalized on its own. Left as it is.

    Returns:
        The same shape: x, y, z with zero mean and the farthest point at distance 1, or all zero
        if all points of a cloud are equal. Further columns are untouched.

    Raises:
        ValueError: If the shape is another one or a coordinate is not finite.
    """
    points = np.asarray(points)
    if points.ndim < 2 or points.shape[-1] < 3 or points.shape[-2] < 1:
        raise ValueError(f"expected points of shape (..., N, 3 or more), got {points.shape}")
    xyz = points[..., :3].astype(np.float64)
    if not np.isfinite(xyz).all():
        raise ValueError("expected finite coordinates, got NaN or infinity")
    # The first point goes first: the mean of equal numbers may differ from them by rounding,
    # which the scale would blow up to a cloud of size 1.
    xyz -= xyz[..., :1, :].copy()
    xyz -= xyz.mean(axis=-2, keepdims=True)
    radius = np.linalg.norm(xyz, axis=-1).max(axis=-1)[..., None, None]
    result = points.astype(np.float32)
    result[..., :3] = np.divide(xyz, radius, out=np.zeros_like(xyz), where=radius > 0)
    return result


def are_normalized(points: ArrayLike) -> bool:
    """Return whether clouds are what `normalize_points` makes of them, within a thousandth.

    Args:
        points: (..., N, C) with x, y, z first.
    """
    xyz = np.asarray(points)[..., :3].astype(np.float64)
    off_center = np.abs(xyz.mean(axis=-2))
    radius = np.linalg.norm(xyz, axis=-1).max(axis=-1)
    # If all points of a cloud are equal, its radius is 0.
    off_sphere = np.minimum(np.abs(radius - 1), radius)
    return bool((off_center < 1e-3).all() and (off_sphere < 1e-3).all())
