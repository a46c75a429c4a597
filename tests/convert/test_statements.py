"""The statements about larger inputs, small networks slid over images, and PointNet's first layer.

Each against loops and plain formulas.
"""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sharedmlp import SharedMLP
from sharedmlp.convert import convolutionalize, fc_to_conv, linear_to_conv1d, linear_to_conv2d
from tests.convert.networks import images
from tests.tolerances import assert_close

DTYPES = [torch.float64, torch.float32]
BACKENDS = ["linear", "conv1d", "conv2d"]


def patches(x, size):
    """All windows of an image, (B, positions, C * size * size), by loops."""
    rows, columns = (n - size + 1 for n in x.shape[2:])
    windows = [
        x[:, :, i : i + size, j : j + size].reshape(len(x), -1)
        for i in range(rows)
        for j in range(columns)
    ]
    return torch.stack(windows, 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", ["spatial", "flatten"])
def test_a_classifier_on_a_larger_image_is_a_map_of_classifiers(mode, dtype):
    """Statement 4, for the classifier that is one layer of 784 weights for each of ten digits."""
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 10)).to(dtype)
    network = convolutionalize(classifier, (1, 28, 28), mode)
    x = images(3, 1, 30, 33, dtype=dtype)
    weight, bias = classifier[1].weight, classifier[1].bias
    expected = (patches(x, 28) @ weight.T + bias).transpose(1, 2).reshape(3, 10, 3, 6)
    assert_close(network(x), expected)
    assert sum(p.numel() for p in network.parameters()) == 10 * 784 + 10


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_shared_mlp_on_patches_is_a_network_in_network(backend, dtype):
    """Statement 5: unfold and a shared MLP = a 3 x 3 convolution and 1 x 1 ones."""
    torch.manual_seed(0)
    plain = SharedMLP([4 * 9, 8, 6], norm=None).to(dtype)
    mlp = SharedMLP([4 * 9, 8, 6], norm=None, backend=backend, channel_dim=1).to(dtype)
    mlp.load_state_dict(plain.state_dict())
    first: Any = plain.layers[0].linear
    second: Any = plain.layers[1].linear
    network: Any = nn.Sequential(
        fc_to_conv(first, 4, 3), nn.ReLU(), linear_to_conv2d(second), nn.ReLU()
    )
    assert [tuple(network[i].weight.shape) for i in (0, 2)] == [(8, 4, 3, 3), (6, 8, 1, 1)]

    x = images(2, 4, 7, 9, dtype=dtype)
    hidden = (patches(x, 3) @ first.weight.T + first.bias).clamp(min=0)
    expected = (hidden @ second.weight.T + second.bias).clamp(min=0)  # (B, positions, 6)
    expected = expected.transpose(1, 2)
    assert_close(mlp(F.unfold(x, 3)), expected)
    assert_close(network(x), expected.reshape(2, 6, 5, 7))
    assert sum(p.numel() for p in network.parameters()) == sum(p.numel() for p in mlp.parameters())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_first_layer_of_pointnet_is_a_1_x_3_convolution(backend, dtype):
    """Statement 7: the points are the positions, and the kernel is as wide as a point."""
    torch.manual_seed(0)
    plain = SharedMLP([3, 64, 128], norm=None).to(dtype)
    mlp = SharedMLP([3, 64, 128], norm=None, backend=backend).to(dtype)
    mlp.load_state_dict(plain.state_dict())
    first: Any = plain.layers[0].linear
    second: Any = plain.layers[1].linear
    wide = fc_to_conv(first, 1, (1, 3))
    assert wide.weight.shape == (64, 1, 1, 3)
    assert sum(p.numel() for p in wide.parameters()) == 3 * 64 + 64

    points = images(2, 50, 3, dtype=dtype)
    hidden = (points @ first.weight.T + first.bias).clamp(min=0)
    expected = (hidden @ second.weight.T + second.bias).clamp(min=0)
    image = wide(points[:, None]).relu()  # (B, 1, N, 3) -> (B, 64, N, 1): 1 x 1 from here on
    assert image.shape == (2, 64, 50, 1)
    assert_close(image.squeeze(-1).transpose(1, 2), hidden)
    image = linear_to_conv2d(second)(image).relu()
    assert_close(image.squeeze(-1).transpose(1, 2), expected)
    assert_close(mlp(points), expected)
    # The same first layer with the coordinates as channels is pointwise.
    pointwise = linear_to_conv1d(first)(points.transpose(1, 2)).relu()
    assert_close(pointwise.transpose(1, 2), hidden)
