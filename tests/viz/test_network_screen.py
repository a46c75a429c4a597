"""What `show` puts on a screen for each kind of network."""

import pytest
import torch

from sharedmlp.neighbors import k_nearest
from sharedmlp.viz import find_critical_points, find_screen, screens_page
from sharedmlp.viz import network_screen as subject
from tests.viz.test_views import make


def test_of_a_max_over_the_points_one_view_of_critical_points_cloud_and_shape():
    model, points = make("pointnet_vanilla")
    screen = find_screen(model, points, "a")
    assert not screen.side_by_side
    (cloud,) = screen.clouds
    critical, won = cloud.colorings
    found = find_critical_points(model, points)
    assert torch.equal(torch.as_tensor(critical.values).nonzero()[:, 0], found.rows)
    values = torch.as_tensor(won.values)
    assert torch.equal(values[found.rows], found.channels.float())
    assert int(values.isnan().sum()) == 60 - len(found.rows)
    assert cloud.outline is not None
    assert len(torch.as_tensor(cloud.outline.points)) > 0
    assert find_screen(model, points, "a", details=False).clouds[0].outline is None
    assert "upper-bound shape" in screens_page([screen])


def test_the_surface_of_a_grid_is_what_lacks_a_neighbor():
    edge = torch.linspace(-1, 1, 6)
    grid = torch.cartesian_prod(edge, edge, edge)
    ball = grid[grid.norm(dim=1) < 1.2]
    points = {tuple(row) for row in (ball / 0.4).round(decimals=1).tolist()}
    steps = torch.cat([torch.eye(3), -torch.eye(3)])
    expected = torch.tensor(
        [
            any(tuple(near) not in points for near in (row + steps).round(decimals=1).tolist())
            for row in (ball / 0.4).round(decimals=1)
        ]
    )
    assert 0 < int(expected.sum()) < len(ball)
    assert torch.equal(subject._on_surface(ball, 0.4), expected)
    assert subject._on_surface(ball[:0], 0.4).shape == (0,)


@pytest.mark.parametrize("name", ["pointnet2_ssg", "pointnet2_msg"])
def test_of_groups_the_centers_and_the_ball_of_the_nearest_center(name):
    model, points = make(name)
    (cloud,) = find_screen(model, points, "a", point=7).clouds
    groups = model.neighborhoods(points)
    (coloring,) = cloud.colorings
    kinds, neighbors = torch.as_tensor(coloring.values), torch.as_tensor(coloring.neighbors)
    chosen = int((points[groups.centers] - points[7]).norm(dim=1).argmin())
    assert cloud.marked == int(groups.centers[chosen])
    members = set(groups.neighbors[chosen].tolist())
    assert set((kinds == 2).nonzero()[:, 0].tolist()) == members
    assert set((kinds == 1).nonzero()[:, 0].tolist()) == set(groups.centers.tolist()) - members
    assert neighbors[7].tolist() == [cloud.marked, *groups.neighbors[chosen].tolist()]
    (small,) = find_screen(model, points, "a", details=False).clouds
    assert small.colorings[0].neighbors is None


@pytest.mark.parametrize(("layer", "shown"), [(1, 1), (None, 2)])
def test_of_neighbor_graphs_the_ranks_of_distances_and_the_nearest_of_every_point(layer, shown):
    model, points = make("dgcnn")
    screen = find_screen(model, points, "a", layer=layer)
    assert screen.side_by_side
    (cloud,) = screen.clouds
    features = model.forward_detailed(points[None]).edge_features[shown - 1][0]
    assert cloud.colorings[1].name == f"rank in the features of layer {shown}"
    assert cloud.marked == int((points - points.mean(0)).norm(dim=1).argmax())
    for coloring, space in zip(cloud.colorings, (points, features), strict=True):
        ranks, neighbors = torch.as_tensor(coloring.values), torch.as_tensor(coloring.neighbors)
        assert int(ranks[cloud.marked]) == 0
        assert (ranks.sort().values == torch.arange(60)).all()
        assert ((space - space[cloud.marked]).norm(dim=1)[ranks.argsort()].diff() >= 0).all()
        assert torch.equal(neighbors[:, 0], torch.arange(60))
        assert torch.equal(neighbors[:, 1:], k_nearest(space, 20))


def test_what_there_is_not_is_said():
    model, points = make("pointnet_vanilla")
    with pytest.raises(ValueError, match="looks at no single point"):
        find_screen(model, points, "a", point=1)
    model, points = make("dgcnn")
    with pytest.raises(ValueError, match="from 1 to 2, got 3"):
        find_screen(model, points, "a", layer=3)
