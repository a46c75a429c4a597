"""Networks for segmentation: against bare matrices, loops over points, and copies of features."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from sharedmlp import create_model, list_models
from sharedmlp.models import PointCloudModel, load_safetensors, save_safetensors
from tests.covering import pairwise
from tests.formula import randomize, scale_of
from tests.layers.neighborhoods import plain_ball, plain_centers, plain_interpolation
from tests.tolerances import assert_close

BACKENDS = ["linear", "conv1d", "conv2d"]
_LEVELS = (
    {"num_centers": 7, "radius": 0.9, "num_neighbors": 5, "channels": [6, 8]},
    {"num_centers": 4, "radius": 1.5, "num_neighbors": 3, "channels": [9, 10]},
)
_SCALES = (
    {
        "num_centers": 6,
        "radius": [0.6, 1.2],
        "num_neighbors": [3, 5],
        "channels": [[6, 8], [7, 9, 11]],
    },
)
_POINTNET = {"local_channels": (6, 8), "global_channels": (9, 16), "point_channels": (12, 7)}
SMALL: dict[str, dict[str, Any]] = {
    "pointnet": _POINTNET,
    "pointnet_vanilla": _POINTNET,
    "pointnet_part": {**_POINTNET, "num_categories": 3},
    "pointnet2_ssg": {
        "levels": _LEVELS,
        "global_channels": (12, 13),
        "propagation_channels": ((11,), (10, 9), (8, 7)),
    },
    "pointnet2_msg": {
        "levels": _SCALES,
        "global_channels": (24,),
        "propagation_channels": ((11,), (8, 7)),
        "num_categories": 3,
    },
    "pointnet2_ssg_scene": {"levels": _LEVELS, "propagation_channels": ((10, 9), (8, 7))},
    "dgcnn": {
        "k": 4,
        "edge_channels": ((6, 7), (8,)),
        "embedding_channels": 24,
        "point_channels": (9, 7),
    },
    "dgcnn_part": {
        "k": 4,
        "edge_channels": ((6, 7), (8,)),
        "embedding_channels": 24,
        "num_categories": 3,
        "category_channels": 5,
        "point_channels": (9, 7),
        "dropout": 0.0,
    },
}
# Their T-Nets are tested elsewhere.
PLAIN = sorted(SMALL.keys() - {"pointnet", "pointnet_part"})


def make(name, num_classes=5, in_channels=3, **options) -> Any:
    torch.manual_seed(0)
    options = {**SMALL[name], "dropout": 0.0, **options}
    model = create_model(name, num_classes, in_channels, task="segmentation", **options)
    randomize(model)
    return model.double()


def random(*shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def inputs(name, num_clouds=3, num_points=11, in_channels=3):
    points = random(num_clouds, num_points, in_channels)
    if "num_categories" not in SMALL[name]:
        return (points,)
    return points, torch.arange(num_clouds) % 3


class Plain:
    """The networks by bare matrices, with copies of a model's parameters and statistics."""

    def __init__(self, model):
        self.model = model
        self.training = model.training
        self.parameters = {}
        for name, value in model.named_parameters():
            copy = value.detach().clone()
            copy = copy.reshape(copy.shape[:2]) if copy.ndim > 1 else copy
            self.parameters[name] = copy.requires_grad_()
        self.buffers = {name: value.clone() for name, value in model.named_buffers()}

    def __call__(self, points, categories=None):
        one_hot = None
        if categories is not None:
            one_hot = torch.eye(3, dtype=points.dtype)[categories]
        family = type(self.model).__name__
        y = {
            "PointNetSegmenter": self.pointnet,
            "PointNet2Segmenter": self.pointnet2,
            "DGCNNSegmenter": self.dgcnn,
        }[family](points, one_hot)
        weight, bias = (self.parameters[f"head.layers.0.linear.{x}"] for x in ("weight", "bias"))
        return y @ weight.T + bias

    def pointnet(self, points, one_hot):
        local = self.mlp(points, "local_mlp", 0.0)
        of_cloud = self.mlp(local, "global_pool", 0.0).max(1).values
        return self.mlp(beside(local, of_cloud, one_hot), "point_mlp", 0.0)

    def dgcnn(self, points, one_hot):
        x, outputs = points, []
        for number, edge_conv in enumerate(self.model.edge_convs):
            where = x.detach() if number else x.detach()[..., :3]
            distances = (where[:, :, None] - where[:, None]).square().sum(-1)
            neighbors = distances.sort(-1).indices[..., : edge_conv.k]
            ends = x[:, :, None].repeat(1, 1, edge_conv.k, 1)
            gathered = torch.stack([x[i][neighbors[i]] for i in range(len(x))])
            edges = torch.cat([gathered - ends, ends], -1)
            x = self.mlp(edges, f"edge_convs.{number}.pool", 0.2).max(2).values
            outputs.append(x)
        local = torch.cat(outputs, -1)
        of_cloud = self.mlp(local, "embedding", 0.2).max(1).values
        if one_hot is not None:
            one_hot = self.mlp(one_hot, "category_mlp", 0.2)
        return self.mlp(beside(local, of_cloud, one_hot), "point_mlp", 0.2)

    def pointnet2(self, points, one_hot):
        of_points = points if one_hot is None else beside(points, one_hot)
        known = [(points[..., :3], of_points)]
        centers, features = points[..., :3], points[..., 3:]
        for number, level in enumerate(self.model.levels):
            centers, features = self.abstract(level, f"levels.{number}", centers, features)
            known.append((centers, features))
        number = 0
        if self.model.global_pool is not None:
            rows = torch.cat([centers, features], -1)
            of_cloud = self.mlp(rows, "global_pool.pools.0", 0.0).max(1).values
            features = self.mlp(beside(features, of_cloud), "propagations.0", 0.0)
            number = 1
        for wanted, before in known[-2::-1]:
            rows = plain_interpolation(wanted.detach(), centers.detach(), features)
            rows = torch.cat([rows, before], -1)
            features = self.mlp(rows, f"propagations.{number}.mlp", 0.0)
            centers = wanted
            number += 1
        return features

    def abstract(self, level, key, points, features):
        samples = [plain_centers(cloud.detach(), level.num_centers) for cloud in points]
        centers = torch.stack([cloud[rows] for cloud, rows in zip(points, samples, strict=True)])
        scales = []
        for scale, (radius, k) in enumerate(zip(level.radii, level.num_neighbors, strict=True)):
            groups = []
            for b, cloud in enumerate(points):
                for center in centers[b]:
                    for row in plain_ball(cloud.detach(), center.detach(), radius, k):
                        groups.append(torch.cat([cloud[row] - center, features[b, row]]))
            y = self.mlp(torch.stack(groups), f"{key}.pools.{scale}", 0.0)
            scales.append(y.reshape(*centers.shape[:2], k, -1).max(2).values)
        return centers, torch.cat(scales, -1)

    def mlp(self, x, prefix, slope):
        number = 0
        while f"{prefix}.layers.{number}.linear.weight" in self.parameters:
            x = self.layer(x, f"{prefix}.layers.{number}", slope)
            number += 1
        assert number
        return x

    def layer(self, x, key, slope):
        y = x @ self.parameters[f"{key}.linear.weight"].T
        positions = tuple(range(y.ndim - 1))
        mean, variance = (self.buffers[f"{key}.norm.running_{name}"] for name in ("mean", "var"))
        if self.training:
            count = y[..., 0].numel()
            batch_mean = y.mean(positions)
            batch_variance = ((y - batch_mean) ** 2).mean(positions)
            mean.mul_(0.9).add_(0.1 * batch_mean.detach())
            variance.mul_(0.9).add_(0.1 * batch_variance.detach() * count / (count - 1))
            self.buffers[f"{key}.norm.num_batches_tracked"] += 1
            mean, variance = batch_mean, batch_variance
        y = (y - mean) / (variance + 1e-5) ** 0.5
        y = y * self.parameters[f"{key}.norm.weight"] + self.parameters[f"{key}.norm.bias"]
        return torch.where(y > 0, y, slope * y)


