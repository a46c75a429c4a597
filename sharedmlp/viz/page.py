"""Point clouds as a page to turn them in: one HTML file that needs no network."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sharedmlp.viz.clouds import check_panels, check_values


def clouds_page(
    clouds: Sequence[ArrayLike],
    titles: Sequence[str],
    *,
    values: Sequence[ArrayLike | None] | None = None,
    marked: Sequence[int | None] | None = None,
    columns: int = 4,
    up_axis: str = "z",
) -> str:
    """Lay out the panels of `plot_clouds` as an HTML page; dragging turns all of them.

    The page is one file and loads nothing. Its script draws into plain canvases: a library for
    charts would put 4 to 5 MB of its own into every page, and browsers keep no more than 8 to 16
    panels of WebGL.

    Args:
        clouds: `(N, 3 or more)` each, of any N; x, y, z first; they are kept to 16 bits.
        titles: What stands above each of them.
        values: As of `plot_clouds`; kept to 8 bits.
        marked: As of `plot_clouds`.
        columns: Panels in a row, if there is room for them.
        up_axis: The axis of the clouds that points up.

    Raises:
        ValueError: As `plot_clouds`.
    """
    checked = check_panels(clouds, titles, up_axis)
    colors = check_values(checked, values)
    panels = [
        {
            "title": title,
            "points": _encode((points * 32767).round().astype("<i2")),
            "colors": _encode(_to_bytes(color)),
            "marked": mark,
        }
        for points, title, color, mark in zip(
            checked, titles, colors, marked or [None] * len(checked), strict=True
        )
    ]
    # A title with a tag in it must not end the script.
    data = json.dumps(panels).replace("<", "\\u003c")
    template = resources.files("sharedmlp.viz").joinpath("page.html").read_text(encoding="utf-8")
    return template.replace("__COLUMNS__", str(columns)).replace("__PANELS__", data)


def _encode(array: NDArray[Any]) -> str:
    return base64.b64encode(array.tobytes()).decode()


def _to_bytes(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return values from the lowest, 0, to the highest, 254; 255 if they are not finite."""
    known = np.isfinite(values)
    low, high = (values[known].min(), values[known].max()) if known.any() else (0.0, 1.0)
    result = np.full(values.shape, 255, dtype=np.uint8)
    result[known] = ((values[known] - low) / ((high - low) or 1.0) * 254).round()
    return result
