"""Faces of any size cut into triangles."""

import numpy as np
from numpy.typing import NDArray

from sharedmlp.data.io.base import FormatError

# The corners of a face from which a fan is tried before ears are cut, one by one.
_MOST_FANS = 8
# Of all faces together: corners that are looked at while ears are cut, which takes seconds.
_MOST_EAR_WORK = 1 << 29
# What an attempt costs besides the corners.
_ATTEMPT = 5000


def cut_into_triangles(
    vertices: NDArray[np.floating], sizes: NDArray[np.int64], corners: NDArray[np.integer]
) -> NDArray[np.int64]:
    """Cut polygons into triangles.

    A convex polygon becomes the fan of its first corner. A concave one becomes the fan of a corner
    that sees all others, or ears are cut from it, so that the area is that of the polygon, if it is
    flat and does not cross itself; else it becomes the fan of its first corner.

    Args:
        vertices: (V, 3).
        sizes: (F,) corners of each face.
        corners: (sum of the sizes,) positions in the vertices, one face after the other.

    Returns:
        (sum of the sizes less 2 each, 3) corners, in the order of the faces.

    Raises:
        FormatError: If a face has fewer than three corners, refers to a vertex that is missing, or
            is concave and has thousands of corners.
    """
    indices: NDArray[np.int64] = corners.astype(np.int64, copy=False)  # unsigned too
    if (sizes < 3).any():
        face = int(np.argmax(sizes < 3))
        raise FormatError(
            f"face {face} (of {len(sizes)}, from 0) has {sizes[face]} corners, expected 3 or more"
        )
    check_corners(indices, sizes, len(vertices))
    if (sizes == 3).all():
        return indices.reshape(-1, 3)
    counts = sizes - 2
    result = np.empty((int(counts.sum()), 3), dtype=np.int64)
    firsts, targets = np.cumsum(sizes) - sizes, np.cumsum(counts) - counts
    budget = _MOST_EAR_WORK
    for size in np.unique(sizes).tolist():
        faces = np.flatnonzero(sizes == size)
        polygons = indices[firsts[faces, None] + np.arange(size)]
        triangles, concave = _cut_into_fans(vertices, polygons)
        for place in concave:
            ears, budget = _cut_ears(vertices[polygons[place]], budget)
            if budget < 0:
                raise FormatError(
                    f"face {faces[place]} (from 0) is concave and has {size} corners: cut the "
                    "faces into triangles in the program that made them"
                )
            if ears is not None:
                triangles[place] = polygons[place][ears]
        result[targets[faces, None] + np.arange(size - 2)] = triangles
    return result


def check_corners(corners: NDArray[np.int64], sizes: NDArray[np.int64], num_vertices: int) -> None:
    """Refuse faces that refer to vertices that are missing; arguments as of `cut_into_triangles`.

    Raises:
        FormatError: It names the face.
    """
    outside = (corners < 0) | (corners >= num_vertices)
    if outside.any():
        place = int(np.argmax(outside))
        face = int(np.searchsorted(np.cumsum(sizes), place, side="right"))
        raise FormatError(
            f"face {face} (of {len(sizes)}, from 0) refers to vertex {corners[place]}, but there "
            f"are {num_vertices}"
        )


def strip_triangles(
    sizes: NDArray[np.int64], corners: NDArray[np.integer], restart: int = -1
) -> NDArray[np.int64]:
    """Return the triangles of strips, every other one turned so that all face one way.

    Args:
        sizes: (F,) corners of each strip.
        corners: (sum of the sizes,) positions in the vertices.
        restart: A value that ends one strip and begins the next.

    Returns:
        (T, 3) corners; strips of fewer than three corners give none.
    """
    corners = np.asarray(corners, dtype=np.int64)
    is_end = corners == restart
    ends = np.zeros(len(corners) + 1, dtype=bool)
    ends[np.cumsum(sizes)] = True
    # A strip goes on from one corner to the next unless either is a restart or a list ends.
    strip = np.cumsum(is_end | ends[:-1])
    kept, strip = corners[~is_end], strip[~is_end]
    triples = np.stack([kept[:-2], kept[1:-1], kept[2:]], axis=1)
    whole = strip[:-2] == strip[2:]
    first = np.searchsorted(strip, strip)  # where the strip of a corner begins
    odd = (np.arange(len(kept)) - first)[:-2] % 2 == 1
    triples[odd] = triples[odd][:, [1, 0, 2]]
    result: NDArray[np.int64] = triples[whole]
    return result


