"""From clouds to a classifier's answers: at its temperature, of the most confident turn."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sharedmlp.data import rotate_about_up
from sharedmlp.reports.calibration import calibrated_probabilities

# As many clouds go through the network at once, whatever the number of turns.
_BATCH_SIZE = 32


class Answers(NamedTuple):
    """What a classifier says of clouds.

    Attributes:
        probabilities: `(B, num_classes)`, at the temperature of the network.
        degrees: `(B,)`, by how much each cloud was turned about the up axis before it was
            classified, counterclockwise seen from above.
    """

    probabilities: Tensor
    degrees: Tensor


def classify_clouds(
    forward: Callable[[Tensor], Tensor],
    points: Tensor,
    metadata: Mapping[str, Any],
    *,
    rotations: int = 1,
    up_axis: str = "z",
    features: Sequence[str] = (),
) -> Answers:
    """Classify clouds, each in several turns about the up axis, of which the most confident counts.

    A network that was trained on objects which all face one way so finds that way itself. Its
    largest probability is then the largest of several, and on average above its accuracy.

    Args:
        forward: The network: points `(B, N, C)` to logits `(B, num_classes)`.
        points: `(B, N, C)`.
        metadata: Of the network; its `temperature` counts.
        rotations: The number of turns, at equal angles; 1 leaves the clouds as they are. Of equally
            confident turns the one by the smallest angle counts.
        up_axis: The axis that points up in the clouds: "x", "y" or "z".
        features: What a point has besides its coordinates (`read_cloud`); normals turn too.

    Raises:
        ValueError: If there is no turn.
    """
    if rotations < 1:
        raise ValueError(f"rotations is at least 1, the cloud as it is, got {rotations}")
    count = len(points)
    degrees = torch.arange(rotations, dtype=torch.float64) * 360 / rotations
    if rotations == 1:
        probabilities = calibrated_probabilities(forward(points), metadata)
        return Answers(probabilities, degrees.expand(count))
    angles = (degrees * math.pi / 180).repeat_interleave(count).to(points)
    turned = rotate_about_up(points.repeat(rotations, 1, 1), angles, up_axis, features)
    turned[:count] = points  # not even rounded
    logits = torch.cat([forward(part) for part in torch.split(turned, max(count, _BATCH_SIZE))])
    probabilities = calibrated_probabilities(logits, metadata).view(rotations, count, -1)
    best = probabilities.amax(dim=2).argmax(dim=0)
    rows = torch.arange(count, device=best.device)
    return Answers(probabilities[best, rows], degrees[best.cpu()])
