"""The pattern in all the spellings of the field: the same numbers, and fused."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sharedmlp.fusion import fusion_report
from tests.fusion.compare import check, cloud, fused_layers, reason
from tests.fusion.networks import (
    EdgeNet,
    Pattern,
    PointNet2,
    PortPointNet,
    conv1d,
    conv2d,
)

POINTS = cloud(3, 4, 7)
GROUPS = cloud(3, 4, 5, 6)


@pytest.mark.parametrize(
    "head",
    [
        lambda x: torch.max(x, 2)[0],
        lambda x: torch.max(x, 2, keepdim=True)[0],
        lambda x: torch.max(input=x, dim=-1).values,
        lambda x: x.max(dim=-1, keepdim=True)[0],
        lambda x: x.max(2),
        lambda x: x.max(axis=2, keepdims=True)[0],
        # NumPy's names, which torch takes but does not declare.
        lambda x: torch.amax(x, axis=-1, keepdims=False),  # type: ignore[call-arg]
        lambda x: torch.max(x, 2, keepdim=True),
        lambda x: torch.amax(x, 2),
        lambda x: x.amax(dim=(-1,), keepdim=True),
        lambda x: F.max_pool1d(x, x.size(2)),
        lambda x: F.max_pool1d(x, kernel_size=[x.shape[-1]], stride=1),
        lambda x: F.adaptive_max_pool1d(x, 1),
        lambda x: F.adaptive_max_pool1d(x, 1).view(x.size(0), -1),
        nn.MaxPool1d(7),
        nn.AdaptiveMaxPool1d(1),
        lambda x: x.transpose(1, 2).max(1)[0],
        lambda x: x.permute(2, 0, 1).contiguous().max(0)[0],
        lambda x: x.transpose(-1, -2).reshape(21, 9).max(0)[0],
    ],
)
@pytest.mark.parametrize("activation", [lambda x: x, F.relu])
def test_max_over_points(head, activation):
    check(conv1d(lambda x: head(activation(x))), POINTS, ["linear"])


@pytest.mark.parametrize(
    "head",
    [
        lambda x: F.max_pool2d(x, [1, x.size(3)]),
        lambda x: F.max_pool2d(x, kernel_size=(x.size(2), 1)),
        lambda x: F.max_pool2d(x, (5, 6)),
        lambda x: x.max(dim=-1, keepdim=False)[0],
        lambda x: torch.max(x, 2)[0],
        lambda x: torch.max(x, 2, keepdim=True),
        lambda x: x.amax((2, 3)),
        lambda x: x.permute(0, 2, 3, 1).max(2)[0],
        nn.AdaptiveMaxPool2d((1, 1)),
        nn.AdaptiveMaxPool2d((None, 1)),
        nn.MaxPool2d((1, 6)),
    ],
)
def test_max_over_neighbours(head):
    check(conv2d(lambda x: head(F.relu(x))), GROUPS, ["linear"])


@pytest.mark.parametrize(
    "activation",
    [
        nn.ReLU(),
        nn.ReLU(inplace=True),
        nn.LeakyReLU(0.2),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Tanh(),
        nn.Sigmoid(),
        torch.relu,
        torch.relu_,
        F.relu_,
        F.leaky_relu,
        F.leaky_relu_,
        lambda x: F.relu(x, True),
        lambda x: F.leaky_relu(x, 0.3, True),
        lambda x: x.relu(),
        lambda x: x.relu_(),
        lambda x: x.tanh(),
        torch.sigmoid,
    ],
)
def test_monotone_activations(activation):
    check(conv1d(lambda x: activation(x).max(2)[0]), POINTS, ["linear"])


def test_an_activation_in_place_is_seen_by_whoever_holds_the_tensor():
    def head(x):
        F.relu(x, inplace=True)
        return x.max(2)[0]

    check(conv1d(head), POINTS, ["linear"])


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("activation", [F.relu, lambda x: x])
def test_with_batch_norm_or_none(norm, activation):
    check(conv1d(lambda x: activation(x).max(2)[0], norm), POINTS, ["linear"])


@pytest.mark.parametrize(
    "options",
    [
        {"momentum": None},
        {"momentum": 0.3, "eps": 0.1},
        {"affine": False},
        {"track_running_stats": False},
    ],
)
def test_kinds_of_batch_norm(options):
    model = Pattern(
        nn.Conv1d(4, 9, 1, bias=False), nn.BatchNorm1d(9, **options), lambda x: x.max(2)[0]
    )
    check(model, POINTS, ["linear"])


class LinearNet(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.fc, self.bn, self.body = nn.Linear(4, 9), nn.BatchNorm1d(9), body

    def forward(self, x):
        return self.body(self.fc, self.bn, x)


@pytest.mark.parametrize(
    "body",
    [
        lambda fc, bn, x: F.relu(bn(fc(x).transpose(1, 2)).transpose(1, 2)).max(1)[0],
        lambda fc, bn, x: F.relu(bn(fc(x).permute(0, 2, 1))).max(-1)[0],
        lambda fc, bn, x: F.relu(bn(fc(x.reshape(-1, 4)))).view(3, 7, 9).max(1)[0],
        lambda fc, bn, x: F.relu(bn(fc(x).view(-1, 9)).view(3, 7, -1)).max(dim=1).values,
        lambda fc, bn, x: F.relu(bn(fc(x).flatten(0, 1))).unflatten(0, (3, 7)).amax(1),
    ],
)
def test_linear_on_points_and_channels(body):
    check(LinearNet(body), cloud(3, 7, 4), ["fc"])


def test_linear_whose_batch_norm_takes_the_points_for_its_channels():
    """The trap: nine points and nine channels; what it computes is what it always computed."""
    ours = check(LinearNet(lambda fc, bn, x: bn(fc(x)).max(1)[0]), cloud(3, 9, 4), [])
    assert "batch_norm" in reason(ours, "fc")


def test_values_and_indices_are_those_of_one_point():
    def head(x):
        values, indices = torch.max(F.leaky_relu(x), 2)
        return values, indices, values * (indices + 1)

    check(conv1d(head), POINTS, ["linear"])


def test_values_and_indices_by_two_calls():
    check(conv1d(lambda x: (x.max(2)[0], torch.max(x, 2)[1])), POINTS, ["linear"])


def test_the_usual_port():
    names = ["stn.conv1", "stn.conv2", "stn.conv3", "fstn.conv1", "fstn.conv2", "fstn.conv3"]
    ours = check(PortPointNet(), cloud(6, 3, 11))
    training = [*names, "conv2", "conv3"]
    ours.train()(cloud(6, 3, 11))
    assert fused_layers(ours) == training
    plain = {entry.layer: entry.detail for entry in fusion_report(ours) if not entry.fused}
    assert plain == {
        "stn.fc1": "its output is read by stn.fc2",
        "stn.fc2": "its output is read by add",
        "conv1": "its output is read by bmm",
        "fstn.fc1": "its output is read by fstn.fc2",
        "fstn.fc2": "its output is read by add",
        "fc1": "its output is read by fc2",
        "fc2": "its output is read by dropout",
        "fc3": "its output is read by log_softmax",
    }


def test_the_usual_port_with_normals():
    check(PortPointNet(6), cloud(6, 6, 11))


def test_the_usual_port_in_float32():
    check(PortPointNet(), cloud(16, 3, 40), dtype=torch.float32)


def test_a_pointnet2():
    ours = check(PointNet2(), cloud(4, 3, 30))
    ours.train()(cloud(4, 3, 30))
    assert fused_layers(ours) == [
        *(f"level1.convs.{i}" for i in range(3)),
        *(f"level2.convs.{i}" for i in range(2)),
        "conv",
    ]


def test_an_edge_network():
    ours = check(EdgeNet(), cloud(4, 3, 12))
    assert fused_layers(ours) == ["edge1.0", "edge2.0"]  # in evaluation there is no covariance
    assert "adaptive_avg_pool1d" in reason(ours, "conv.0")
    ours.train()(cloud(4, 3, 12))
    assert fused_layers(ours) == ["edge1.0"]
    assert "16 output channels are not more than 32" in reason(ours, "edge2.0")
