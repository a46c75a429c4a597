"""Meshes as text, and a small tree of them."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

TETRAHEDRON = """OFF
4 4 6
0 0 0
1 0 0
0 1 0
0 0 1
3 0 2 1
3 0 1 3
3 1 2 3
3 0 3 2
"""
# One face of area 1 below z = 0 and one of area 3 above: area-weighted sampling shows.
TWO_TRIANGLES = """OFF
6 2 0
0 0 -1
2 0 -1
0 1 -1
0 0 1
2 0 1
0 3 1
3 0 1 2
3 3 4 5
"""


def write_tree(root: Path, classes=("a", "b"), train: int = 3, test: int = 2) -> Path:
    """Tetrahedra of different heights, in the ModelNet layout."""
    for index, name in enumerate(classes):
        for split, count in (("train", train), ("test", test)):
            folder = root / name / split
            folder.mkdir(parents=True)
            for number in range(count):
                height = 1 + index + 0.1 * number
                text = TETRAHEDRON.replace("0 0 1\n", f"0 0 {height}\n")
                (folder / f"{name}_{number:04d}.off").write_text(text)
    return root


def write(path: Path, content: str | bytes) -> Path:
    """Write a file, text as UTF-8."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# A box of 1 x 2 x 3, whose area is 22: its corners, its sides, and the triangles of these.
BOX_VERTICES = [(x, y, z) for x in (0, 1) for y in (0, 2) for z in (0, 3)]
BOX_SIDES = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
BOX_FACES = [face for a, b, c, d in BOX_SIDES for face in ((a, b, c), (a, c, d))]


def assert_is_box(mesh: Any, extents: Sequence[float] = (1, 2, 3), area: float = 22) -> None:
    """Assert that a mesh has the size and the area of the box."""
    assert mesh.extents.tolist() == pytest.approx(list(extents))
    assert mesh.area == pytest.approx(area)


def edges(polygons):
    """What is left of the edges of polygons, or of the triangles they were cut into."""
    net: Counter[tuple[int, int]] = Counter()
    for polygon in polygons:
        for a, b in zip(polygon, [*polygon[1:], polygon[0]], strict=True):
            net[min(a, b), max(a, b)] += (a < b) - (a > b)
    return {edge: count for edge, count in net.items() if count}
