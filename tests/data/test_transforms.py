import math

import pytest
import torch

from sharedmlp.data import (
    Compose,
    RandomFlip,
    RandomJitter,
    RandomPointDropout,
    RandomRotation,
    RandomScale,
    RandomTranslation,
)

ALL = {
    "rotation": RandomRotation(),
    "jitter": RandomJitter(),
    "scale": RandomScale(),
    "mirror": RandomFlip(),
    "translation": RandomTranslation(),
    "dropout": RandomPointDropout(),
    "compose": Compose([RandomRotation(), RandomJitter()]),
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clouds(channels: int, dtype=torch.float64) -> torch.Tensor:
    points = torch.randn(5, 40, channels, generator=generator(7), dtype=dtype)
    points[..., 3:6] = torch.nn.functional.normalize(points[..., 3:6], dim=-1)
    return points


@pytest.mark.parametrize("channels", [3, 4, 6, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ALL)
def test_shape_dtype_seed_and_untouched_input(name, dtype, channels):
    points = clouds(channels, dtype)
    before = points.clone()
    result = ALL[name](points, generator())
    assert torch.equal(points, before)
    assert result.shape == points.shape
    assert result.dtype == dtype
    assert not torch.equal(result, points)
    assert torch.equal(result, ALL[name](points, generator()))
    assert not torch.equal(result, ALL[name](points, generator(1)))
    # Every cloud has its own draw: equal clouds come back different (some alike, when mirrored).
    equal = ALL[name](points[:1].expand(5, -1, -1), generator())
    assert not torch.equal(equal, equal[:1].expand_as(equal))
    # Columns that are neither coordinates nor normals stay (or go with their point).
    if name != "dropout":
        start = 6 if channels >= 6 else 3
        assert torch.equal(result[..., start:], points[..., start:])


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    "points", [torch.zeros(5, 3), torch.zeros(2, 5, 2), torch.zeros(2, 5, 3).int()]
)
def test_other_tensors_are_refused(name, points):
    with pytest.raises(ValueError, match=r"\(B, N, 3 or more\), got"):
        ALL[name](points, generator())


@pytest.mark.parametrize(("axis", "up"), [("x", 0), ("y", 1), ("z", 2)])
def test_rotation_turns_about_the_up_axis(axis, up):
    points = clouds(6)
    result = RandomRotation(axis)(points, generator())
    xyz, normals = result[..., :3], result[..., 3:]
    torch.testing.assert_close(xyz[..., up], points[..., up])
    torch.testing.assert_close(normals[..., up], points[..., 3 + up])
    torch.testing.assert_close(torch.cdist(xyz, xyz), torch.cdist(points[..., :3], points[..., :3]))
    # The normals turn with the points, and nothing is mirrored.
    torch.testing.assert_close((xyz * normals).sum(-1), (points[..., :3] * points[..., 3:]).sum(-1))
    turned = torch.linalg.cross(xyz[:, 0], xyz[:, 1])
    flat = torch.linalg.cross(points[:, 0, :3], points[:, 1, :3])
    torch.testing.assert_close((turned * xyz[:, 2]).sum(-1), (flat * points[:, 2, :3]).sum(-1))


def test_rotation_angles_go_all_the_way_round():
    east = torch.tensor([1.0, 0, 0]).expand(4000, 1, 3)
    result = RandomRotation()(east, generator())[:, 0]
    angles = torch.atan2(result[:, 1], result[:, 0])
    counts = torch.histc(angles, bins=8, min=-math.pi, max=math.pi)
    assert counts.min() > 400


def test_jitter_is_small_and_clipped_and_leaves_normals():
    points = clouds(6)
    moves = (RandomJitter(std=0.02, clip=0.03)(points, generator()) - points)[..., :3]
    assert moves.abs().max() == pytest.approx(0.03)
    assert (moves.abs() < 0.0299).double().mean() == pytest.approx(0.866, abs=0.05)  # 1.5 sigma
    result = RandomJitter()(points, generator())
    assert torch.equal(result[..., 3:], points[..., 3:])


@pytest.mark.parametrize("anisotropic", [True, False])
def test_scale_and_its_normals(anisotropic):
    points = clouds(6)
    # Points on planes: the normal of a point is perpendicular to the plane's directions.
    normal = points[:, :1, 3:6]
    flat = points[..., :3] - (points[..., :3] * normal).sum(-1, keepdim=True) * normal
    plane = torch.cat([flat, normal.expand_as(flat)], dim=-1)
    result = RandomScale(0.5, 2.0, anisotropic=anisotropic)(plane, generator())
    factors = result[..., :3] / plane[..., :3]
    assert 0.5 <= factors.min() < factors.max() <= 2
    torch.testing.assert_close(factors, factors[:, :1].expand_as(factors))
    assert torch.allclose(factors[..., 0], factors[..., 1]) != anisotropic
    torch.testing.assert_close(result[..., 3:].norm(dim=-1), torch.ones(5, 40, dtype=torch.float64))
    dots = (result[..., :3] * result[..., 3:]).sum(-1)
    torch.testing.assert_close(dots, torch.zeros_like(dots))


@pytest.mark.parametrize(("axis", "column"), [("x", 0), ("y", 1), ("z", 2)])
def test_mirror_changes_the_sign_of_one_axis_in_half_of_the_clouds(axis, column):
    points = clouds(7).repeat(100, 1, 1)
    mirrored = points.clone()
    mirrored[..., [column, 3 + column]] *= -1
    result = RandomFlip(axis)(points, generator())
    is_mirrored = (result == mirrored).all(-1).all(-1)
    assert torch.equal(result[~is_mirrored], points[~is_mirrored])
    assert is_mirrored.double().mean() == pytest.approx(0.5, abs=0.1)


def test_translation_moves_a_cloud_as_a_whole():
    points = clouds(6)
    result = RandomTranslation(0.3)(points, generator())
    moves = (result - points)[..., :3]
    torch.testing.assert_close(moves, moves[:, :1].expand_as(moves))
    assert 0.1 < moves.abs().max() <= 0.3
    assert moves.min() < 0 < moves.max()
    assert torch.equal(result[..., 3:], points[..., 3:])


def test_dropout_repeats_the_first_point():
    points = clouds(6).repeat(40, 1, 1)
    result = RandomPointDropout(0.5)(points, generator())
    kept = (result == points).all(-1)
    first = (result == points[:, :1]).all(-1)
    assert (kept | first).all()
    shares = (~kept).double().mean(1)
    assert shares.mean() == pytest.approx(0.25, abs=0.05)
    assert shares.max() > 0.35
    assert torch.equal(RandomPointDropout(0.0)(points, generator()), points)


def test_compose_applies_in_order():
    points = clouds(3)
    rng = generator()
    expected = RandomTranslation()(RandomScale()(points, rng), rng)
    assert torch.equal(Compose([RandomScale(), RandomTranslation()])(points, generator()), expected)
    assert torch.equal(Compose([])(points, generator()), points)


@pytest.mark.parametrize(
    "make",
    [
        lambda: RandomRotation("up"),
        lambda: RandomFlip("left"),
        lambda: RandomJitter(std=-1),
        lambda: RandomJitter(clip=float("nan")),
        lambda: RandomScale(0, 1),
        lambda: RandomScale(2, 1),
        lambda: RandomTranslation(-1),
        lambda: RandomPointDropout(1.5),
    ],
)
def test_settings_that_make_no_sense_are_refused(make):
    with pytest.raises(ValueError, match=r"expected .* got"):
        make()
