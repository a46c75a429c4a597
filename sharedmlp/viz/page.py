"""Point clouds as a page to turn them in: one HTML file that needs no network."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from importlib import resources

from numpy.typing import ArrayLike

from sharedmlp.viz.clouds import check_panels


def clouds_page(
    clouds: Sequence[ArrayLike],
    titles: Sequence[str],
    *,
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
        columns: Panels in a row, if there is room for them.
        up_axis: The axis of the clouds that points up.

    Raises:
        ValueError: As `plot_clouds`.
    """
    panels = [
        {
            "title": title,
            "points": base64.b64encode((points * 32767).round().astype("<i2").tobytes()).decode(),
        }
        for points, title in zip(check_panels(clouds, titles, up_axis), titles, strict=True)
    ]
    # A title with a tag in it must not end the script.
    data = json.dumps(panels).replace("<", "\\u003c")
    template = resources.files("sharedmlp.viz").joinpath("page.html").read_text(encoding="utf-8")
    return template.replace("__COLUMNS__", str(columns)).replace("__PANELS__", data)
