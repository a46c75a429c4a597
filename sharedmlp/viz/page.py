"""Point clouds as a page to turn them in: one HTML file that needs no network.

It draws by scripts of its own (`template/`), 45 KB in each file, and not by a library: plotly.js
puts 3 to 5 MB into every file and needs a build of its own under a strict Content-Security-Policy;
three.js would have to be kept here and updated, for one draw call and one matrix; k3d and pythreejs
are made for Jupyter, Potree and deck.gl for tiles from a server. None of them draws without WebGL,
and none has the labels, legends, screens and keys, which are most of these scripts.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sharedmlp.data import turn_up_axis
from sharedmlp.viz.clouds import check_clouds, check_values
from sharedmlp.viz.screens import ColoredCloud, Coloring, Screen

_SCRIPTS = ("decode.js", "render.js", "labels.js", "page.js", "input.js")
_LARGEST = 32767  # of 16 bits, at the farthest point


def clouds_page(
    clouds: Sequence[ArrayLike],
    titles: Sequence[str],
    *,
    values: Sequence[ArrayLike | None] | None = None,
    marked: Sequence[int | None] | None = None,
    columns: int = 4,
    up_axis: str = "z",
) -> str:
    """Lay out the panels of `plot_clouds` as a page to turn them in, a row of panels a screen.

    Args:
        clouds: `(N, 3 or more)` each, of any N; x, y, z first; they are kept to 16 bits.
        titles: What stands above each of them.
        values: As of `plot_clouds`.
        marked: As of `plot_clouds`.
        columns: Panels on a screen.
        up_axis: The axis of the clouds that points up.

    Raises:
        ValueError: As `plot_clouds`.
    """
    check_values(check_clouds(clouds, titles), values)
    panels = [
        ColoredCloud(points, title, [Coloring(values=value)], mark)
        for points, title, value, mark in zip(
            clouds,
            titles,
            values or [None] * len(clouds),
            marked or [None] * len(clouds),
            strict=True,
        )
    ]
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    return screens_page((Screen("", row) for row in rows), up_axis=up_axis)


def screens_page(screens: Iterable[Screen], *, up_axis: str = "z") -> str:
    """Return a page that shows screens of point clouds, one after the other.

    Clouds turn by dragging, together on each screen; the wheel and two fingers zoom and move, and
    what a point is stands beside it when it is pointed at. The page is one file that loads nothing
    (its Content-Security-Policy allows nothing else), for desktops and phones, light and dark, with
    WebGL or, more slowly, without. A screen is decoded when it is turned to.

    Args:
        screens: One or more; they are taken one by one.
        up_axis: The axis of the clouds that points up: `"x"`, `"y"` or `"z"`.

    Raises:
        ValueError: If there is no screen, or an array does not have the shape, the rows or the
            classes that `Screen` and its parts say.
    """
    blocks, names = [], []
    for number, screen in enumerate(screens):
        blocks.append(_block(f"screen-{number}", _pack_screen(screen, up_axis)))
        name = screen.title or "; ".join(cloud.title for cloud in screen.clouds)
        names.append(name.replace("\n", " \u00b7 "))
    if not blocks:
        raise ValueError("expected one or more screens, got none")
    blocks.append(_block("index", names))
    style, script = _read("page.css"), "".join(map(_read, _SCRIPTS))
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    page = _read("page.html")
    # The data last: whatever is in it, nothing in it is replaced.
    parts = {"POLICY": policy, "STYLE": style, "SCRIPT": script, "DATA": "\n".join(blocks)}
    for name, text in parts.items():
        page = page.replace(f"__{name}__", text)
    return page


def _read(name: str) -> str:
    return resources.files("sharedmlp.viz").joinpath("template", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Return the source of a policy that allows an inline script or style of this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _block(name: str, value: Any) -> str:
    # Without "<" nothing in a value can end the element.
    data = json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{data}</script>'


def _pack_screen(screen: Screen, up_axis: str) -> dict[str, Any]:
    titles = [cloud.title for cloud in screen.clouds]
    turned = [
        turn_up_axis(points, up_axis, "z")
        for points in check_clouds([cloud.points for cloud in screen.clouds], titles)
    ]
    outlines = [
        turn_up_axis(np.asarray(cloud.outline.points, dtype=np.float64), up_axis, "z")
        if cloud.outline
        else np.empty((0, 3))
        for cloud in screen.clouds
    ]
    every = np.concatenate([*turned, *outlines])
    center = (every.min(0) + every.max(0)) / 2 if len(every) else np.zeros(3)
    scale = float(np.linalg.norm(every - center, axis=1).max(initial=0.0)) or 1.0

    def pack_points(points: NDArray[np.float64]) -> dict[str, str]:
        return _pack(((points - center) / scale * _LARGEST).round().astype(np.int16))

    clouds = []
    for cloud, points, outline in zip(screen.clouds, turned, outlines, strict=True):
        packed: dict[str, Any] = {
            "title": cloud.title,
            "points": pack_points(points),
            "marked": cloud.marked,
            "outline": None,
            "colorings": [_pack_coloring(coloring, len(points)) for coloring in cloud.colorings],
        }
        if cloud.outline and len(outline):
            packed["outline"] = {
                "name": cloud.outline.name,
                "points": pack_points(outline),
                "spacing": cloud.outline.spacing / scale,
            }
        clouds.append(packed)
    return {
        "title": screen.title,
        "side_by_side": screen.side_by_side,
        "center": center.tolist(),
        "scale": scale,
        # Rows that lead from the upright cloud back to x, y and z as they were given.
        "axes": turn_up_axis(np.eye(3), up_axis, "z").astype(int).tolist(),
        "clouds": clouds,
    }


def _pack_coloring(coloring: Coloring, num_points: int) -> dict[str, Any]:
    packed: dict[str, Any] = {
        "name": coloring.name,
        "values": None,
        "classes": None if coloring.class_names is None else list(coloring.class_names),
        "background": list(coloring.background),
        "reversed": coloring.reverse,
        "neighbors": None,
    }
    if coloring.values is not None:
        values = np.asarray(coloring.values)
        classes = coloring.class_names
        if values.shape != (num_points,):
            raise ValueError(
                f"coloring {coloring.name!r}: expected {num_points} values, one for each point, "
                f"got shape {values.shape}"
            )
        if classes is not None:
            _check_integers(coloring.name, "classes", values, len(classes))
        packed["values"] = _pack(_shrink(values))
    elif coloring.class_names is not None:
        raise ValueError(f"coloring {coloring.name!r}: expected a class of each point, got None")
    if coloring.neighbors is not None:
        neighbors = np.asarray(coloring.neighbors)
        if neighbors.ndim != 2 or len(neighbors) != num_points or not neighbors.size:
            raise ValueError(
                f"coloring {coloring.name!r}: expected neighbors ({num_points}, 1 or more), got "
                f"shape {neighbors.shape}"
            )
        _check_integers(coloring.name, "neighbors", neighbors, num_points)
        packed |= {"neighbors": _pack(_shrink(neighbors)), "width": neighbors.shape[1]}
    return packed


def _check_integers(name: str, what: str, values: NDArray[Any], limit: int) -> None:
    if not np.issubdtype(values.dtype, np.integer):
        raise ValueError(f"coloring {name!r}: {what} are integers, got {values.dtype}")
    if values.size and not 0 <= values.min() <= values.max() < limit:
        raise ValueError(
            f"coloring {name!r}: {what} are from 0 to {limit - 1}, got {values.min()} to "
            f"{values.max()}"
        )


def _shrink(values: NDArray[Any]) -> NDArray[Any]:
    """Return values in the smallest type that has them: whole numbers, or float32."""
    whole = values.astype(np.int64) if np.isfinite(values).all() else None
    if whole is not None and len(values) and (whole == values).all() and whole.min() >= 0:
        for kind in (np.uint8, np.uint16, np.uint32):
            if whole.max() <= np.iinfo(kind).max:
                return whole.astype(kind)
    return values.astype(np.float32)


def _pack(array: NDArray[Any]) -> dict[str, str]:
    array = array.astype(array.dtype.newbyteorder("<"))
    kind = f"{array.dtype.kind}{array.dtype.itemsize}"
    return {"type": kind, "data": base64.b64encode(array.tobytes()).decode()}
