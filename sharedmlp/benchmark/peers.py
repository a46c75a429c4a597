"""Networks of public packages as variants of the benchmark (`sharedmlp benchmark --peers`).

The packages are imported when a variant asks for them: each is optional.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from sharedmlp.benchmark.counts import plain_forward
from sharedmlp.benchmark.variants import Variant, network_builder


class PyGPointNet(nn.Module):
    """PointNet of PyG's `MLP` and `global_max_pool`, as its examples combine them.

    points (B, N, 3) -> logits (B, num_classes), feature transform (B, 64, 64).

    Args:
        num_classes: Number of classes.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.input_tnet = _PyGTNet(3)
        self.local = _pyg_mlp([3, 64, 64], plain_last=False)
        self.feature_tnet = _PyGTNet(64)
        self.convs = _pyg_mlp([64, 64, 128, 1024], plain_last=False)
        self.head = _pyg_mlp([1024, 512, 256, num_classes], dropout=[0.0, 0.3, 0.0])

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits and the feature transform."""
        num_clouds, num_points, _ = points.shape
        batch = cloud_of_each_point(num_clouds, num_points, points.device)
        x = _transform(points.flatten(0, 1), self.input_tnet(points.flatten(0, 1), batch))
        x = self.local(x)
        transform = self.feature_tnet(x, batch)
        x = self.convs(_transform(x, transform))
        return self.head(_global_max_pool()(x, batch, num_clouds)), transform


class _PyGTNet(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.convs = _pyg_mlp([channels, 64, 128, 1024], plain_last=False)
        self.head = _pyg_mlp([1024, 512, 256, channels * channels])
        last = self.head.lins[-1]
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, x: Tensor, batch: Tensor) -> Tensor:
        x = self.head(_global_max_pool()(self.convs(x), batch))
        x = x.view(-1, self.channels, self.channels)
        return x + torch.eye(self.channels, dtype=x.dtype, device=x.device)


class PyGDGCNN(nn.Module):
    """DGCNN of PyG's `DynamicEdgeConv` and `MLP`; points (B, N, 3) -> logits (B, num_classes).

    Args:
        num_classes: Number of classes.
        num_neighbors: Neighbors of a point, itself included.
    """

    def __init__(self, num_classes: int, num_neighbors: int = 20) -> None:
        super().__init__()
        make = import_module("torch_geometric.nn").DynamicEdgeConv
        leaky = {"act": "leaky_relu", "act_kwargs": {"negative_slope": 0.2}}
        self.convs = nn.ModuleList(
            make(_pyg_mlp([2 * width, out], plain_last=False, **leaky), num_neighbors, aggr="max")
            for width, out in ((3, 64), (64, 64), (64, 128), (128, 256))
        )
        self.embedding = _pyg_mlp([512, 1024], plain_last=False, **leaky)
        self.head = _pyg_mlp([2048, 512, 256, num_classes], dropout=[0.5, 0.5, 0.0], **leaky)

    def forward(self, points: Tensor) -> Tensor:
        """Return the logits."""
        num_clouds, num_points, _ = points.shape
        batch = cloud_of_each_point(num_clouds, num_points, points.device)
        x, features = points.flatten(0, 1), []
        for conv in self.convs:
            x = conv(x, batch)
            features.append(x)
        x = self.embedding(torch.cat(features, -1))
        mean = import_module("torch_geometric.nn").global_mean_pool(x, batch, num_clouds)
        logits: Tensor = self.head(torch.cat([_global_max_pool()(x, batch, num_clouds), mean], -1))
        return logits


class TorchPointCloudPointNet(nn.Module):
    """torch-pointcloud's classifier; (B, N, 3) -> logits, feature transform (B, 64, 64).

    Args:
        num_classes: Number of classes.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        make = import_module("torch_pointcloud.models.pointnet").PointNetClassification
        self.network = make(in_channels=0, num_classes=num_classes, dropout=0.3)

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits and the feature transform."""
        num_clouds, num_points, _ = points.shape
        batch = cloud_of_each_point(num_clouds, num_points, points.device)
        logits = self.network(None, points.flatten(0, 1), batch)
        return logits, self.network.encoder.ftnet.running_transform


class TorchPointCloudNetwork(nn.Module):
    """A classifier of torch-pointcloud's registry, without weights; (B, N, 3) -> logits.

    Args:
        num_classes: Number of classes.
        name: Its name there.
        num_neighbors: Neighbors of a point, where that is an option of the network.
    """

    def __init__(self, num_classes: int, name: str, num_neighbors: int | None = None) -> None:
        super().__init__()
        options = {} if num_neighbors is None else {"num_neighbors": num_neighbors}
        make = import_module("torch_pointcloud.models").create_model
        self.network = make(
            name, "classification", in_channels=0, num_classes=num_classes, **options
        )

    def forward(self, points: Tensor) -> Tensor:
        """Return the logits."""
        num_clouds, num_points, _ = points.shape
        batch = cloud_of_each_point(num_clouds, num_points, points.device)
        logits: Tensor = self.network(None, points.flatten(0, 1), batch)
        return logits


class PyPIPointNet(nn.Module):
    """The classifier of the package `pointnet`; (B, 3, N) -> logits, (B, 64, 64).

    Args:
        num_classes: Number of classes.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        package = import_module("pointnet")
        # Its default T-Net is one module shared by all instances of the class.
        self.network = package.PointNetCls(3, num_classes, stn_3d=package.STN(in_dim=3))
        self._transform: Tensor | None = None
        self.network.stn_nd.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self._transform = output

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits and the feature transform."""
        logits = self.network(points)
        assert self._transform is not None
        return logits, self._transform


def cloud_of_each_point(num_clouds: int, num_points: int, device: torch.device) -> Tensor:
    """Return (B * N,) int64, the cloud that each row of a flat batch belongs to."""
    return torch.arange(num_clouds, device=device).repeat_interleave(num_points)


def _pyg_mlp(channels: list[int], **options: Any) -> Any:
    return import_module("torch_geometric.nn").MLP(channels, **options)


def _global_max_pool() -> Callable[..., Tensor]:
    return import_module("torch_geometric.nn").global_max_pool  # type: ignore[no-any-return]


def _transform(x: Tensor, matrix: Tensor) -> Tensor:
    """Multiply the points (B * N, C) of each cloud by its matrix (B, C, C)."""
    return (x.view(len(matrix), -1, x.shape[-1]) @ matrix).flatten(0, 1)


def _torch_pointcloud_count(batch_size: int, num_points: int, num_classes: int) -> int:
    return plain_forward(
        batch_size, num_points, num_classes, local_channels=(64,), global_channels=(128, 1024)
    )


VARIANTS: dict[str, Variant] = {
    "pyg": Variant(
        "PyG: MLP, global_max_pool",
        "peer",
        network_builder(PyGPointNet, channels_first=False),
        modules=("torch_geometric.nn",),
    ),
    "torch_pointcloud": Variant(
        "torch-pointcloud: PointNetClassification",
        "peer",
        network_builder(TorchPointCloudPointNet, channels_first=False),
        modules=("torch_pointcloud.models.pointnet",),
        note="two narrow layers less than the paper has, and ReLU before batch norm",
        count=_torch_pointcloud_count,
    ),
    "pypi_pointnet": Variant(
        "PyPI pointnet: PointNetCls",
        "peer",
        network_builder(PyPIPointNet, channels_first=True),
        modules=("pointnet",),
        note="its last batch norm and activation (GELU) come after the max: in training it is "
        "another network, with other statistics and less to compute",
    ),
    "pyg_dgcnn": Variant(
        "PyG: DynamicEdgeConv, global_max_pool, global_mean_pool",
        "peer",
        network_builder(PyGDGCNN, channels_first=False),
        network="dgcnn",
        modules=("torch_geometric.nn", "torch_cluster"),
        count=None,
    ),
    **{
        f"torch_pointcloud_{network}": Variant(
            f"torch-pointcloud: {name}",
            "peer",
            network_builder(partial(TorchPointCloudNetwork, name=name), channels_first=False),
            network=network,
            modules=("torch_pointcloud.models", "torch_cluster"),
            count=None,
        )
        for network, name in {
            "dgcnn": "dgcnn.modelnet40-1024.an-tao",
            "pointnet2_ssg": "pointnet2-ssg.modelnet40.xu-yan",
            "pointnet2_msg": "pointnet2-msg.modelnet40.xu-yan",
        }.items()
    },
}
