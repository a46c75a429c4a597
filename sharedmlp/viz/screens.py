"""What a page of point clouds shows: screens of clouds, and what their points are colored by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Coloring:
    """What the points of a cloud are colored by: a number or a class each.

    Attributes:
        name: What the values are; it is read beside the value in the label of a point.
        values: `(N,)`, numbers, NaN for a point that has none, or classes from 0. None colors by
            height.
        class_names: The names of the classes; None if the values are numbers.
        background: The classes that are drawn faint and below the others.
        reverse: Whether the lowest number is the brightest.
        neighbors: `(N, K)`, rows of points: the neighborhood that is shown when a point is chosen,
            its center first. None if points cannot be chosen.
    """

    name: str = ""
    values: ArrayLike | None = None
    class_names: Sequence[str] | None = None
    background: Sequence[int] = ()
    reverse: bool = False
    neighbors: ArrayLike | None = None


@dataclass(frozen=True)
class Outline:
    """A shape around the points of a cloud, drawn so that the points are seen through it.

    Attributes:
        name: What it is.
        points: `(M, 3)`, on a grid, as the points of the cloud are given.
        spacing: Of the grid, in the units of the points.
    """

    name: str
    points: ArrayLike
    spacing: float


@dataclass(frozen=True)
class ColoredCloud:
    """A cloud with one or more colorings.

    Attributes:
        points: `(N, 3 or more)`, of any N; x, y, z first.
        title: What stands above it, in lines; needed if a screen has several clouds.
        colorings: Each is a view of its own.
        marked: The row of a point to draw large and red, or None.
        outline: A shape around the points, in the first view.
    """

    points: ArrayLike
    title: str = ""
    colorings: Sequence[Coloring] = (Coloring(),)
    marked: int | None = None
    outline: Outline | None = None


@dataclass(frozen=True)
class Screen:
    """Clouds that are seen at once, in one scale; a page has one screen after the other.

    Attributes:
        title: What stands above all, in lines.
        clouds: The clouds.
        side_by_side: Whether all views are shown at first, or the first alone.
    """

    title: str
    clouds: Sequence[ColoredCloud]
    side_by_side: bool = True
