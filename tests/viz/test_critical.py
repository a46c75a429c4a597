from typing import Any

import pytest
import torch

from sharedmlp.models import PointNet, ThirdPartyPointNet
from sharedmlp.viz import find_critical_points, find_critical_sets


def make_network(transforms, **options):
    """A network whose statistics and transforms are not those of a new one."""
    torch.manual_seed(0)
    kind = ThirdPartyPointNet if "activation_before_max" in options else PointNet
    model: Any = kind(4, transforms=transforms, **options)
    for tnet in filter(None, (model.input_tnet, model.feature_tnet)):
        last = tnet.head.layers[-1].linear
        torch.nn.init.normal_(last.weight, std=0.02)
    model(torch.randn(8, 50, 3))  # running statistics
    return model.eval()


def make_cloud(num_points=200):
    points = torch.randn(num_points, 3, generator=torch.Generator().manual_seed(1))
    return points / points.norm(dim=1, keepdim=True) * torch.tensor([0.9, 0.6, 0.3])


@pytest.mark.parametrize(
    ("transforms", "options"),
    [
        (False, {}),
        (True, {}),
        ("input", {"backend": "conv1d"}),
        (True, {"backend": "conv2d"}),
        (False, {"activation_before_max": False}),  # where negative maxima count
    ],
)
def test_what_lies_between_the_sets_has_the_same_global_feature(transforms, options):
    """Theorem 2, by its own words; the transforms stay those of the cloud."""
    model, points = make_network(transforms, **options), make_cloud(2000)
    sets = find_critical_sets(model, points, resolution=16)
    output = model.forward_detailed(points[None])
    if transforms:
        model.input_tnet.forward = lambda _: output.input_transform
    if transforms is True:
        model.feature_tnet.forward = lambda _: output.feature_transform
    assert 0 < len(sets.critical) < len(points)
    assert 0 < len(sets.upper_bound) < 16**3
    for cloud in (sets.critical, torch.cat([sets.critical, sets.upper_bound])):
        found = model.forward_detailed(cloud[None]).global_feature
        torch.testing.assert_close(found, output.global_feature, rtol=1e-4, atol=1e-4)


def test_the_sets_are_no_smaller_and_no_larger_than_that():
    model, points = make_network(False), make_cloud()
    sets = find_critical_sets(model, points, resolution=16)
    feature = model.forward_detailed(points[None]).global_feature
    for left_out in range(0, len(sets.critical), 7):
        fewer = torch.cat([sets.critical[:left_out], sets.critical[left_out + 1 :]])
        assert (model.forward_detailed(fewer[None]).global_feature < feature - 1e-6).any()
    edge = torch.linspace(-1, 1, 16) * points.norm(dim=1).max()
    grid = torch.cartesian_prod(edge, edge, edge)
    inside = (grid[:, None] == sets.upper_bound).all(-1).any(-1)
    assert int(inside.sum()) == len(sets.upper_bound)
    for point in grid[~inside][::97]:
        more = torch.cat([points, point[None]])
        assert (model.forward_detailed(more[None]).global_feature > feature).any()


@pytest.mark.parametrize("options", [{}, {"activation_before_max": False}])
def test_critical_points_come_with_the_channels_that_each_wins(options):
    model, points = make_network(True, **options), make_cloud()
    found = find_critical_points(model, points)
    output = model.forward_detailed(points[None])
    winners = output.critical_indices[0][output.global_feature[0] != 0]
    assert torch.equal(found.rows, winners.unique())
    assert torch.equal(found.channels, winners.bincount(minlength=200)[found.rows])
    assert torch.equal(points[found.rows], find_critical_sets(model, points, 2).critical)


@pytest.mark.parametrize("transforms", [False, True])
def test_the_cloud_lies_within_its_upper_bound_shape(transforms):
    """Its own points reach the maxima, and in another batch they may round above them."""
    model = make_network(transforms)
    edge = torch.linspace(-1, 1, 9)
    grid = torch.cartesian_prod(edge, edge, edge)
    ball = grid[grid.norm(dim=1) <= 1]  # with (1, 0, 0), so that the cube is this grid
    upper_bound = find_critical_sets(model, ball, resolution=9).upper_bound
    assert (ball[:, None] == upper_bound).all(-1).any(-1).all()


def test_critical_points_are_points_of_the_cloud_each_once():
    model, points = make_network(True), make_cloud()
    critical = find_critical_sets(model, points, resolution=2).critical
    same = (points[:, None] == critical).all(-1)
    assert (same.sum(0) == 1).all()
    assert same.any(1).sum() == len(critical)


def test_the_points_pass_in_parts(monkeypatch):
    model, points = make_network(False), make_cloud()
    whole = find_critical_sets(model, points, resolution=12)
    monkeypatch.setattr("sharedmlp.viz.critical._CHUNK", 50)
    largest = []
    model.local_mlp.register_forward_hook(lambda _, args, __: largest.append(len(args[0])))
    parts = find_critical_sets(model, points, resolution=12)
    assert max(largest[1:]) == 50  # the first is the cloud
    assert torch.equal(parts.upper_bound, whole.upper_bound)


@pytest.mark.parametrize(
    ("model", "expected"),
    [(PointNet(4, 6).eval(), "got in_channels=6"), (PointNet(4), "training=True: call eval()")],
)
def test_other_networks_are_refused(model, expected):
    with pytest.raises(ValueError, match=r"in_channels=3 in evaluation mode") as error:
        find_critical_sets(model, torch.randn(9, model.in_channels))
    assert expected in str(error.value)
