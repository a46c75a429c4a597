"""Polygons cut into triangles: their area stays, and their order."""

import numpy as np
import pytest

from sharedmlp.data.io import polygons
from sharedmlp.data.io.base import FormatError
from sharedmlp.data.io.polygons import cut_into_triangles, fan_triangles, strip_triangles

ROTATION = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
# Flat, as (x, y): no corner of the last three sees all others.
POLYGONS = {
    "triangle": [(0, 0), (1, 0), (0, 1)],
    "square": [(0, 0), (1, 0), (1, 1), (0, 1)],
    "arrow": [(0, 0), (4, 0), (1, 1), (0, 4)],
    "corner": [(0, 0), (2, 0), (2, 1), (1, 1), (1, 3), (0, 3)],
    "hexagon": [(2, 0), (1, 2), (-1, 2), (-2, 0), (-1, -2), (1, -2)],
    "U": [(0, 0), (5, 0), (5, 4), (4, 4), (4, 1), (1, 1), (1, 4), (0, 4)],
    "comb": [
        *[(0, 0), (7, 0), (7, 3), (6, 3), (6, 1), (5, 1), (5, 3), (4, 3)],
        *[(4, 1), (3, 1), (3, 3), (2, 3), (2, 1), (1, 1), (1, 3), (0, 3)],
    ],
    "zigzag": [(0, 0), (1, 2), (2, 0), (3, 2), (4, 0), (4, 1), (3, 3), (2, 1), (1, 3), (0, 1)],
    "frame": [(0, 0), (4, 0), (4, 4), (0, 4), (0, 0), (1, 1), (1, 3), (3, 3), (3, 1), (1, 1)],
}


def shoelace(points):
    x, y = np.array(points, dtype=float).T
    return abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def areas(vertices, triangles):
    corners = vertices[triangles]
    return (
        np.linalg.norm(
            np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1
        )
        / 2
    )


@pytest.mark.parametrize("plane", ["xy", "yz", "zx", "any"])
@pytest.mark.parametrize("name", POLYGONS)
def test_area_stays_wherever_a_polygon_begins_and_whichever_way_it_runs(name, plane):
    points = POLYGONS[name]
    vertices = np.column_stack([points, np.full(len(points), 7.0)])
    vertices = {
        "xy": vertices,
        "yz": vertices[:, [2, 0, 1]],
        "zx": vertices[:, [1, 2, 0]],
        "any": vertices @ ROTATION,
    }[plane]
    orders = [
        np.roll(np.arange(len(points)), shift)[::step]
        for shift in range(len(points))
        for step in (1, -1)
    ]
    sizes = np.full(len(orders), len(points))
    triangles = cut_into_triangles(vertices, sizes, np.concatenate(orders))
    assert triangles.shape == (len(orders) * (len(points) - 2), 3)
    found = areas(vertices, triangles).reshape(len(orders), -1).sum(axis=1)
    np.testing.assert_allclose(found, shoelace(points))
    # All of them face the polygon's way: the normals add up to its area.
    corners = vertices[triangles]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = normals.reshape(len(orders), -1, 3).sum(axis=1)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1) / 2, shoelace(points))


def test_random_stars():
    rng = np.random.default_rng(0)
    for size in range(4, 40):
        angles = np.sort(rng.uniform(0, 2 * np.pi, size))
        angles = np.arange(size) * 2 * np.pi / size + 0.1 * angles / size
        points = rng.uniform(0.1, 1, size)[:, None] * np.column_stack(
            [np.cos(angles), np.sin(angles)]
        )
        vertices = np.column_stack([points, np.zeros(size)]) @ ROTATION
        triangles = cut_into_triangles(vertices, np.array([size]), np.arange(size))
        assert areas(vertices, triangles).sum() == pytest.approx(shoelace(points))


def test_faces_of_many_sizes_keep_their_order():
    vertices = np.array([(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0), (-1, 0.5, 0)], dtype=float)
    triangles = cut_into_triangles(
        vertices, np.array([3, 5, 4, 3]), np.array([0, 3, 4, 0, 1, 2, 3, 4, 0, 1, 2, 3, 1, 2, 3])
    )
    expected = [(0, 3, 4), (0, 1, 2), (0, 2, 3), (0, 3, 4), (0, 1, 2), (0, 2, 3), (1, 2, 3)]
    assert triangles.tolist() == list(map(list, expected))


def test_what_crosses_itself_or_has_no_area_becomes_a_fan():
    vertices = np.array([(0, 0, 0), (1, 1, 0), (1, 0, 0), (0, 1, 0)], dtype=float)
    for corners in ([0, 1, 2, 3], [0, 0, 0, 0], [0, 1, 0, 1]):
        triangles = cut_into_triangles(vertices, np.array([4]), np.array(corners))
        assert triangles.shape == (2, 3)


@pytest.mark.parametrize(
    ("sizes", "corners", "reason"),
    [
        ([3, 2], [0, 1, 2, 0, 1], r"face 1 \(of 2, from 0\) has 2 corners, expected 3 or more"),
        (
            [3, 3],
            [0, 1, 2, 0, 1, 3],
            r"face 1 \(of 2, from 0\) refers to vertex 3, but there are 3",
        ),
        ([4], [0, 1, -1, 2], r"face 0 \(of 1, from 0\) refers to vertex -1, but there are 3"),
    ],
)
def test_faces_that_are_none(sizes, corners, reason):
    with pytest.raises(FormatError, match=reason):
        cut_into_triangles(np.eye(3), np.array(sizes), np.array(corners))


def test_work_on_concave_faces_is_bounded(monkeypatch):
    teeth = 400
    points = [(i // 2 + 1, i % 2 * 2 + 1) for i in range(teeth)]
    vertices = np.array([*points, (teeth, 0), (0, 0)], dtype=float)
    faces = np.array([len(vertices)]), np.arange(len(vertices))
    triangles = cut_into_triangles(np.column_stack([vertices, 0 * vertices[:, 0]]), *faces)
    assert areas(np.column_stack([vertices, 0 * vertices[:, 0]]), triangles).sum() == pytest.approx(
        shoelace(vertices)
    )
    monkeypatch.setattr(polygons, "_MOST_EAR_WORK", 1_000_000)
    with pytest.raises(FormatError, match="is concave and has 402 corners"):
        cut_into_triangles(np.column_stack([vertices, 0 * vertices[:, 0]]), *faces)


def test_strips_and_fans():
    strip = strip_triangles(np.array([5]), np.arange(5, dtype=np.uint8))
    assert strip.tolist() == [[0, 1, 2], [2, 1, 3], [2, 3, 4]]
    # Two lists, and a restart within the first one: each strip begins the same way round.
    strips = strip_triangles(np.array([8, 3, 1]), np.array([0, 1, 2, -1, 4, 5, 6, 7, 8, 9, 10, 11]))
    assert strips.tolist() == [[0, 1, 2], [4, 5, 6], [6, 5, 7], [8, 9, 10]]
    assert strip_triangles(np.array([2]), np.array([0, 1])).shape == (0, 3)
    assert strip_triangles(np.array([], dtype=int), np.array([], dtype=int)).shape == (0, 3)
    assert fan_triangles(np.array([5, 6, 7, 8])).tolist() == [[5, 6, 7], [5, 7, 8]]
    assert fan_triangles(np.array([5, 6])).shape == (0, 3)
    assert fan_triangles(np.array([], dtype=np.uint8)).shape == (0, 3)
