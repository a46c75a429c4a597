"""Draw docs/overview.png: a generated mesh's cloud on its way through PointNet."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sharedmlp.data import normalize_points, read_mesh, sample_points, write_shapes

SPELLINGS = [
    ("nn.Linear", "(B, N, C)"),
    ("nn.Conv1d, kernel 1", "(B, C, N)"),
    ("nn.Conv2d, 1x1", "(B, C, H, W)"),
]


def box(ax: Axes, center: tuple[float, float], text: str, color: str) -> None:
    """Write text in a rounded box."""
    ax.text(
        *center,
        text,
        ha="center",
        va="center",
        fontsize=11,
        bbox={"boxstyle": "round,pad=0.6", "facecolor": color, "edgecolor": "0.4"},
    )


def arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Draw an arrow from start to end."""
    ax.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": "0.3", "lw": 1.5})


def draw(points: NDArray[np.float32]) -> Figure:
    """Draw the cloud (N, 3) and the network as boxes."""
    figure = Figure(figsize=(12, 3.6), dpi=110)
    FigureCanvasAgg(figure)
    # Any, because matplotlib's types do not tell the axes of a projection.
    cloud: Any = figure.add_axes((0.0, 0.0, 0.24, 1.0), projection="3d")
    cloud.scatter(*points.T, s=3, c=points[:, 2], cmap="viridis")
    cloud.set_axis_off()
    cloud.set_box_aspect((1, 1, 1))
    ax = figure.add_axes((0.22, 0.0, 0.78, 1.0))
    ax.set(xlim=(0, 10), ylim=(0, 4))
    ax.set_axis_off()
    ax.text(0.2, 0.35, "points (B, N, 3)", ha="center", fontsize=10, color="0.3")
    for row, (name, layout) in enumerate(SPELLINGS):
        height = 3.2 - 1.2 * row
        box(ax, (3.0, height), f"{name}\n{layout}", "#dbe9f6")
        arrow(ax, (0.4, 2.0), (1.7, height))
        arrow(ax, (4.3, height), (5.5, 2.0))
    ax.text(3.0, 3.85, "one shared MLP: same weights, same numbers", ha="center", fontsize=10)
    box(ax, (6.5, 2.0), "max over\nthe points", "#fde6c8")
    ax.text(6.5, 0.95, "fused with the\nlayer before it", ha="center", fontsize=9, color="0.3")
    arrow(ax, (7.4, 2.0), (8.1, 2.0))
    box(ax, (8.9, 2.0), "fully\nconnected\nhead", "#dff0d8")
    ax.text(8.9, 0.75, "logits (B, classes)", ha="center", fontsize=10, color="0.3")
    return figure


def main() -> None:
    """Generate the meshes if they are missing and draw one of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", type=Path, default=Path("data/shapes"))
    parser.add_argument("--output", type=Path, default=Path("docs/overview.png"))
    options = parser.parse_args()
    write_shapes(options.shapes)
    mesh = read_mesh(sorted((options.shapes / "chair" / "train").glob("*.off"))[0])
    draw(normalize_points(sample_points(mesh, 3000, seed=0))).savefig(options.output)


if __name__ == "__main__":
    main()