def beside(local, *of_cloud):
    """Return local features with a copy of those of the cloud beside each."""
    copies = [x[:, None].repeat(1, local.shape[1], 1) for x in of_cloud if x is not None]
    return torch.cat([local, *copies], -1)


def compare(model, name, want_of, in_channels):
    given = inputs(name, in_channels=in_channels)
    leaf, plain = (given[0].clone().requires_grad_() for _ in range(2))
    got, want = model(leaf, *given[1:]), want_of(plain, *given[1:])
    assert got.shape == (3, 11, 5)
    assert_close(got.detach(), want.detach(), kind="fused")
    direction = random(*want.shape, seed=2)
    (got * direction).sum().backward()
    (want * direction).sum().backward()
    assert_close(leaf.grad, plain.grad, kind="fused", scale=scale_of(plain.grad), name="points")


def compare_state(model, parameters, buffers):
    gradients = {name: parameter.grad for name, parameter in parameters.items()}
    scale = max(map(scale_of, gradients.values()))
    for name, parameter in model.named_parameters():
        found = parameter.grad.view_as(gradients[name])
        assert_close(found, gradients[name], kind="fused", scale=scale, name=name)
    for name, buffer in model.named_buffers():
        assert_close(buffer, buffers[name], kind="fused", name=name)


