"""What a network looks at in a cloud, as panels of a picture: whatever kind of network it is."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor

from sharedmlp.models import (
    GroupingModel,
    MaxPooledModel,
    NeighborGraphModel,
    Neighborhoods,
    PointCloudModel,
)
from sharedmlp.viz.critical import find_critical_sets


class View(NamedTuple):
    """One panel of `plot_clouds`.

    Attributes:
        title: What stands above it, of two lines.
        points: `(M, 3)`.
        values: `(M,)`, what the points are colored by; NaN is gray. None colors by height.
        marked: The row of a point to draw large and red, or None.
    """

    title: str
    points: Tensor
    values: Tensor | None = None
    marked: int | None = None


@torch.no_grad()
def find_views(
    model: PointCloudModel, points: Tensor, *, point: int | None = None, layer: int | None = None
) -> list[View]:
    """Return two panels of what a network looks at in a cloud.

    Of a network with one max over the points (`MaxPooledModel`): its critical points and its
    upper-bound shape (`find_critical_sets`).

    Of one that groups the points (`GroupingModel`): the centers of its first level, and the ball
    around one of them, bright near the center.

    Of one that finds neighbors in its features (`NeighborGraphModel`): the points in the order of
    their distance from one of them, in space and in the features of a layer, the nearest bright
    (Wang et al. 2019, "Dynamic Graph CNN for Learning on Point Clouds", figure 4, which shows the
    distance itself).

    Args:
        model: The network, in evaluation mode.
        points: `(N, in_channels)`, prepared as the network's training data was.
        point: The row of the point that distances are measured from, or whose nearest center is
            shown; None takes the one that is farthest from the middle of the cloud.
        layer: The layer whose features are shown, from 1; None takes the last.

    Raises:
        ValueError: If the network is none of these or not in evaluation mode, if there is no such
            point or layer, if one is given that the network has no use for, or as
            `find_critical_sets`.
    """
    point = check_choice(model, points, point, layer)
    if isinstance(model, MaxPooledModel):
        return _critical_views(model, points)
    if isinstance(model, GroupingModel):
        return _group_views(model, points, point)
    assert isinstance(model, NeighborGraphModel)
    return _distance_views(*find_space(model, points, layer), points, point)


def check_choice(
    model: PointCloudModel, points: Tensor, point: int | None, layer: int | None
) -> int:
    """Return the point that is looked at: the one given, or the farthest from the middle.

    Raises:
        ValueError: As `find_views`, but for the layer's number.
    """
    if model.training:
        raise ValueError("expected a network in evaluation mode: call eval()")
    if layer is not None and not isinstance(model, NeighborGraphModel):
        raise ValueError(
            f"a {type(model).__name__} finds no neighbors in features: leave layer out"
        )
    if isinstance(model, MaxPooledModel):
        if point is not None:
            raise ValueError(f"a {type(model).__name__} looks at no single point: leave point out")
        return 0
    if not isinstance(model, GroupingModel | NeighborGraphModel):
        raise ValueError(
            f"a {type(model).__name__} cannot be shown: expected a network with the methods of "
            "MaxPooledModel, GroupingModel or NeighborGraphModel"
        )
    if point is None:
        return int((points[:, :3] - points[:, :3].mean(0)).norm(dim=1).argmax())
    if not 0 <= point < len(points):
        raise ValueError(f"point is a row of the cloud, from 0 to {len(points) - 1}, got {point}")
    return point


def find_space(model: NeighborGraphModel, points: Tensor, layer: int | None) -> tuple[Tensor, int]:
    """Return the features `(N, D)` after a layer, and the number of that layer, from 1.

    Raises:
        ValueError: If there is no such layer.
    """
    spaces = model.feature_spaces(cast(PointCloudModel, model).forward_detailed(points[None]))
    if layer is None:
        layer = len(spaces)
    if not 1 <= layer <= len(spaces):
        raise ValueError(f"layer is from 1 to {len(spaces)}, got {layer}")
    return spaces[layer - 1], layer


def nearest_center(groups: Neighborhoods, xyz: Tensor, point: int) -> int:
    """Return which of the neighborhoods has its center nearest to a point."""
    return int((xyz[groups.centers] - xyz[point]).norm(dim=1).argmin())


def _critical_views(model: PointCloudModel, points: Tensor) -> list[View]:
    sets = find_critical_sets(model, points)
    return [
        View(f"{len(sets.critical)} critical points\nof {len(points)}", sets.critical),
        View("upper-bound shape\n", sets.upper_bound),
    ]


def _group_views(model: GroupingModel, points: Tensor, point: int) -> list[View]:
    groups = model.neighborhoods(points)
    xyz = points[:, :3]
    rows = torch.unique(groups.centers)
    chosen = nearest_center(groups, xyz, point)
    center = int(groups.centers[chosen])
    members = torch.unique(groups.neighbors[chosen])
    values = torch.full_like(xyz[:, 0], torch.nan)
    values[members] = -(xyz[members] - xyz[center]).norm(dim=1)
    return [
        View(f"{len(rows)} centers\nof {len(points)} points", xyz[rows]),
        View(
            f"{len(members)} points around a center\nwithin {groups.radius:g}", xyz, values, center
        ),
    ]


def _distance_views(features: Tensor, layer: int, points: Tensor, point: int) -> list[View]:
    xyz = points[:, :3]
    return [
        View("near a point\nin space", xyz, _nearness(xyz, point), point),
        View(
            f"near a point\nin the features of layer {layer}",
            xyz,
            _nearness(features, point),
            point,
        ),
    ]


def _nearness(features: Tensor, point: int) -> Tensor:
    """Return how many points are farther from a point, or the same: `(N,)`.

    Not the distance: in deep layers a point is far from all others, which would have one color.
    """
    order = (features - features[point]).norm(dim=1).argsort(descending=True)
    return torch.empty_like(features[:, 0]).scatter_(
        0, order, torch.arange(len(order)).to(features)
    )
