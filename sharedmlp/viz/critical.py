"""Which points of a cloud a network looks at, and which points it would not have noticed."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from sharedmlp.models import MaxPooledModel, PointCloudModel

# Points that pass through the network at once: 32 MiB of 1024 channels in float32.
_CHUNK = 8192
# A cloud's own points reach its maxima, and another batch rounds their features otherwise.
_ROUNDING = 1e-5


class CriticalPoints(NamedTuple):
    """The points of a cloud that won a channel of the max.

    Attributes:
        rows: `(K,)` int64, ascending; at most as many as the global feature has channels. Channels
            that ReLU makes zero at all points have no winner.
        channels: `(K,)` int64, how many channels each wins.
    """

    rows: Tensor
    channels: Tensor


class CriticalSets(NamedTuple):
    """The two sets between which a network cannot tell clouds apart.

    Attributes:
        critical: `(K, 3)`, the points of the cloud that won a channel of the max, in the order of
            the cloud.
        upper_bound: `(M, 3)`, the points of a grid that win none.
        spacing: Of the grid, in the units of the points.
    """

    critical: Tensor
    upper_bound: Tensor
    spacing: float


@torch.no_grad()
def find_critical_points(model: PointCloudModel, points: Tensor) -> CriticalPoints:
    """Find the critical points of a cloud, and how many channels of the max each of them wins.

    Source: Qi et al. 2017, "PointNet", section 5.3, figure 7.

    Args:
        model: As of `find_critical_sets`.
        points: `(N, 3)`, prepared as the network's training data was.

    Raises:
        ValueError: As `find_critical_sets`.
    """
    checked = _check_model(model)
    output: Any = model.forward_detailed(points[None])
    rows = checked.critical_points(output)
    winners = checked.point_features(points[rows], output).argmax(dim=0)
    # A maximum of zero is ReLU's: all points reach it, and none wins.
    channels = winners[output.global_feature[0] != 0].bincount(minlength=len(rows))
    # Of two that are equal but for rounding, the other may win here; both are critical.
    return CriticalPoints(rows, channels.clamp(min=1))


@torch.no_grad()
def find_critical_sets(
    model: PointCloudModel, points: Tensor, resolution: int = 64
) -> CriticalSets:
    """Find the critical points of a cloud and its upper-bound shape.

    Every cloud that contains the critical points and lies within the upper-bound shape has the same
    global feature, and so the same logits.

    Source: Qi et al. 2017, "PointNet", section 4.3, theorem 2, and section 5.3, figure 7: the
    upper-bound shape is all points of a cube of edge length 2 whose features nowhere exceed the
    global feature. Of a network with T-Nets, the grid is turned as the cloud itself is, by the
    transforms that the T-Nets predict for the cloud: the theorem then holds for the layers after
    them. Deviation: the cube is as large as the cloud, edge length 2 for clouds in the unit sphere.

    Time grows with the cube of `resolution`; memory does not, but for the points that are found.

    Args:
        model: A network of coordinates alone whose global feature is one max over the points
            (`MaxPooledModel`), such as `PointNet`, in evaluation mode.
        points: `(N, 3)`, prepared as the network's training data was.
        resolution: Points of the grid along each edge of the cube.

    Raises:
        ValueError: If the network takes more than coordinates, is in training mode, or has no such
            max.
    """
    checked = _check_model(model)
    output: Any = model.forward_detailed(points[None])
    limit = output.global_feature + _ROUNDING * output.global_feature.abs().max()
    radius = points.norm(dim=1).max()
    edge = torch.linspace(-1.0, 1.0, resolution, dtype=points.dtype, device=points.device) * radius
    layer = torch.cartesian_prod(edge, edge)
    found = []
    for x in edge:
        for part in torch.split(layer, _CHUNK):
            grid = torch.cat([x.expand(len(part), 1), part], dim=1)
            inside = (checked.point_features(grid, output) <= limit).all(dim=1)
            found.append(grid[inside])
    spacing = 2 * float(radius) / max(resolution - 1, 1)
    return CriticalSets(points[checked.critical_points(output)], torch.cat(found), spacing)


def _check_model(model: PointCloudModel) -> MaxPooledModel:
    if model.in_channels != 3 or model.training:
        raise ValueError(
            "the upper-bound shape is one of x, y and z: expected a network with in_channels=3 in "
            f"evaluation mode, got in_channels={model.in_channels} and "
            f"training={model.training}: call eval(), or train on coordinates alone"
        )
    if not isinstance(model, MaxPooledModel):
        raise ValueError(
            f"a {type(model).__name__} has no critical points: expected a network whose global "
            "feature is one max over the points, with the methods of MaxPooledModel"
        )
    return model
