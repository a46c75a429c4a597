"""Draw the figures of docs/equivalences.md: what one output of each kind of layer reads."""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

# The same in every figure, as the page says: what is read, what is not, and what reads it.
READ, REST, OUT = "#f4a460", "#dbe9f6", "#8fc58f"
LABEL = {"boxstyle": "circle,pad=0.2", "facecolor": "white", "edgecolor": "0.4"}
Point = tuple[float, float]
Cells = NDArray[np.bool_]


def new_figure(width: float, height: float, title: str) -> tuple[Figure, Axes]:
    """Return an empty figure and its only axes, in units of one grid cell (0.31 inches)."""
    figure = Figure(figsize=(0.31 * width, 0.31 * height), dpi=110)
    FigureCanvasAgg(figure)
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    ax.set_axis_off()
    say(ax, (width / 2, height - 0.9), title, 13)
    return figure, ax


def grid(ax: Axes, corner: Point, on: Cells, color: str = READ) -> None:
    """Draw cells from the lower left corner; row 0 of `on` is the top one, as in an image."""
    for row, column in np.ndindex(on.shape):
        cell = (corner[0] + column, corner[1] + on.shape[0] - 1 - row)
        face = color if on[row, column] else REST
        ax.add_patch(Rectangle(cell, 1, 1, facecolor=face, edgecolor="0.45", linewidth=0.7))


def maps(ax: Axes, corner: Point, count: int, on: Cells, color: str = READ) -> None:
    """Draw `count` maps behind one another, the front one last."""
    for number in reversed(range(count)):
        grid(ax, (corner[0] + 0.5 * number, corner[1] + 0.5 * number), on, color)


def cells(rows: int, columns: int, *on: tuple[int, int]) -> Cells:
    """Return a grid in which only the given cells are on."""
    result = np.zeros((rows, columns), bool)
    for cell in on:
        result[cell] = True
    return result


def line(ax: Axes, start: Point, end: Point, width: float = 1.2, style: str = "-") -> None:
    """Draw a line from what is read to what reads it."""
    ax.plot([start[0], end[0]], [start[1], end[1]], color="0.35", lw=width, ls=style, zorder=3)


def say(ax: Axes, at: Point, text: str, size: float = 10.5, color: str = "0.1") -> None:
    """Write text."""
    ax.text(*at, text, ha="center", va="center", fontsize=size, color=color, linespacing=1.4)


def draw_neuron() -> Figure:
    """A fully connected neuron: a weight for every position and channel."""
    figure, ax = new_figure(29, 12.5, "a fully connected neuron on an image")
    every = np.ones((5, 5), bool)
    maps(ax, (1.5, 3.4), 3, every)
    for row, column in np.ndindex(5, 5):
        line(ax, (2 + column, 3.9 + row), (15, 8.4), 0.4)
    for row in range(4):
        color = OUT if row == 0 else REST
        ax.plot(15, 8.4 - 1.7 * row, "o", ms=18, color=color, mec="0.4", zorder=4)
    say(ax, (4.6, 1.7), "input: n x n x i\n(here 5 x 5 positions, 3 channels)")
    say(ax, (15, 1.7), "m outputs\n(here 4)")
    say(ax, (22.7, 8.4), "one output reads all of the input:\nn·n·i = 75 weights and a bias")
    say(
        ax, (22.7, 5), "all m outputs, each with\nweights of its own:\nn·n·i·m + m = 304 parameters"
    )
    return figure


def draw_whole_input() -> Figure:
    """The same as a convolution: the kernel fits at one place, and on more pixels at more."""
    figure, ax = new_figure(31, 14.5, "a kernel as large as the input is a fully connected layer")
    maps(ax, (1, 4), 3, np.ones((5, 5), bool))
    line(ax, (6, 9), (9.5, 7))
    line(ax, (6, 4), (9.5, 6))
    maps(ax, (9.5, 6), 2, np.ones((1, 1), bool), OUT)
    say(
        ax,
        (5.8, 1.9),
        "input 5 x 5 x i, m kernels of 5 x 5 x i:\none place to stand, output 1 x 1 x m",
    )
    large = np.zeros((7, 8), bool)
    large[:5, :5] = True
    maps(ax, (14, 4), 3, large)
    line(ax, (19, 11), (25.3, 9.5))
    line(ax, (19, 6), (25.3, 8.5))
    maps(ax, (25.3, 6.5), 2, cells(3, 4, (0, 0)), OUT)
    say(
        ax,
        (22, 1.9),
        "the same kernels, input 7 x 8 x i: each stands at\n3 x 4 places, output 3 x 4 x m",
    )
    return figure


