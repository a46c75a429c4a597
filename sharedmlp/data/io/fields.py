"""From named fields of points to a `PointCloud`: which names mean what, and in which units."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharedmlp.data.io.base import FormatError, PointArray, PointCloud

# Lower case. If a file has several names of one meaning, the first one counts.
_COMPONENTS = {
    # ParaView writes vectors as `Points:0`, `Points:1`, `Points:2`.
    "points": (("x", "points:0"), ("y", "points:1"), ("z", "points:2")),
    "normals": (
        ("nx", "normal_x", "normalx", "n_x", "normals:0"),
        ("ny", "normal_y", "normaly", "n_y", "normals:1"),
        ("nz", "normal_z", "normalz", "n_z", "normals:2"),
    ),
    "colors": (
        ("red", "r", "diffuse_red", "color_red"),
        ("green", "g", "diffuse_green", "color_green"),
        ("blue", "b", "diffuse_blue", "color_blue"),
    ),
}
_VECTORS = {
    "points": ("points", "point", "xyz", "pos", "position", "positions", "coord", "coords"),
    "normals": ("normals", "normal"),
    "colors": ("colors", "color", "colours", "rgb"),
}
_SCALARS = {
    "intensity": ("intensity", "intensities", "reflectance", "reflectivity", "remission", "i"),
    "labels": (
        *("labels", "label", "class", "classification", "semantic", "semantic_label", "sem_label"),
        *("category", "segment"),
    ),
}
_DECORATION = re.compile(r"^[\"']|[\"']$|^scalar([ _]field)?[ _]|\s*[\[(][^\])]*[\])]$")
_LONGEST_NAME = 100
# How far from 1 the length of a normal may be: text has two digits and more.
_LENGTH_TOLERANCE = 0.05
_LARGEST_COLOR = 65535


def canonical_name(name: str) -> str:
    """Return a field's name as the tables above have it.

    `X [m]` is x, and `scalar_Label` and `Scalar field Label`, as CloudCompare has it, are label.
    """
    name = name.strip().lower()
    return _DECORATION.sub("", name) if len(name) < _LONGEST_NAME else name


def has_coordinates(names: Mapping[str, object] | tuple[str, ...]) -> bool:
    """Return whether fields of these names give x, y and z."""
    known = {canonical_name(name) for name in names}
    components = all(not known.isdisjoint(names) for names in _COMPONENTS["points"])
    return components or not known.isdisjoint(_VECTORS["points"])


def cloud_from_fields(fields: Mapping[str, PointArray]) -> PointCloud:
    """Return the cloud that the named fields of a file describe; other names are left out.

    Args:
        fields: Of each name an array (N,), or (N, 3) for all coordinates, normals or colors at
            once, also (3, N) if N is not 3.

    Raises:
        FormatError: If there are no x, y and z, or a field has another length.
    """
    known: dict[str, PointArray] = {}
    for name, array in fields.items():
        known.setdefault(canonical_name(name), array)
    arrays = {}
    for name, components in _COMPONENTS.items():
        arrays[name] = _take_scalars(known, components)
        if arrays[name] is None:
            arrays[name] = _take_vector(known, _VECTORS[name])
    points = arrays["points"]
    if points is None:
        raise FormatError(
            "has no columns named x, y and z"
            + (f"; its columns are {', '.join(fields)}" if fields else "")
        )
    reasons: dict[str, str] = {}
    normals, colors = arrays["normals"], arrays["colors"]
    cloud = PointCloud(
        points.astype(np.float64),
        None if normals is None else _unit_normals(normals, reasons),
        None if colors is None else _scale_colors(colors, reasons),
        _float_scalar(_take_scalar(known, _SCALARS["intensity"])),
        _integer_labels(_take_scalar(known, _SCALARS["labels"]), reasons),
        reasons,
    )
    for name in ("normals", "colors", "intensity", "labels"):
        array = getattr(cloud, name)
        if array is not None and len(array) != len(points):
            raise FormatError(f"has {len(array)} {name} for {len(points)} points")
    return cloud


def restore_integers(values: PointArray, dtype: np.dtype[Any]) -> PointArray:
    """Return numbers of text in the integer type that a header names, if they are of that type."""
    if dtype.kind not in "iu" or values.dtype.kind != "f" or values.size == 0:
        return values
    bounds, numbers = np.iinfo(dtype), values.astype(np.float64)
    fitting = (numbers >= bounds.min) & (numbers <= bounds.max) & (numbers == np.floor(numbers))
    # Beyond 2**53 a float64 may round to more than the type holds.
    return values.astype(dtype) if fitting.all() and np.abs(numbers).max() < 2**53 else values


def _take_scalars(
    fields: Mapping[str, PointArray], components: tuple[tuple[str, ...], ...]
) -> PointArray | None:
    arrays = [_take_scalar(fields, names) for names in components]
    columns = [array for array in arrays if array is not None]
    if len(columns) < len(components):
        return None
    if len({len(column) for column in columns}) > 1:
        raise FormatError(f"has columns of {[len(column) for column in columns]} numbers")
    return np.stack(columns, axis=1)


def _take_scalar(fields: Mapping[str, PointArray], names: tuple[str, ...]) -> PointArray | None:
    for name in names:
        array = fields.get(name)
        if array is not None and array.dtype.kind in "fiub":
            if array.ndim == 2 and 1 in array.shape:
                array = array.ravel()
            if array.ndim == 1:
                return array
    return None


def _take_vector(fields: Mapping[str, PointArray], names: tuple[str, ...]) -> PointArray | None:
    for name in names:
        array = fields.get(name)
        if array is None or array.ndim != 2 or array.dtype.kind not in "fiu":
            continue
        if array.shape[1] != 3 and array.shape[0] == 3:
            array = array.T
        if array.shape[1] == 3 or (array.shape[1] == 4 and "rgb" in names):  # with an alpha
            return array[:, :3]
    return None


def _float_scalar(values: PointArray | None) -> NDArray[np.float64] | None:
    return None if values is None else values.astype(np.float64)


def _integer_labels(values: PointArray | None, reasons: dict[str, str]) -> NDArray[np.int64] | None:
    if values is None:
        return None
    if values.dtype.kind == "f":
        numbers = values.astype(np.float64)
        whole = (np.abs(numbers) < 2**53) & (numbers == np.round(numbers))
        if not whole.all():
            reasons["labels"] = (
                f"{np.count_nonzero(~whole)} of its {len(values)} labels are no integers"
            )
            return None
    return values.astype(np.int64)


def are_unit_vectors(vectors: NDArray[np.float64]) -> bool:
    """Return whether vectors (N, 3) have length 1, within what text rounds to; some may be 0."""
    lengths = np.linalg.norm(vectors, axis=1)
    near = np.abs(lengths - 1) < _LENGTH_TOLERANCE
    return bool((near | (lengths == 0)).all() and 2 * np.count_nonzero(near) >= len(vectors) > 0)


def _unit_normals(values: PointArray, reasons: dict[str, str]) -> NDArray[np.float64] | None:
    """Return normals of length 1: as they are if they are nearly so, else scaled."""
    normals = values.astype(np.float64)
    finite = np.isfinite(normals).all(axis=1)
    if not finite.all():
        reasons["normals"] = (
            f"{np.count_nonzero(~finite)} of its {len(normals)} normals are not finite"
        )
        return None
    if are_unit_vectors(normals):
        return normals
    # By the largest component first: the square of a large one is infinite.
    largest = np.abs(normals).max(axis=1, keepdims=True, initial=0)
    if not largest.any():
        reasons["normals"] = "its normals all have length 0"
        return None
    normals = normals / np.where(largest > 0, largest, 1)
    return normals / np.where(largest > 0, np.linalg.norm(normals, axis=1, keepdims=True), 1)


def _scale_colors(values: PointArray, reasons: dict[str, str]) -> NDArray[np.float64] | None:
    """Return colors in 0 to 1: of integers and of numbers beyond 1, 255 or 65535 is the most."""
    colors = values.astype(np.float64)
    low, high = colors.min(initial=0), colors.max(initial=0)
    whole = values.dtype.kind != "f"
    if not (low >= 0 and high <= (_LARGEST_COLOR if whole or high == round(high) else 255)):
        reasons["colors"] = (
            f"its colors are from {low:g} to {high:g}, expected 0 to 1, 0 to 255 or 0 to 65535"
        )
        return None
    if not whole and high <= 1 + 1e-3:
        return np.minimum(colors, 1)
    return colors / (255 if high <= 255 else _LARGEST_COLOR)
