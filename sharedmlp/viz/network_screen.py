"""What a network looks at in a cloud, as a screen of the page: whatever kind of network it is."""

from __future__ import annotations

import torch
from torch import Tensor

from sharedmlp.models import GroupingModel, MaxPooledModel, NeighborGraphModel, PointCloudModel
from sharedmlp.neighbors import k_nearest
from sharedmlp.viz.critical import find_critical_points, find_critical_sets
from sharedmlp.viz.screens import ColoredCloud, Coloring, Outline, Screen
from sharedmlp.viz.views import check_choice, find_space, nearest_center

_NUM_NEIGHBORS = 20  # of a chosen point, as DGCNN has in its paper


@torch.no_grad()
def find_screen(
    model: PointCloudModel,
    points: Tensor,
    title: str,
    *,
    point: int | None = None,
    layer: int | None = None,
    details: bool = True,
) -> Screen:
    """Return what a network looks at in a cloud, as one screen of `screens_page`.

    Of a network with one max over the points (`MaxPooledModel`): its critical points over the faint
    cloud, within the upper-bound shape (`find_critical_sets`), and how many channels each won.

    Of one that groups the points (`GroupingModel`): the centers of its first level and the ball
    around one of them; around the center nearest to a point that is chosen on the page.

    Of one that finds neighbors in its features (`NeighborGraphModel`): how many points are nearer
    to one of them, in space and in the features of a layer; on the page, the nearest 20 of a point
    that is chosen.

    Args:
        model: As of `find_views`.
        points: As of `find_views`.
        title: What stands above it, in lines.
        point: As of `find_views`.
        layer: As of `find_views`.
        details: Whether the screen has the upper-bound shape, of which the surface is kept, and the
            neighborhoods of all points: about 50 and 100 KB of a page, and most of the time.

    Raises:
        ValueError: As `find_views`.
    """
    point = check_choice(model, points, point, layer)
    if isinstance(model, MaxPooledModel):
        return Screen(title, [_critical_cloud(model, points, details)], side_by_side=False)
    if isinstance(model, GroupingModel):
        return Screen(title, [_grouped_cloud(model, points, point, details)])
    assert isinstance(model, NeighborGraphModel)
    features, layer = find_space(model, points, layer)
    xyz = points[:, :3]
    colorings = [
        _rank_coloring("rank in space", xyz, point, details),
        _rank_coloring(f"rank in the features of layer {layer}", features, point, details),
    ]
    return Screen(title, [ColoredCloud(xyz, colorings=colorings, marked=point)])


def _critical_cloud(model: PointCloudModel, points: Tensor, details: bool) -> ColoredCloud:
    rows, channels = find_critical_points(model, points)
    is_critical = torch.zeros(len(points), dtype=torch.int64)
    is_critical[rows] = 1
    won = torch.full((len(points),), torch.nan)
    won[rows] = channels.to(won)
    outline = None
    if details:
        sets = find_critical_sets(model, points)
        surface = sets.upper_bound[_on_surface(sets.upper_bound, sets.spacing)]
        outline = Outline("upper-bound shape", surface, sets.spacing)
    names = ("not critical", "critical")
    colorings = [
        Coloring("critical points", is_critical, names, background=[0]),
        Coloring("channels won", won),
    ]
    return ColoredCloud(points, colorings=colorings, outline=outline)


def _on_surface(points: Tensor, spacing: float) -> Tensor:
    """Return which points of a grid lack a neighbor along an axis, `(M,)` bool."""
    if not len(points):
        return torch.zeros(0, dtype=torch.bool)
    places = ((points - points.amin(0)) / spacing).round().long() + 1
    filled = torch.zeros((int(places.max()) + 2,) * 3, dtype=torch.bool)
    filled[tuple(places.T)] = True
    inner = filled.clone()
    for axis in range(3):
        for step in (1, -1):
            inner &= filled.roll(step, axis)
    return ~inner[tuple(places.T)]


def _grouped_cloud(model: GroupingModel, points: Tensor, point: int, details: bool) -> ColoredCloud:
    groups = model.neighborhoods(points)
    xyz = points[:, :3]
    chosen = nearest_center(groups, xyz, point)
    kinds = torch.zeros(len(points), dtype=torch.int64)
    kinds[groups.centers] = 1
    kinds[groups.neighbors[chosen]] = 2
    names = ("not a center", "center", "in the ball around the marked center")
    neighbors = None
    if details:
        nearest = k_nearest(xyz[groups.centers], 1, xyz)[:, 0]
        neighbors = torch.cat([groups.centers[:, None], groups.neighbors], dim=1)[nearest]
    name = f"first level, radius {groups.radius:g}"
    coloring = Coloring(name, kinds, names, background=[0], neighbors=neighbors)
    return ColoredCloud(xyz, colorings=[coloring], marked=int(groups.centers[chosen]))


def _rank_coloring(name: str, features: Tensor, point: int, details: bool) -> Coloring:
    """Color by how many points are nearer to a point.

    Not by the distance: in deep layers a point is far from all others, which would have one color.
    """
    order = (features - features[point]).norm(dim=1).argsort(stable=True)
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(len(order))
    neighbors = None
    if details:
        rows = torch.arange(len(features))[:, None]
        neighbors = torch.cat([rows, k_nearest(features, _NUM_NEIGHBORS)], dim=1)
    return Coloring(name, ranks, reverse=True, neighbors=neighbors)