def draw_pointwise() -> Figure:
    """A 1x1 convolution: the worked example of the page, at one position."""
    figure, ax = new_figure(31, 18, "a kernel of one position is a linear layer at every position")
    one = cells(4, 4, (1, 2))
    bottoms = (11.6, 6.8, 2.0)
    for channel, bottom in enumerate(bottoms):
        grid(ax, (2.6, bottom), one)
        say(ax, (1.4, bottom + 2), f"$x_{channel + 1}$", 13)
    grid(ax, (14.6, 9.6), cells(4, 4), OUT)
    grid(ax, (14.6, 4.0), one, OUT)
    end = (16.6, 6.5)
    for bottom, weight in zip(bottoms, (2, 3, 5), strict=True):
        start = (5.6, bottom + 2.5)
        line(ax, start, end, 1.5)
        at = (start[0] + 0.5 * (end[0] - start[0]), start[1] + 0.5 * (end[1] - start[1]))
        ax.text(*at, str(weight), ha="center", va="center", fontsize=11, zorder=5, bbox=LABEL)
    say(ax, (4.6, 0.9), "3 input maps")
    say(ax, (16.6, 0.9), "2 output maps")
    first, second = "0\\,x_1 + 1\\,x_2 + 1\\,x_3 + 8", "2\\,x_1 + 3\\,x_2 + 5\\,x_3 + 13"
    say(ax, (25.2, 11.6), f"$y_1 = {first}$\nkernel 1 x 1 x 3: (0, 1, 1)")
    say(ax, (25.2, 6), f"$y_2 = {second}$\nkernel 1 x 1 x 3: (2, 3, 5)")
    say(ax, (25.2, 2), "6 weights + 2 biases,\nthe same at every position")
    return figure


def draw_flattened() -> Figure:
    """Statement 3: the input as the channels of one position, then a kernel of one position."""
    title = "flattened to one position, the layer is a kernel of one position again"
    figure, ax = new_figure(31, 13.5, title)
    maps(ax, (1, 4), 3, np.ones((5, 5), bool))
    ax.annotate("", (11, 7), (8, 7), arrowprops={"arrowstyle": "->", "color": "0.3", "lw": 1.5})
    say(ax, (9.5, 7.8), "flatten", 9.5)
    # One position with so many channels: a stack of maps of one cell each, the middle left out.
    for number in reversed(range(15)):
        if number not in (7, 8, 9):
            grid(ax, (11.5 + 0.5 * number, 3.6 + 0.4 * number), np.ones((1, 1), bool))
    for dot in range(3):
        ax.plot(15.7 + 0.3 * dot, 7.1 + 0.2 * dot, ".", color="0.3", ms=4)
    line(ax, (12.5, 4.1), (23, 6.5))
    line(ax, (19.5, 9.7), (23, 6.5))
    maps(ax, (23, 6), 4, np.ones((1, 1), bool), OUT)
    say(ax, (4.5, 1.9), "input n x n x i\n(here 5 x 5 x 3)")
    say(ax, (14.8, 1.9), "1 x 1 x n·n·i\n(1 position, 75 channels)")
    say(ax, (25.4, 1.9), "m kernels of 1 x 1 x n·n·i:\noutput 1 x 1 x m")
    return figure


def draw_points() -> Figure:
    """PointNet: the points are the positions; a 1 x 3 kernel, then 1x1 ones."""
    figure, ax = new_figure(31, 16, "PointNet's shared MLP: the points are the positions")
    for left, columns, color in [(2.6, 3, READ), (12, 6, OUT), (24, 6, OUT)]:
        row = np.zeros((8, columns), bool)
        row[3] = True
        grid(ax, (left, 4), row, color)
    line(ax, (5.6, 8.5), (12, 8.5), 2)
    line(ax, (18, 8.5), (24, 8.5), 2)
    say(ax, (8.8, 9.8), "64 kernels\nof 1 x 3 x 1", 9.5)
    say(ax, (21, 9.8), "128 kernels\nof 1 x 1 x 64", 9.5)
    say(ax, (8.8, 7.4), "192 weights", 9.5)
    say(ax, (21, 7.4), "8,192 weights", 9.5)
    for column, name in enumerate("xyz"):
        say(ax, (3.1 + column, 12.6), name)
    for left in (12, 24):
        say(ax, (left + 3, 12.6), "channel 1, 2, 3, ...", 9.5)
    say(ax, (1.3, 8), "N\npoints")
    say(ax, (4.1, 2.2), "N x 3 x 1: 3 positions\nper point, 1 channel")
    say(ax, (15, 2.2), "N x 1 x 64: 1 position\nper point, 64 channels")
    say(ax, (26.6, 2.2), "N x 1 x 128: 1 position\nper point, 128 channels")
    return figure


FIGURES = {
    "neuron": draw_neuron,
    "whole_input": draw_whole_input,
    "pointwise": draw_pointwise,
    "flattened": draw_flattened,
    "points": draw_points,
}


def main() -> None:
    """Draw all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("docs/equivalences"))
    folder = parser.parse_args().output
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in FIGURES.items():
        draw().savefig(folder / f"{name}.png")


if __name__ == "__main__":
    main()
