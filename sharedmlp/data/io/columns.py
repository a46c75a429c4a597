"""Columns without names: which axis of an array the points are, and what columns 4 and up hold.

The first three columns are x, y, z. What follows is taken for something only if it cannot well be
anything else:

- three columns of length 1 in every row are normals, unless all of them are 0 or 1;
- three columns of whole numbers in 0 to 255, or of any in 0 to 1, are colors.

They are looked for in columns 4 to 6 and 7 to 9, and if columns 4 to 6 are neither, as in
`x y z intensity r g b`, in columns 5 to 7. A single fourth column may be an intensity or a label:
it needs a name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sharedmlp.data.io.base import FormatError, PointArray, PointCloud
from sharedmlp.data.io.fields import are_unit_vectors, cloud_from_fields, has_coordinates

# An axis of so many is channels if the other one is longer.
_FEWEST_CHANNELS, _MOST_CHANNELS = 3, 12
_HOW_TO_NAME = "name the columns in a first line of the file or by `columns`"


def cloud_from_columns(array: PointArray, columns: Sequence[str] | None = None) -> PointCloud:
    """Return the cloud of an array without names.

    Args:
        array: (N, 3 or more), one point a row.
        columns: The names of all columns, as `cloud_from_fields` knows them; others are left out.
            None to tell normals and colors by their values.

    Raises:
        FormatError: If the array has another shape, or the names do not fit it.
    """
    if array.ndim != 2 or array.shape[1] < 3 or len(array) == 0:
        raise FormatError(f"expected points of shape (N, 3 or more), got {array.shape}")
    if columns is not None:
        if len(columns) != array.shape[1]:
            raise FormatError(
                f"has {array.shape[1]} columns where {len(columns)} names are given: "
                f"{', '.join(columns)}"
            )
        if not has_coordinates(tuple(columns)):
            raise FormatError(f"expected columns x, y and z, given are {', '.join(columns)}")
        return cloud_from_fields(dict(zip(columns, array.T, strict=True)))
    fields: dict[str, PointArray] = {"points": array[:, :3]}
    reasons: dict[str, str] = {}
    kinds = {
        start: _tell_kind(array[:, start : start + 3].astype(np.float64))
        for start in (3, 4, 6)
        if start + 3 <= array.shape[1]
    }
    if kinds.get(3) == "colors" and kinds.get(4) == "colors":
        reason = f"columns 4 to 6 or 5 to 7 may be its colors: {_HOW_TO_NAME}"
        reasons["colors"] = reason
    elif kinds.get(3) in ("normals", "colors"):
        fields[str(kinds[3])] = array[:, 3:6]
        if kinds.get(6) in ("normals", "colors") and kinds[6] != kinds[3]:
            fields[str(kinds[6])] = array[:, 6:9]
        reasons = {
            name: f"columns 4 to 6 are {kinds[3]}"
            for name in ("normals", "colors")
            if name not in fields
        }
    elif kinds.get(4) in ("normals", "colors"):
        fields[str(kinds[4])] = array[:, 4:7]
        fields["intensity"] = array[:, 3]
    elif 3 in kinds:
        lengths = np.linalg.norm(array[:, 3:6].astype(np.float64), axis=1)
        reason = {
            "either": "columns 4 to 6 are 0 and 1, which normals and colors may be",
        }.get(
            str(kinds[3]),
            f"columns 4 to 6 are no normals, with lengths from {lengths.min():.3g} to "
            f"{lengths.max():.3g}, and no colors in 0 to 1 or 0 to 255",
        )
        reasons["normals"] = reasons["colors"] = f"{reason}: {_HOW_TO_NAME}"
    elif array.shape[1] == 4:
        reasons["intensity"] = reasons["labels"] = (
            f"column 4 may be an intensity or a label: {_HOW_TO_NAME}"
        )
    cloud = cloud_from_fields(fields)
    return replace(cloud, reasons={**reasons, **cloud.reasons})


def _tell_kind(values: NDArray[np.float64]) -> str | None:
    """Return "normals", "colors", "either", or None if three columns are neither."""
    if not np.isfinite(values).all():
        return None
    is_color = bool((values >= 0).all())
    if are_unit_vectors(values):
        return "either" if is_color and np.isin(values, (0, 1)).all() else "normals"
    if not values.any() or not is_color:
        return None
    whole = bool((values == np.round(values)).all())
    return "colors" if values.max() <= (255 if whole else 1) else None


def points_by_row(array: PointArray) -> PointArray:
    """Return an array with one point a row: of (3, N) and the like, the transpose.

    Raises:
        FormatError: If either axis may be the points', or none.
    """
    if array.ndim != 2:
        return array
    rows, columns = array.shape
    may_be_channels = _FEWEST_CHANNELS <= rows <= _MOST_CHANNELS
    if rows > columns or (columns <= _MOST_CHANNELS and not may_be_channels):
        return array
    if columns > _MOST_CHANNELS and may_be_channels:
        return array.T
    which = "either axis may" if may_be_channels else "neither axis can be told to"
    raise FormatError(
        f"holds an array of shape {array.shape}: {which} be the points; save it with one point a "
        "row, and more points than columns"
    )
