"""Whole classifiers as fully convolutional networks: every output is the classifier on a window."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sharedmlp.convert import convolutionalize, receptive_windows
from tests.convert.checks import MODES, check, check_padded, windows_at
from tests.convert.networks import Classifier, images, lenet5, lenet5_head, prepared
from tests.tolerances import assert_close


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("larger", "positions"), [((40, 36), (3, 2)), ((47, 61), (4, 8)), ((35, 32), (1, 1))]
)
def test_lenet5_window_by_window(larger, positions, mode, dtype):
    windows = check(lenet5(), (1, 32, 32), larger, mode, dtype)
    assert torch.equal(windows, windows_at((32, 32), 4, *positions))


@pytest.mark.parametrize("mode", MODES)
def test_c5_is_a_5_x_5_convolution_or_a_flatten_and_a_1_x_1_one(mode):
    network: Any = convolutionalize(lenet5(), (1, 32, 32), mode)
    shapes = [tuple(network.get_submodule(f"head.{i}").weight.shape) for i in (0, 2, 4)]
    first = (120, 16, 5, 5) if mode == "spatial" else (120, 400, 1, 1)
    assert shapes == [first, (84, 120, 1, 1), (10, 84, 1, 1)]


@pytest.mark.parametrize("mode", MODES)
def test_an_input_that_leaves_last_rows_unused(mode):
    # 33 pixels make the 5 x 5 features of 32: the last row is not used, by any window.
    windows = check(lenet5(), (1, 33, 33), (38, 41), mode)
    assert torch.equal(windows, windows_at((32, 32), 4, 2, 3))


class Branches(nn.Module):
    """Strides, dilation, sums and concatenations of branches, without padding."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.dilated = nn.Conv2d(4, 4, 3, dilation=2)
        self.wide = nn.Conv2d(4, 4, 5, groups=2)
        self.scale = nn.Parameter(torch.rand(4, 1, 1))

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)), inplace=True)
        y = self.dilated(x) * self.scale
        y += self.wide(x)
        y = torch.cat([y, torch.sigmoid(y) - 0.5], dim=1)
        return F.max_pool2d(F.gelu(y), 3, stride=2)


@pytest.mark.parametrize("mode", MODES)
def test_strides_dilation_and_branches(mode):
    torch.manual_seed(0)
    head = nn.Sequential(nn.Linear(8 * 2 * 3, 6), nn.ReLU(), nn.Linear(6, 5))
    # 21 x 25: stem 10 x 12, branches 6 x 8, pooling 2 x 3.
    windows = check(Classifier(Branches(), nn.Flatten(), head), (3, 21, 25), (30, 33), mode)
    assert torch.equal(windows, windows_at((19, 23), 4, 3, 3))


@pytest.mark.parametrize("mode", MODES)
def test_padding_breaks_the_windows_and_not_the_training_size(mode):
    torch.manual_seed(0)
    model = prepared(lenet5(padding=2))
    network = convolutionalize(model, (1, 32, 32), mode)
    x = images(2, 1, 32, 32)
    assert_close(network(x), model(x)[..., None, None])
    x = images(2, 1, 44, 40)
    assert network(x).shape == (2, 10, 4, 3)
    check_padded(model, network, x, 32, 4)


def test_ceil_mode_breaks_the_windows():
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.MaxPool2d(2, ceil_mode=True))
    model = prepared(Classifier(features, nn.Flatten(), nn.Linear(4 * 7 * 7, 5)))
    network = convolutionalize(model, (1, 15, 15))
    x = images(2, 1, 15, 15)
    assert_close(network(x), model(x)[..., None, None])  # 13 x 13 are pooled to 7 x 7
    x = images(2, 1, 17, 17)
    y = network(x)
    assert (y[..., 0, 0] - model(x[..., :15, :15])).abs().max() > 1e-3
    assert_close(y[..., 1, 1], model(x[..., 2:, 2:]))  # the last window has the remainder too
    assert receptive_windows(network, (1, 17, 17))[[0, 1], [0, 1]].tolist() == [
        [0, 0, 16, 16],
        [2, 2, 18, 18],
    ]


def test_the_result_is_a_module_like_others():
    network = convolutionalize(lenet5(), (1, 32, 32), "flatten")
    x = torch.randn(0, 1, 40, 32)
    assert network(x).shape == (0, 10, 3, 1)
    again = convolutionalize(network, (1, 32, 32))  # nothing left to do
    x = torch.randn(1, 1, 40, 32)
    assert torch.equal(again(x), network(x))
    with pytest.raises(RuntimeError):
        network(torch.randn(1, 1, 31, 32))


def test_the_head_alone_takes_flat_images():
    model = nn.Sequential(nn.Flatten(), lenet5_head())
    check(model, (16, 5, 5), (7, 6), "spatial")
