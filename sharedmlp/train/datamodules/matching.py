"""Clouds of an evaluation as the network was trained on them, or an error."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from sharedmlp.data import DataError, PointCloudStore, are_normalized, match_preprocessing

if TYPE_CHECKING:
    from sharedmlp.train.datamodules.base import PointCloudDataModule


def match_clouds(data: PointCloudDataModule, trained: Mapping[str, Any]) -> list[str]:
    """Make validation and test clouds of a data module like those that a network was trained on.

    They are turned to the network's up axis, and centered and scaled if its clouds were;
    called after `setup` of the data.

    Args:
        data: The data module.
        trained: The `preprocessing` of the network's data; what it does not say is not looked
            at.

    Returns:
        What is done to the clouds, or is different and stays so, a sentence each.

    Raises:
        DataError: If the network was trained on other features.
    """
    if trained.get("features", list(data.features)) != list(data.features):
        raise DataError(
            f"the network was trained on the features {trained['features']}, and the data "
            f"gives {list(data.features)}: add --data.features {trained['features']}"
        )
    told: list[str] = []
    up_axis = trained.get("up_axis", data.up_axis)
    if up_axis != data.up_axis:
        told.append(
            f"the clouds have {data.up_axis} up and the network was trained with {up_axis} up: "
            "they are turned"
        )
        data.preprocessing["up_axis"] = up_axis
    for name in {"val", "test"} & data.datasets.keys():
        dataset = data.datasets[name]
        normalized = seem_normalized(dataset.pool)
        normalize = trained.get("scale") == "unit sphere" and not normalized
        if normalize:
            told.append(
                f"the {name} clouds are not centered and scaled as those that the network was "
                "trained on: each is centered on its mean and scaled into the unit sphere"
            )
        elif normalized and "num_points" in trained and "scale" not in trained:
            told.append(
                f"the {name} clouds are centered and scaled, and those that the network was "
                "trained on were not: they stay so, and it may be wrong about them"
            )
        if normalize or up_axis != data.up_axis:
            dataset.transform = partial(
                match_preprocessing,
                source_up=data.up_axis,
                target_up=up_axis,
                features=data.features,
                normalize=normalize,
            )
    return told


def seem_normalized(pool: PointCloudStore) -> bool:
    """Return whether some clouds of a store, or all if there are few, are normalized."""
    return are_normalized(pool.points[:: max(1, len(pool) // 256)])
