"""The windows that outputs see, against the gradients of the outputs and against sums by hand."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sharedmlp.convert import ConversionError, convolutionalize, receptive_windows
from tests.convert.checks import windows_at
from tests.convert.networks import lenet5, lenet5_features


def seen(network, x):
    """The bounding box of the pixels that each output depends on, (H', W', 4)."""
    x = x.clone().requires_grad_()
    y = network(x).sum((0, 1))
    boxes = torch.zeros(*y.shape, 4, dtype=torch.int64)
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            (gradient,) = torch.autograd.grad(y[i, j], x, retain_graph=True)
            rows, columns = gradient.abs().sum((0, 1)).nonzero().unbind(1)
            box = [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
            boxes[i, j] = torch.stack(box)
    return boxes


class Inception(nn.Module):
    """Branches of several widths that meet in a sum and a concatenation."""

    def __init__(self):
        super().__init__()
        self.one, self.three = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, (3, 1), padding=(1, 0))
        self.pool = nn.AvgPool2d(3, stride=1, padding=1)
        self.last = nn.Conv2d(4, 1, 2, stride=2)

    def forward(self, x):
        return self.last(torch.cat([self.one(x) + self.three(x), self.pool(x)], 1))


NETWORKS = {
    "one convolution": nn.Conv2d(2, 3, (3, 2)),
    "stride and padding": nn.Conv2d(2, 3, 3, stride=(2, 3), padding=(1, 2)),
    "padding=same": nn.Conv2d(2, 3, (4, 3), padding="same"),
    "padding=valid": nn.Conv2d(2, 3, 4, padding="valid"),
    "two layers": nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 2, 4, stride=2)),
    "averages": nn.Sequential(nn.Conv2d(2, 3, 3), nn.AvgPool2d(3, 2, 1), nn.Conv2d(3, 2, 2)),
    "ceil_mode": nn.Sequential(nn.Conv2d(2, 3, 2), nn.AvgPool2d(3, ceil_mode=True)),
    "branches": Inception(),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("name", NETWORKS)
def test_against_gradients(name):
    network = NETWORKS[name].double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(1)  # so that no two paths cancel
    windows = receptive_windows(network, (2, 13, 11))
    expected = seen(network, torch.ones(1, 2, 13, 11, dtype=torch.float64))
    assert windows.dtype == torch.int64
    limits = torch.tensor([13, 11, 13, 11])
    assert torch.equal(windows.clamp(min=torch.zeros(4, dtype=torch.int64), max=limits), expected)


def test_dilation_inside_the_input():
    network = nn.Conv2d(1, 1, 3, dilation=(2, 1), padding=2).double()
    windows = receptive_windows(network, (1, 9, 8))
    boxes = seen(network, torch.ones(1, 1, 9, 8, dtype=torch.float64))
    inner = (windows[..., :2] >= 0).all(-1) & (windows[..., 2:] <= torch.tensor([9, 8])).all(-1)
    assert inner.sum() == 5 * 6
    assert torch.equal(windows[inner], boxes[inner])


def test_beyond_the_input_where_padding_is_seen():
    network = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 2, stride=2))
    # Output i sees hidden rows 2i and 2i + 1, which see 2i - 1 to 2i + 2.
    windows = receptive_windows(network, (1, 6, 8))
    assert windows[:, 0].tolist() == [[-1, -1, 3, 3], [1, -1, 5, 3], [3, -1, 7, 3]]
    assert windows[0, :, 1].tolist() == [-1, 1, 3, 5]


def test_max_pooling_and_functions_are_the_same_windows():
    class Functions(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.rand(2, 1, 3, 3))

        def forward(self, x):
            x = F.relu(F.conv2d(x, self.weight, None, 2, padding=1))
            x = F.max_pool2d(F.dropout2d(x, 0.5, self.training), 3, 1)
            return F.avg_pool2d(x, 2)

    modules = nn.Sequential(
        nn.Conv2d(1, 2, 3, 2, 1), nn.MaxPool2d(3, 1), nn.Dropout2d(), nn.AvgPool2d(2)
    )
    windows = receptive_windows(modules, (1, 20, 17))
    assert windows[0, 0].tolist() == [-1, -1, 8, 8]
    assert windows[1, 1].tolist() == [3, 3, 12, 12]
    assert torch.equal(receptive_windows(Functions(), (1, 20, 17)), windows)


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    ("network", "kernel", "stride"),
    [
        (nn.Softmax(1), 1, 1),
        (nn.LogSoftmax(-3), 1, 1),
        (nn.Softmax2d(), 1, 1),
        (nn.LocalResponseNorm(2), 1, 1),
        (nn.SyncBatchNorm(2), 1, 1),
        (nn.PReLU(2), 1, 1),
        (nn.Conv2d(2, 3, 2, padding_mode="circular"), 2, 1),
        (nn.LPPool2d(2, 3), 3, 3),
        (lambda x: F.softmax(x), 1, 1),
        (lambda x: torch.cat([x, x], -3), 1, 1),
        (lambda x: F.local_response_norm(x, 2), 1, 1),
        (lambda x: torch.max_pool2d(x, 3, 2), 3, 2),
        (lambda x: F.max_pool2d(x, x.size(2)), 6, 6),
    ],
)
@pytest.mark.filterwarnings("ignore:Implicit dimension choice")
def test_what_else_is_local(network, kernel, stride):
    network = nn.Sequential(network if isinstance(network, nn.Module) else Function(network))
    positions = (6 - kernel) // stride + 1
    windows = receptive_windows(network, (2, 6, 6))
    assert torch.equal(windows, windows_at((kernel, kernel), stride, positions, positions))


@pytest.mark.parametrize("mode", ["spatial", "flatten"])
def test_a_convolutionalized_classifier(mode):
    network = convolutionalize(lenet5(), (1, 32, 32), mode)
    windows = receptive_windows(network, (1, 40, 39))
    assert torch.equal(windows, windows_at((32, 32), 4, 3, 2))


def test_the_network_is_left_alone():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).train()
    network[0].register_forward_hook(lambda *_: pytest.fail("called"))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    receptive_windows(network, (1, 8, 8))
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


class Two(nn.Module):
    def forward(self, x):
        return x, x + 1


class Nothing(nn.Module):
    def forward(self, x):
        return None


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lenet5(), r"'flatten', Flatten\): it makes \(2, 400\) of .*convolutionalize the network"),
        (
            nn.Sequential(lenet5_features(), nn.AdaptiveAvgPool2d(1)),
            r"AdaptiveAvgPool2d\): its window depends on the size .*convolutionalize",
        ),
        (nn.Linear(32, 3), r"function linear"),
        (nn.Sequential(nn.InstanceNorm2d(1)), "over all positions"),
        (nn.Sequential(nn.Upsample(scale_factor=2)), "not known to be local"),
        (nn.Sequential(nn.MaxPool2d(2, return_indices=True)), "returns indices"),
        (Two(), "one map"),
        (Nothing(), "one map"),
    ],
)
def test_what_has_no_windows(network, message):
    with pytest.raises(ConversionError, match=message):
        receptive_windows(network, (1, 32, 32))


def test_input_size():
    with pytest.raises(ValueError, match=r"three positive integers, got \(32, 32\)"):
        receptive_windows(nn.Conv2d(1, 1, 3), (32, 32))