@pairwise(
    name=PLAIN,
    backend=BACKENDS,
    fused=[True, "auto", False],
    in_channels=[3, 6],
    training=[True, False],
)
def test_the_numbers_are_those_of_the_formula(name, backend, fused, in_channels, training):
    if fused is True and name == "dgcnn" and not training:
        fused = "auto"  # an edge convolution of two layers has nothing to fuse then
    model = make(name, in_channels=in_channels, backend=backend, fused=fused).train(training)
    plain = Plain(model)
    compare(model, name, plain, in_channels)
    compare_state(model, plain.parameters, plain.buffers)


@pairwise(name=["pointnet", "pointnet_part"], backend=BACKENDS, training=[True, False])
def test_with_t_nets_the_numbers_are_those_of_the_plain_layers(name, backend, training):
    model = make(name, in_channels=4, backend=backend).train(training)
    plain = make(name, in_channels=4, fused=False).train(training)
    compare(model, name, plain, 4)
    compare_state(model, dict(plain.named_parameters()), dict(plain.named_buffers()))


def test_their_names_and_tags():
    assert list_models(task="segmentation") == sorted(SMALL)
    assert list_models(task="segmentation", tag="parts") == ["dgcnn_part", "pointnet_part"]


def test_the_widths_are_the_papers():
    pointnet: Any = create_model("pointnet", 13, task="segmentation")
    assert pointnet.point_mlp.channels == (1088, 512, 256, 128, 128)
    part: Any = create_model("pointnet_part", 50, task="segmentation", num_categories=16)
    assert part.point_mlp.channels == (4944, 256, 256, 128)
    dgcnn: Any = create_model("dgcnn", 13, 9, task="segmentation")
    assert dgcnn.point_mlp.channels == (192 + 1024, 512, 256)
    dgcnn = create_model("dgcnn_part", 50, task="segmentation", num_categories=16)
    assert dgcnn.point_mlp.channels == (192 + 1024 + 64, 256, 256, 128)
    ssg: Any = create_model("pointnet2_ssg", 50, 6, task="segmentation")
    assert [layer.in_channels for layer in ssg.propagations] == [1024 + 256, 256 + 128, 128 + 6]
    msg: Any = create_model("pointnet2_msg", 50, 6, task="segmentation", num_categories=16)
    assert [layer.in_channels for layer in msg.propagations] == [1536, 576, 128 + 6 + 16]
    scene: Any = create_model("pointnet2_ssg_scene", 13, 9, task="segmentation")
    assert [layer.in_channels for layer in scene.propagations] == [768, 384, 320, 128 + 9]


@pytest.mark.parametrize("name", SMALL)
def test_a_file_makes_the_network_again_on_any_backend(name, tmp_path):
    model = make(name).eval()
    model.metadata = {"class_names": ["a", "b", "c", "d", "e"]}
    save_safetensors(model, tmp_path / "model.safetensors")
    for backend in BACKENDS:
        again = load_safetensors(tmp_path / "model.safetensors", backend=backend).double()
        assert type(again) is type(model)
        assert again.metadata == model.metadata
        assert_close(again(*inputs(name)), model(*inputs(name)), kind="fused")


@pytest.mark.parametrize("name", SMALL)
def test_without_a_head_and_with_a_new_one(name):
    model = make(name).eval()
    features = model.forward_features(*inputs(name))
    assert features.shape == (3, 11, model.num_features)
    model.reset_classifier(2)
    assert model(*inputs(name)).shape == (3, 11, 2)
    assert_close(model.forward_features(*inputs(name)), features)
    model.reset_classifier(0)
    assert_close(model(*inputs(name)), features)
    assert make(name, num_classes=0).eval()(*inputs(name)).shape == features.shape


