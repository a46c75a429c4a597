"""What a trained network says of single files, from what the network itself knows of its data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sharedmlp.data import (
    MeshReadError,
    file_up_axis,
    normalize_points,
    read_cloud,
    turn_up_axis,
)
from sharedmlp.models import PointCloudModel
from sharedmlp.reports.answers import classify_clouds

# If a network does not say how many points its clouds had.
_NUM_POINTS = 1024
# If it does not say what a point has besides its coordinates.
_FEATURES = {3: (), 6: ("normals",)}
# As many clouds go through the network at once.
_BATCH_SIZE = 32


def read_network_cloud(
    model: PointCloudModel, path: str | Path, *, seed: int = 0, up_axis: str | None = None
) -> Tensor:
    """Read a file as the clouds are that a network was trained on.

    `model.metadata` says what they are: `num_points` (1024 if it does not say), and whether they
    are centered and scaled into the unit sphere (if it does not say, the coordinates stay as they
    are in the file).

    Args:
        model: The network; `metadata["features"]` names what a point has besides its
            coordinates. If it does not say, the last three of six channels are normals.
        path: A mesh or a file of points (`sharedmlp.data.read_cloud`).
        seed: Of the points that are drawn; the file's name plays no part.
        up_axis: The axis that points up in the file, to be turned to the network's
            `metadata["up_axis"]`; None turns nothing. glTF has y up whatever is given, and is
            turned if the network knows its up axis.

    Returns:
        `(N, in_channels)`, in the dtype of the network's parameters.

    Raises:
        MeshReadError: If the file cannot be read.
        ValueError: If the network takes more than three channels and does not say which, or does
            not know its up axis while one is given.
    """
    metadata = model.metadata
    features = metadata.get("features", _FEATURES.get(model.in_channels))
    if features is None:
        raise ValueError(
            "files give x, y, z and normals: expected a network of 3 or 6 channels, got "
            f"{model.in_channels}"
        )
    num_points = metadata.get("num_points", _NUM_POINTS)
    points = read_cloud(path, num_points, seed=seed, features=features)
    if up_axis is not None and "up_axis" not in metadata:
        raise ValueError(
            "the network does not know which axis points up in the clouds that it was trained "
            "on (metadata['up_axis']): leave the up axis of the files out"
        )
    target = metadata.get("up_axis")
    source = (file_up_axis(path) or up_axis) if target is not None else None
    if source is not None and target is not None:
        points = turn_up_axis(points, source, target, features=features)
    normalized = metadata.get("scale") == "unit sphere"
    cloud = torch.from_numpy(normalize_points(points) if normalized else points)
    return cloud.to(next(model.parameters()))


@dataclass(frozen=True)
class FileAnswer:
    """What a network says of a file.

    Attributes:
        probabilities: `(num_classes,)` on the CPU, at the temperature of the network.
        degrees: By how much the cloud was turned about the up axis before it was classified.
        num_points: How many points were drawn; a file of points may hold fewer than the network
            was trained on.
    """

    probabilities: Tensor
    degrees: float
    num_points: int


def predict_files(
    model: PointCloudModel,
    paths: Sequence[str | Path],
    *,
    seed: int = 0,
    up_axis: str | None = None,
    rotations: int = 1,
) -> Iterator[tuple[Path, Tensor | MeshReadError]]:
    """Classify files, a few at a time; one that cannot be read does not stop the others.

    Args:
        model: The network, in evaluation mode.
        paths: The files.
        seed: As of `read_network_cloud`.
        up_axis: As of `read_network_cloud`.
        rotations: In how many turns about the up axis each cloud is seen, of which the most
            confident answers: for objects that stand upright and face any way.

    Yields:
        Of each file, in their order, its path and either its probabilities `(num_classes,)`, on
        the CPU and at the temperature of the network, or why it cannot be read.

    Raises:
        ValueError: As `read_network_cloud`; or if `rotations` is below 1, or above 1 for a network
            that does not know its up axis.
    """
    answers = classify_files(model, paths, seed=seed, up_axis=up_axis, rotations=rotations)
    for path, answer in answers:
        yield path, answer.probabilities if isinstance(answer, FileAnswer) else answer


def classify_files(
    model: PointCloudModel,
    paths: Sequence[str | Path],
    *,
    seed: int = 0,
    up_axis: str | None = None,
    rotations: int = 1,
) -> Iterator[tuple[Path, FileAnswer | MeshReadError]]:
    """Classify files as `predict_files` does, and yield more of each than its probabilities.

    Args:
        model: As of `predict_files`.
        paths: As of `predict_files`.
        seed: As of `predict_files`.
        up_axis: As of `predict_files`.
        rotations: As of `predict_files`.

    Raises:
        ValueError: As `predict_files`.
    """
    if rotations > 1 and "up_axis" not in model.metadata:
        raise ValueError(
            "the network does not know which axis points up in the clouds that it was trained on "
            "(metadata['up_axis']), so that they cannot be turned about it: leave rotations out"
        )
    turns: dict[str, Any] = {
        "rotations": rotations,
        "up_axis": model.metadata.get("up_axis", "z"),
        "features": model.metadata.get("features", _FEATURES.get(model.in_channels, ())),
    }
    for start in range(0, len(paths), _BATCH_SIZE):
        some = [Path(path) for path in paths[start : start + _BATCH_SIZE]]
        clouds: dict[int, Tensor] = {}
        answers: dict[int, FileAnswer | MeshReadError] = {}
        for place, path in enumerate(some):
            try:
                clouds[place] = read_network_cloud(model, path, seed=seed, up_axis=up_axis)
            except MeshReadError as error:
                answers[place] = error
        # Files of points may hold fewer than the others: one batch for each number of points.
        for size in {len(cloud) for cloud in clouds.values()}:
            places = [place for place, cloud in clouds.items() if len(cloud) == size]
            with torch.no_grad():
                batch = torch.stack([clouds[place] for place in places])
                found = classify_clouds(model, batch, model.metadata, **turns)
            for place, probabilities, degrees in zip(
                places, found.probabilities.cpu(), found.degrees.tolist(), strict=True
            ):
                answers[place] = FileAnswer(probabilities, degrees, size)
        for place, path in enumerate(some):
            yield path, answers[place]
