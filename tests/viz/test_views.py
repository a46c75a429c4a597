"""What `show` draws of each kind of network."""

from typing import Any

import pytest
import torch

from sharedmlp import create_model
from sharedmlp.models import PointCloudModel
from sharedmlp.viz import find_critical_sets, find_views
from tests.models.small import SMALL


def make(name):
    torch.manual_seed(0)
    model: Any = create_model(name, 4, **SMALL[name]).eval()
    points = torch.randn(60, 3)
    return model, points / points.norm(dim=1).max()


def test_of_a_max_over_the_points_the_critical_sets():
    model, points = make("pointnet_vanilla")
    critical, upper_bound = find_views(model, points)
    sets = find_critical_sets(model, points)
    assert torch.equal(critical.points, sets.critical)
    assert torch.equal(upper_bound.points, sets.upper_bound)
    assert critical.title == f"{len(sets.critical)} critical points\nof 60"


@pytest.mark.parametrize("name", ["pointnet2_ssg", "pointnet2_msg"])
def test_of_groups_the_centers_and_the_ball_around_the_nearest(name):
    model, points = make(name)
    centers, ball = find_views(model, points, point=7)
    found = model.forward_detailed(points[None]).centers[0][0]
    assert {tuple(row) for row in centers.points.tolist()} == {tuple(r) for r in found.tolist()}
    nearest = found[(found - points[7]).norm(dim=1).argmin()]
    assert ball.marked is not None
    assert torch.equal(points[ball.marked], nearest)
    distances = (points - nearest).norm(dim=1)
    assert ball.values is not None
    shown = ~ball.values.isnan()
    inside = (distances < 0.7).nonzero()[:8, 0]  # the largest scale
    assert torch.equal(shown.nonzero()[:, 0], inside)
    torch.testing.assert_close(ball.values[shown], -distances[shown])
    assert ball.title == f"{len(inside)} points around a center\nwithin 0.7"


@pytest.mark.parametrize(("layer", "shown"), [(1, 1), (None, 2)])
def test_of_neighbor_graphs_the_order_of_distances_in_space_and_in_features(layer, shown):
    model, points = make("dgcnn")
    views = find_views(model, points, layer=layer)
    marked = int((points - points.mean(0)).norm(dim=1).argmax())
    features = model.forward_detailed(points[None]).edge_features[shown - 1][0]
    assert views[1].title == f"near a point\nin the features of layer {shown}"
    for view, space in zip(views, (points, features), strict=True):
        assert view.marked == marked
        assert view.values is not None
        assert sorted(view.values.tolist()) == list(range(60))
        distances = (space - space[marked]).norm(dim=1)
        assert (distances[view.values.argsort(descending=True)].diff() >= 0).all()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("pointnet_vanilla", {"point": 1}, "looks at no single point"),
        ("pointnet_vanilla", {"layer": 1}, "finds no neighbors in features"),
        ("pointnet2_ssg", {"layer": 1}, "finds no neighbors in features"),
        ("pointnet2_ssg", {"point": 60}, "from 0 to 59, got 60"),
        ("dgcnn", {"layer": 3}, "from 1 to 2, got 3"),
        ("dgcnn", {"point": -1}, "from 0 to 59, got -1"),
    ],
)
def test_what_there_is_not_is_said(name, options, message):
    with pytest.raises(ValueError, match=message):
        find_views(*make(name), **options)


def test_other_networks_are_refused():
    model, points = make("dgcnn")
    with pytest.raises(ValueError, match="in evaluation mode"):
        find_views(model.train(), points)
    other = PointCloudModel({"in_channels": 3, "num_classes": 2}, {}).eval()
    with pytest.raises(ValueError, match="a PointCloudModel cannot be shown: expected"):
        find_views(other, points)
