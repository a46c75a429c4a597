"""Scenes cut into blocks."""

import numpy as np
import pytest

from sharedmlp.data.blocks import cut_blocks, place_in_block, relative_positions


@pytest.mark.parametrize("offset", [0.0, 1e5])
@pytest.mark.parametrize(("size", "stride"), [(1.0, 1.0), (1.0, 0.5), (0.7, 0.3), (10.0, 10.0)])
@pytest.mark.parametrize("up_axis", ["x", "y", "z"])
def test_blocks_are_those_of_a_plain_comparison_and_cover_the_scene(size, stride, up_axis, offset):
    rng = np.random.default_rng(0)
    points = rng.random((400, 3)) * (3.3, 2.1, 4.0) + offset
    axes = [axis for axis in range(3) if "xyz"[axis] != up_axis]
    blocks = list(cut_blocks(points, size=size, stride=stride, up_axis=up_axis))
    for block in blocks:
        inside = (np.abs(points[:, axes] - block.center) <= size / 2 + 1e-5).all(axis=1)
        assert np.array_equal(block.indices, np.flatnonzero(inside))
    assert set(np.concatenate([block.indices for block in blocks])) == set(range(400))
    extents = np.ptp(points[:, axes], axis=0)
    expected = np.prod(np.maximum(np.ceil((extents - size) / stride), 0) + 1)
    assert len(blocks) <= expected
    if size == stride == 1.0:
        assert len(blocks) == expected


def test_a_block_is_centered_in_the_plane_and_stands_on_the_floor():
    points = np.array([[5.0, 7, 3], [5.5, 7.5, 4], [6, 8, 9]])
    (block,) = cut_blocks(points, size=1, stride=1, up_axis="z")
    placed = place_in_block(points, block, 3.0, "z")
    expected = np.array([[-0.5, -0.5, 0.0], [0.0, 0.0, 1.0], [0.5, 0.5, 6.0]])
    assert np.allclose(placed, expected)
    shares = np.array([[0.0, 0.0, 0.0], [0.5, 0.5, 1 / 6], [1.0, 1.0, 1.0]])
    assert np.allclose(relative_positions(points), shares)


@pytest.mark.parametrize(("size", "stride"), [(0, 1), (1, 0), (1, 1.5), (np.nan, 1)])
def test_sizes_that_leave_gaps_are_refused(size, stride):
    with pytest.raises(ValueError, match="a stride above 0 and at most the size"):
        next(cut_blocks(np.zeros((1, 3)), size=size, stride=stride, up_axis="z"))


def test_an_outlier_does_not_make_a_million_blocks():
    points = np.array([[0.0, 0, 0], [1e6, 0, 0]])
    with pytest.raises(ValueError, match=r"blocks of 1 along an axis, more than 10,000: are"):
        next(cut_blocks(points, size=1, stride=1, up_axis="z"))
