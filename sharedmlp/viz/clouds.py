"""Point clouds as a picture: a grid of panels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike, NDArray

from sharedmlp.data import turn_up_axis
from sharedmlp.viz.labels import axis_names, label_style, text_width

_SIDE = 2.4  # of a panel, in inches


def plot_clouds(
    clouds: Sequence[ArrayLike],
    titles: Sequence[str],
    *,
    values: Sequence[ArrayLike | None] | None = None,
    colors: Sequence[ArrayLike] | None = None,
    legend: Mapping[str, ArrayLike] | None = None,
    marked: Sequence[int | None] | None = None,
    columns: int = 4,
    up_axis: str = "z",
) -> Figure:
    """Draw clouds side by side, in one scale around the origin.

    Args:
        clouds: `(N, 3 or more)` each, of any N; x, y, z first.
        titles: What stands above each of them.
        values: `(N,)` each, what the points are colored by, from the lowest, dark, to the highest,
            bright; NaN is gray. None colors by height.
        colors: `(N, 3)` each, RGB from 0 to 1, in place of `values`.
        legend: The names of colors, which stand beside the clouds.
        marked: Of each cloud, the row of a point to draw large and red; None marks none.
        columns: Panels in a row.
        up_axis: The axis of the clouds that points up: `"x"`, `"y"` or `"z"`.

    Raises:
        ValueError: If there is no cloud, not one title a cloud, a point that is not finite, or an
            argument is not one of the above.
    """
    panels = _make_panels(clouds, titles, up_axis)
    shades = check_values(panels, values)
    rows = -(-len(panels) // columns)
    header = 0.1 + 0.17 * max(title.count("\n") + 1 for title in titles)
    width, height = _SIDE * columns + _legend_width(legend), (_SIDE + header) * rows
    figure = Figure(figsize=(width, height))
    label = label_style(titles)
    for number, (points, title) in enumerate(zip(panels, titles, strict=True)):
        row, column = divmod(number, columns)
        # By hand: the layout engines cut off titles of three lines above axes of this kind.
        left, bottom = _SIDE * column / width, 1 - (_SIDE + header) * (row + 1) / height
        place = (left, bottom, _SIDE / width, _SIDE / height)
        axes: Any = figure.add_axes(place, projection="3d", proj_type="ortho")
        x, y, z = points.T
        # Fewer points are drawn larger: a few hundred are as good to see as ten thousand.
        size = float(np.clip(4000 / max(len(points), 1), 2.5, 8))
        value = shades[number]
        known = np.isfinite(value)
        style = {"s": size, "linewidths": 0, "depthshade": True}
        if colors is not None:
            axes.scatter(x, y, z, c=np.asarray(colors[number]), **style)
        else:
            axes.scatter(x[known], y[known], z[known], c=value[known], cmap="viridis", **style)
            if not known.all():
                axes.scatter(x[~known], y[~known], z[~known], c="lightgray", **style)
        mark = marked[number] if marked else None
        if mark is not None:
            axes.scatter(x[mark], y[mark], z[mark], c="red", s=8 * size, depthshade=False)
        axes.set_box_aspect((1, 1, 1), zoom=1.55)
        axes.set(xlim=(-1, 1), ylim=(-1, 1), zlim=(-1, 1))
        axes.view_init(elev=22, azim=-57)
        axes.set_axis_off()
        center, top = left + place[2] / 2, bottom + place[3]
        figure.text(center, top, title, fontsize=9, ha="center", va="bottom", **label)
    if legend:
        _draw_legend(figure, legend)
    return figure


def _legend_width(legend: Mapping[str, ArrayLike] | None) -> float:
    """Return the width of a legend in inches."""
    return 0.5 + 0.085 * max(map(text_width, axis_names(list(legend)))) if legend else 0.0


def _draw_legend(figure: Figure, legend: Mapping[str, ArrayLike]) -> None:
    """Draw the names of colors on the right."""
    handles = [
        Line2D([], [], color=tuple(np.asarray(color)), marker="o", linestyle="")
        for color in legend.values()
    ]
    names = axis_names(list(legend))
    drawn = figure.legend(handles, names, loc="upper right", fontsize=9, frameon=False)
    for text in drawn.get_texts():
        text.set(**label_style(names))


def check_clouds(clouds: Sequence[ArrayLike], titles: Sequence[str]) -> list[NDArray[np.float64]]:
    """Return the coordinates of clouds, `(N, 3)` each.

    Raises:
        ValueError: As `plot_clouds`.
    """
    if not clouds or len(clouds) != len(titles):
        raise ValueError(
            f"expected one or more clouds and a title for each, got {len(clouds)} clouds and "
            f"{len(titles)} titles"
        )
    checked = []
    for number, cloud in enumerate(clouds):
        points = np.asarray(cloud, dtype=np.float64)
        if points.ndim != 2 or points.shape[1] < 3:
            raise ValueError(f"cloud {number}: expected points (N, 3 or more), got {points.shape}")
        bad = np.flatnonzero(~np.isfinite(points[:, :3]).all(axis=1))
        if len(bad):
            raise ValueError(f"cloud {number}: point {bad[0]} is not finite: leave such points out")
        checked.append(points[:, :3])
    return checked


def _make_panels(
    clouds: Sequence[ArrayLike], titles: Sequence[str], up_axis: str
) -> list[NDArray[np.float64]]:
    """Return the coordinates of clouds as they are drawn: z up, the farthest at distance 1."""
    panels = [turn_up_axis(points, up_axis, "z") for points in check_clouds(clouds, titles)]
    largest = max(float(np.linalg.norm(points, axis=1).max(initial=0.0)) for points in panels)
    return [points / (largest or 1.0) for points in panels]


def check_values(
    panels: Sequence[NDArray[np.float64]], values: Sequence[ArrayLike | None] | None
) -> list[NDArray[np.float64]]:
    """Return what the points of each panel are colored by, `(N,)`: height if not given.

    Raises:
        ValueError: If there is not one array or None for each, of one value for each point.
    """
    given = [None] * len(panels) if values is None else values
    if len(given) != len(panels):
        raise ValueError(f"expected values for each of {len(panels)} clouds, got {len(given)}")
    colors = []
    for number, (points, value) in enumerate(zip(panels, given, strict=True)):
        color = points[:, 2] if value is None else np.asarray(value, dtype=np.float64)
        if color.shape != points.shape[:1]:
            raise ValueError(
                f"cloud {number}: expected {len(points)} values, one for each point, got "
                f"{color.shape}"
            )
        colors.append(color)
    return colors
