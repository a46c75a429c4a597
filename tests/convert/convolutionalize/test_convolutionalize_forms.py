"""Flattens, pools and heads in the many forms that people write them in."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sharedmlp.convert import convolutionalize
from sharedmlp.convert.convolutionalize.flatten_windows import FlattenWindows
from tests.convert.checks import MODES, check, windows_at
from tests.convert.networks import (
    Classifier,
    FunctionalHead,
    lenet5,
    lenet5_features,
    norm_head,
)

FLATTENS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "nn.Flatten": nn.Flatten(),
    "torch.flatten": lambda x: torch.flatten(x, 1),
    "flatten": lambda x: x.flatten(start_dim=1),
    "view(size, -1)": lambda x: x.view(x.size(0), -1),
    "view(-1, 400)": lambda x: x.view(-1, 400),
    "reshape(shape, sizes)": lambda x: x.reshape(x.shape[0], x.shape[1] * x.size(2) * x.size(3)),
    "torch.reshape": lambda x: torch.reshape(x, (x.shape[0], -1)),
    "twice": nn.Sequential(nn.Flatten(), nn.Flatten()),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("form", FLATTENS)
def test_flatten_in_every_form(form, mode):
    check(lenet5(flatten=FLATTENS[form]), (1, 32, 32), (36, 33), mode)


def test_the_sizes_that_a_flatten_asks_for_are_not_asked_for_any_more():
    model = lenet5(flatten=FLATTENS["reshape(shape, sizes)"])
    code = convolutionalize(model, (1, 32, 32)).code
    assert "reshape" not in code
    assert "size" not in code
    assert "shape" not in code


# Each with the positions that it leaves and the step from one window to the one on its right.
POOLS: dict[str, tuple[Any, int, int]] = {
    "AdaptiveAvgPool2d(1)": (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), 1, 2),
    "AdaptiveMaxPool2d(2)": (nn.Sequential(nn.AdaptiveMaxPool2d(2), nn.Flatten()), 4, 4),
    "the size it has": (nn.Sequential(nn.AdaptiveAvgPool2d((4, None)), nn.Flatten()), 16, 2),
    "AdaptiveAvgPool2d(2, 1)": (nn.Sequential(nn.AdaptiveAvgPool2d((2, 1)), nn.Flatten()), 2, 2),
    "adaptive_avg_pool2d": (lambda x: F.adaptive_avg_pool2d(x, (1, 1)).flatten(1), 1, 2),
    "adaptive_max_pool2d": (lambda x: F.adaptive_max_pool2d(x, 2).flatten(1), 4, 4),
    "mean": (lambda x: x.mean((2, 3)), 1, 2),
    "mean, kept": (lambda x: torch.mean(x, dim=[-2, -1], keepdim=True).squeeze(), 1, 2),
    "amax": (lambda x: x.amax(dim=(-1, -2)), 1, 2),
    # These have a stride of their own: the size of their window.
    "avg_pool2d": (lambda x: F.avg_pool2d(x, kernel_size=x.shape[2:]).flatten(1), 1, 8),
    "max_pool2d": (lambda x: F.max_pool2d(x, x.size(2)).view(x.size(0), -1), 1, 8),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("form", POOLS)
def test_global_pooling_becomes_a_window(form, mode):
    pool, positions, step = POOLS[form]
    features = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.MaxPool2d(2))
    model = Classifier(features, pool, nn.Linear(6 * positions, 5))
    windows = check(model, (2, 10, 10), (17, 21), mode)
    assert windows[0, :2].tolist() == [[0, 0, 10, 10], [0, step, 10, 10 + step]]
    # Nothing is pooled or laid out where there is nothing to do.
    types = [type(module) for module in convolutionalize(model, (2, 10, 10), mode).modules()]
    assert (FlattenWindows in types) == (mode == "flatten" and positions > 1)
    assert form != "the size it has" or nn.AvgPool2d not in types


@pytest.mark.parametrize("mode", MODES)
def test_pooling_of_one_axis(mode):
    pool = nn.Sequential(nn.AdaptiveAvgPool2d((None, 1)), nn.Flatten())
    windows = check(
        Classifier(nn.Conv2d(2, 6, 3), pool, nn.Linear(24, 5)), (2, 6, 9), (8, 12), mode
    )
    assert torch.equal(windows, windows_at((6, 9), 1, 3, 4))


HEADS = {
    "alexnet": lambda: nn.Sequential(
        *(nn.Dropout(), nn.Linear(400, 12), nn.ReLU(), nn.Dropout(), nn.Linear(12, 12)),
        *(nn.ReLU(inplace=True), nn.Linear(12, 10)),
    ),
    "batch norm": norm_head,
    "softmax": lambda: nn.Sequential(nn.Linear(400, 10), nn.Softmax(-1)),
    "log softmax": lambda: nn.Sequential(nn.PReLU(), nn.Linear(400, 10), nn.LogSoftmax(dim=1)),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("head", HEADS)
def test_heads(head, mode):
    check(Classifier(lenet5_features(), nn.Flatten(), HEADS[head]()), (1, 32, 32), (37, 40), mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "softmax",
    [
        lambda x: F.softmax(x, dim=1),
        lambda x: F.log_softmax(x, -1),
        lambda x: x.softmax(-1),
        lambda x: torch.softmax(x, 1),
    ],
)
def test_functions_in_the_head(softmax, mode):
    model = Classifier(lenet5_features(), nn.Flatten(), FunctionalHead(softmax))
    check(model, (1, 32, 32), (36, 39), mode)


def test_norms_on_flattened_features_need_the_flatten_mode():
    head = nn.Sequential(nn.BatchNorm1d(400), nn.Linear(400, 10))
    model = Classifier(lenet5_features(), nn.Flatten(), head)
    check(model, (1, 32, 32), (36, 40), "flatten")
    with pytest.raises(ValueError, match=r"'head.0', BatchNorm1d\): .*mode=\"flatten\""):
        convolutionalize(model, (1, 32, 32))
    # Features of one position are channels already.
    pooled = Classifier(
        lenet5_features(),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Sequential(nn.BatchNorm1d(16), nn.Linear(16, 10)),
    )
    check(pooled, (1, 32, 32), (36, 40), "spatial")


class Reusing(nn.Module):
    """Calls its modules more than once, at several sizes."""

    def __init__(self):
        super().__init__()
        self.conv, self.relu, self.pool = nn.Conv2d(2, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2)
        self.flatten, self.fc, self.last = nn.Flatten(), nn.Linear(24, 24), nn.Linear(48, 5)

    def forward(self, x):
        x = self.relu(self.conv(x))
        a = self.flatten(self.pool(x))
        b = self.flatten(self.pool(self.relu(F.max_pool2d(x, 2))))
        a, b = self.fc(a), self.fc(b)
        return self.last(torch.cat([self.relu(a), b], 1))


@pytest.mark.parametrize("mode", MODES)
def test_modules_that_are_called_twice(mode):
    check(Reusing(), (2, 10, 10), (18, 15), mode)