@pytest.mark.parametrize("name", ["pointnet", "pointnet_vanilla", "pointnet2_ssg"])
def test_the_classifiers_weights_fit_the_layers_of_the_same_name(name):
    options = {k: v for k, v in SMALL[name].items() if not k.startswith(("point_", "prop"))}
    classifier = create_model(name, 4, head_channels=(6,), **options)
    trunk = {k: v for k, v in classifier.state_dict().items() if not k.startswith("head.")}
    missing, unexpected = make(name).load_state_dict(trunk, strict=False)
    assert not unexpected
    assert {key.split(".")[0] for key in missing} <= {"point_mlp", "propagations", "head"}


@pytest.mark.parametrize("name", ["pointnet_vanilla", "pointnet2_ssg"])
def test_the_orthogonality_penalty_is_that_of_the_feature_transform(name):
    model = make(name)
    assert model.extra_loss(model.forward_detailed(*inputs(name))) is None
    model = make("pointnet")
    output = model.forward_detailed(*inputs("pointnet"))
    product = output.feature_transform @ output.feature_transform.transpose(1, 2)
    identity = torch.eye(product.shape[-1], dtype=product.dtype)
    want = ((identity - product) ** 2).sum((1, 2)).mean()
    assert_close(model.extra_loss(output).detach(), want.detach())


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("pointnet", [(11, 3)], r"got \(11, 3\): add a batch dimension"),
        ("dgcnn", [(2, 3, 11)], "swap points and channels"),
        ("pointnet", [(1, 11, 3)], "batch norm in the T-Nets is undefined for one"),
        ("dgcnn", [(2, 11, 3), (2,)], "num_categories=0 and takes no categories"),
        (
            "dgcnn_part",
            [(2, 11, 3)],
            r"expected the category of each cloud, \(2,\) int64 from 0 to",
        ),
        ("dgcnn_part", [(2, 11, 3), (3,)], r"got \(3,\) of torch.int64"),
        ("dgcnn_part", [(1, 11, 3), (1,)], "the layer on the category is undefined for one"),
    ],
)
def test_bad_inputs(name, given, message):
    points, *categories = given
    categories = [torch.zeros(shape, dtype=torch.int64) for shape in categories]
    with pytest.raises(ValueError, match=message):
        make(name)(random(*points), *categories)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("pointnet", {"in_channels": 2}, "in_channels >= 3"),
        ("pointnet", {"num_categories": -1}, "num_categories >= 0"),
        ("pointnet", {"transforms": "both"}, 'True, False or "input"'),
        ("pointnet2_ssg", {"propagation_channels": [[3]]}, "the widths of 3 propagations"),
    ],
)
def test_bad_arguments(name, options, message):
    with pytest.raises(ValueError, match=message):
        make(name, **options)


def train(name, backend, fused):
    model = make(name, backend=backend, fused=fused)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    for step in range(20):
        points, *categories = inputs(name, 4, 11)
        labels = torch.arange(44).view(4, 11) % 5
        optimizer.zero_grad()
        logits = model(points + 0.1 * random(*points.shape, seed=step), *categories)
        functional.cross_entropy(logits.transpose(1, 2), labels).backward()
        optimizer.step()
    return model


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_twenty_steps_stay_together(name):
    expected = train(name, "linear", False).state_dict()
    for backend in BACKENDS:
        for key, value in train(name, backend, "auto").state_dict().items():
            if value.is_floating_point():
                want = expected[key].reshape(value.shape)
                assert_close(value, want, kind="training, fused", scale=1.0, name=key)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_export_takes_any_number_of_clouds_and_points(name):
    model = make(name).eval()
    clouds, points = torch.export.Dim("clouds", min=2), torch.export.Dim("points", min=8)
    shapes = [{0: clouds, 1: points}, {0: clouds}]
    given = inputs(name)
    exported = torch.export.export(model, given, dynamic_shapes=shapes[: len(given)])
    assert "sharedmlp" not in str(exported.graph)
    for sizes in ((3, 11), (5, 17)):
        other = inputs(name, *sizes)
        assert_close(exported.module()(*other), model(*other), kind="fused")


def test_they_are_models_of_the_registry():
    for name in SMALL:
        assert isinstance(make(name), PointCloudModel)
        assert isinstance(make(name), nn.Module)