def fan_triangles(corners: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return the (N - 2, 3) triangles of a fan of (N,) corners about the first one."""
    corners = np.asarray(corners, dtype=np.int64)
    firsts = np.broadcast_to(corners[:1], (max(len(corners) - 2, 0),))
    return np.stack([firsts, corners[1:-1], corners[2:]], axis=1)


def _cut_into_fans(
    vertices: NDArray[np.floating], polygons: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cut polygons of one size, (F, N), into (F, N - 2, 3), and say which are no fan."""
    size = polygons.shape[1]
    fan = fan_triangles(np.arange(size))
    triangles = polygons[:, fan]
    with np.errstate(all="ignore"):  # not finite: refused with every mesh
        concave = np.flatnonzero(~_is_fan(vertices, polygons))
        for shift in range(1, min(size, _MOST_FANS)):
            if len(concave):
                turned = np.roll(polygons[concave], -shift, axis=1)
                seen = _is_fan(vertices, turned)
                triangles[concave[seen]] = turned[seen][:, fan]
                concave = concave[~seen]
    return triangles, concave


def _is_fan(vertices: NDArray[np.floating], polygons: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return of each polygon whether no triangle of its first corner's fan faces another way.

    Also if a corner is not finite.
    """
    points = vertices[polygons]
    spokes = points[:, 1:] - points[:, :1]
    normals = np.cross(spokes[:, :-1], spokes[:, 1:])
    total = normals.sum(axis=1, keepdims=True)  # Newell's normal, twice the area long
    sides = (normals * total).sum(axis=2)
    same_way = sides >= -1e-9 * (total**2).sum(axis=2)
    result: NDArray[np.bool_] = (same_way | ~np.isfinite(sides)).all(axis=1)
    return result


def _cut_ears(
    points: NDArray[np.floating], budget: int
) -> tuple[list[tuple[int, int, int]] | None, int]:
    """Cut ears from a polygon (N, 3).

    Returns:
        The triangles, None if it has no ears left, as one that crosses itself, and what is left of
        the budget: less than 0 if it did not suffice.
    """
    spokes = points[1:] - points[0]
    normal = np.cross(spokes[:-1], spokes[1:]).sum(axis=0)
    # As seen along the normal: x and y are the axes besides its longest one.
    axis = int(np.argmax(np.abs(normal)))
    flat = np.delete(points, axis, axis=1)
    if (normal[axis] > 0) == (axis == 1):
        flat = flat[:, ::-1]
    left = np.arange(len(points))
    ears: list[tuple[int, int, int]] = []
    place, tried = 0, 0
    while len(left) > 3:
        budget -= len(left) + _ATTEMPT
        if tried == len(left) or budget < 0:
            return None, budget
        place %= len(left)
        ear = int(left[place - 1]), int(left[place]), int(left[(place + 1) % len(left)])
        if _is_ear(flat, left, ear):
            ears.append(ear)
            left = np.delete(left, place)
            tried = 0
        else:
            place += 1
            tried += 1
    return [*ears, (int(left[0]), int(left[1]), int(left[2]))], budget


def _area(a: NDArray[np.floating], b: NDArray[np.floating], c: NDArray[np.floating]) -> np.floating:
    """Twice the signed area of a triangle, or of triangles with corners (..., 2)."""
    first, second = b - a, c - a
    result: np.floating = first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0]
    return result


def _is_ear(flat: NDArray[np.floating], left: NDArray[np.int64], ear: tuple[int, int, int]) -> bool:
    a, b, c = (flat[corner] for corner in ear)
    if _area(a, b, c) < 0:
        return False
    others = flat[left]
    # A corner on one of the ear's own corners, as where a hole is cut in, is not inside.
    is_own = (others == a).all(1) | (others == b).all(1) | (others == c).all(1)
    inside = (_area(a, b, others) >= 0) & (_area(b, c, others) >= 0) & (_area(c, a, others) >= 0)
    return not bool((inside & ~is_own).any())
