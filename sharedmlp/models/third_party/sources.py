"""The table of the PointNets that others wrote: where each keeps what, and which network it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Source:
    """One repository's PointNet classifier.

    Their pointwise layers are `nn.Conv1d` with weights `(O, I, 1)`, those of the heads
    `nn.Linear`.

    Attributes:
        name: The value of the `source` argument.
        origin: Repository, file and class.
        layers: A layer here -> their linear map and their batch norm, None if there is none.
        architecture: The options of `ThirdPartyPointNet` that make this network, by default.
        variants: Further options, between which their code lets one choose.
        any_width: Whether their code lets one choose the width of the global feature.
    """

    name: str
    origin: str
    layers: dict[str, tuple[str, str | None]]
    architecture: dict[str, Any]
    variants: tuple[dict[str, Any], ...] = ({},)
    any_width: bool = False


def _tnet(ours: str, theirs: str) -> dict[str, tuple[str, str | None]]:
    return {
        f"{ours}.pool.layers.0": (f"{theirs}.conv1", f"{theirs}.bn1"),
        f"{ours}.pool.layers.1": (f"{theirs}.conv2", f"{theirs}.bn2"),
        f"{ours}.pool.layers.2": (f"{theirs}.conv3", f"{theirs}.bn3"),
        f"{ours}.head.layers.0": (f"{theirs}.fc1", f"{theirs}.bn4"),
        f"{ours}.head.layers.1": (f"{theirs}.fc2", f"{theirs}.bn5"),
        f"{ours}.head.layers.2": (f"{theirs}.fc3", None),
    }


# yanx27 took this layout over from fxia22.
_WITH_TNETS: dict[str, tuple[str, str | None]] = {
    **_tnet("input_tnet", "feat.stn"),
    **_tnet("feature_tnet", "feat.fstn"),
    "local_mlp.layers.0": ("feat.conv1", "feat.bn1"),
    "global_pool.layers.0": ("feat.conv2", "feat.bn2"),
    "global_pool.layers.1": ("feat.conv3", "feat.bn3"),
    "head.layers.0": ("fc1", "bn1"),
    "head.layers.1": ("fc2", "bn2"),
    "head.layers.2": ("fc3", None),
}
_WITH_TNETS_ARCHITECTURE: dict[str, Any] = {
    "in_channels": 3,
    "transforms": True,
    "local_channels": (64,),
    "global_channels": (128, 1024),
    "head_channels": (512, 256),
    "tnet_channels": 3,
    "tnet_adds_identity": True,
    "bias_before_norm": True,
    "point_norm": True,
    "activation_before_max": False,
    "dropout_before_norm": True,
}
_WITHOUT_TNETS_ARCHITECTURE: dict[str, Any] = {
    "in_channels": 3,
    "transforms": False,
    "local_channels": (64, 64),
    "global_channels": (64, 128, 1024),
    "tnet_channels": 3,
    "tnet_adds_identity": False,
    "point_norm": True,
    "activation_before_max": True,
    "dropout_before_norm": False,
}

# In the order of preference: with three channels and both T-Nets, the keys of yanx27 and fxia22 are
# the same, and the dropout rate is the only difference of the networks.
SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        Source(
            name="yanx27",
            origin="yanx27/Pointnet_Pointnet2_pytorch, models/pointnet_cls.py, get_model",
            layers=_WITH_TNETS,
            architecture={**_WITH_TNETS_ARCHITECTURE, "dropout": (0.0, 0.4)},
            variants=(
                {"in_channels": 3, "tnet_channels": 3},
                {"in_channels": 6, "tnet_channels": 6},  # normal_channel=True
            ),
        ),
        Source(
            name="fxia22",
            origin="fxia22/pointnet.pytorch, pointnet/model.py, PointNetCls",
            layers=_WITH_TNETS,
            architecture={**_WITH_TNETS_ARCHITECTURE, "dropout": (0.0, 0.3)},
            variants=({"transforms": True}, {"transforms": "input"}),  # feature_transform
        ),
        Source(
            name="learning3d",
            origin="vinits5/learning3d, models/classifier.py, Classifier of a PointNet",
            layers={
                "local_mlp.layers.0": ("feature_model.conv1", "feature_model.bn1"),
                "local_mlp.layers.1": ("feature_model.conv2", "feature_model.bn2"),
                "global_pool.layers.0": ("feature_model.conv3", "feature_model.bn3"),
                "global_pool.layers.1": ("feature_model.conv4", "feature_model.bn4"),
                "global_pool.layers.2": ("feature_model.conv5", "feature_model.bn5"),
                "head.layers.0": ("linear1", "bn1"),
                "head.layers.1": ("linear2", "bn2"),
                "head.layers.2": ("linear3", None),
            },
            architecture={
                **_WITHOUT_TNETS_ARCHITECTURE,
                "head_channels": (512, 256),
                "bias_before_norm": True,
                "dropout": (0.7, 0.7),
            },
            variants=({"point_norm": True}, {"point_norm": False}),  # use_bn
            any_width=True,  # emb_dims
        ),
        Source(
            name="antao97",
            origin="antao97/dgcnn.pytorch, model.py, PointNet",
            layers={
                "local_mlp.layers.0": ("conv1", "bn1"),
                "local_mlp.layers.1": ("conv2", "bn2"),
                "global_pool.layers.0": ("conv3", "bn3"),
                "global_pool.layers.1": ("conv4", "bn4"),
                "global_pool.layers.2": ("conv5", "bn5"),
                "head.layers.0": ("linear1", "bn6"),
                "head.layers.1": ("linear2", None),
            },
            architecture={
                **_WITHOUT_TNETS_ARCHITECTURE,
                "head_channels": (512,),
                "bias_before_norm": False,
                "dropout": (0.5,),
            },
            any_width=True,  # args.emb_dims
        ),
    )
}
