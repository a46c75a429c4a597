"""Answers of the most confident of several turns against a plain loop."""

import math
from typing import Any

import pytest
import torch

from sharedmlp.models import PointNet
from sharedmlp.reports.answers import classify_clouds


@pytest.fixture
def model():
    torch.manual_seed(0)
    model: Any = PointNet(3, transforms=False, local_channels=(8,), global_channels=(8, 32)).eval()
    with torch.no_grad():
        model.head.layers[-1].linear.weight *= 50
    return model


def make_clouds(count=5):
    return torch.randn(count, 20, 3, generator=torch.Generator().manual_seed(0))


def turn(points, degrees, axis):
    """By the right hand about an axis, with its formula written out."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y, z = points.unbind(-1)
    rotated = {
        "x": (x, c * y - s * z, s * y + c * z),
        "y": (c * x + s * z, y, c * z - s * x),
        "z": (c * x - s * y, s * x + c * y, z),
    }
    return torch.stack(rotated[axis], dim=-1)


def test_one_turn_is_the_network_as_it_is(model):
    points = make_clouds()
    with torch.no_grad():
        found = classify_clouds(model, points, {"temperature": 0.5})
        assert torch.equal(found.probabilities, (model(points) / 0.5).softmax(1))
    assert found.degrees.tolist() == [0] * 5


@pytest.mark.parametrize("axis", ["x", "y", "z"])
@pytest.mark.parametrize(("rotations", "count"), [(2, 5), (12, 5), (12, 40)])
def test_the_most_confident_turn_answers(model, rotations, count, axis):
    points, sizes = make_clouds(count), []
    model.register_forward_hook(lambda _, args, __: sizes.append(len(args[0])))
    with torch.no_grad():
        found = classify_clouds(model, points, {}, rotations=rotations, up_axis=axis)
        used = list(sizes)
        steps = [360 / rotations * step for step in range(rotations)]
        plain = [model(turn(points, degrees, axis)).softmax(1) for degrees in steps]
    for row, (probabilities, degrees) in enumerate(zip(*found, strict=True)):
        confidences = torch.stack([answer[row].max() for answer in plain])
        best = steps.index(float(degrees))
        assert confidences[best] == pytest.approx(float(confidences.max()), abs=1e-5)
        torch.testing.assert_close(probabilities, plain[best][row], rtol=1e-3, atol=1e-4)
    assert rotations == 2 or len(set(found.degrees.tolist())) > 1
    assert sum(used) == rotations * count
    assert max(used) <= max(32, count)
    assert len(used) == math.ceil(rotations * count / max(32, count))


def test_a_turned_cloud_is_turned_back(model):
    points = make_clouds()
    with torch.no_grad():
        straight = classify_clouds(model, points, {}, rotations=8)
        turned = classify_clouds(model, turn(points, 90, "z"), {}, rotations=8)
    torch.testing.assert_close(turned.probabilities, straight.probabilities, rtol=1e-3, atol=1e-4)
    assert torch.equal((turned.degrees + 90) % 360, straight.degrees)


def test_of_equal_turns_the_smallest_counts():
    found = classify_clouds(lambda points: points.new_ones(len(points), 3), make_clouds(), {})
    assert found.degrees.tolist() == [0] * 5
    found = classify_clouds(
        lambda points: points.new_ones(len(points), 3), make_clouds(), {}, rotations=4
    )
    assert found.degrees.tolist() == [0] * 5


@pytest.mark.parametrize(("features", "turns"), [(["normals"], True), (["colors"], False)])
def test_normals_turn_and_colors_do_not(features, turns):
    seen = []
    points = torch.cat([make_clouds(), make_clouds()], dim=2)

    def forward(points):
        seen.append(points)
        return torch.zeros(len(points), 2)

    classify_clouds(forward, points, {}, rotations=4, features=features)
    quarter = torch.cat(seen)[5:10]
    turned = turn(points[..., :3], 90, "z")
    torch.testing.assert_close(quarter[..., :3], turned, rtol=0, atol=1e-6)
    expected = turned if turns else points[..., 3:]
    torch.testing.assert_close(quarter[..., 3:], expected, rtol=0, atol=1e-6)


def test_no_turn_is_refused(model):
    with pytest.raises(ValueError, match="rotations is at least 1, the cloud as it is, got 0"):
        classify_clouds(model, make_clouds(), {}, rotations=0)
