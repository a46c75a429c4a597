"""Compares a network on a large input with the classifier on each window of it."""

from typing import Any

import torch
from torch import Tensor, nn

from sharedmlp.convert import convolutionalize, receptive_windows
from tests.convert.networks import images, prepared
from tests.tolerances import assert_close

MODES = ["spatial", "flatten"]


def check(model, input_size, larger, mode, dtype=torch.float64):
    """Equal at the training size, and window by window on a larger input; returns the windows."""
    model = prepared(model, dtype)
    network = convolutionalize(model, input_size, mode)
    assert network.state_dict().keys() == model.state_dict().keys()
    x = images(2, *input_size, dtype=dtype)
    expected = model(x)
    assert_close(network(x), expected[..., None, None], name="at the training size")
    x = images(2, input_size[0], *larger, dtype=dtype)
    windows = receptive_windows(network, x.shape[1:])
    y = network(x)
    assert y.shape == (*expected.shape, *windows.shape[:2])
    assert_close(y, on_windows(model, windows, x), name="window by window")
    return windows


def on_windows(model: nn.Module, windows: Tensor, x: Tensor) -> Tensor:
    """The classifier on each window by itself, laid out as the map (B, m, H', W')."""
    rows = [
        torch.stack([model(x[..., top:bottom, left:right]) for top, left, bottom, right in row], -1)
        for row in windows.tolist()
    ]
    return torch.stack(rows, -2)


def windows_at(size: tuple[int, int], stride: int, rows: int, columns: int) -> Tensor:
    """The windows of one size at multiples of a stride."""
    return torch.tensor(
        [
            [
                [i * stride, j * stride, i * stride + size[0], j * stride + size[1]]
                for j in range(columns)
            ]
            for i in range(rows)
        ]
    )


def crops_of(x: Tensor, size: int, stride: int):
    """The windows of one size at multiples of a stride, with their top left corners."""
    for top in range(0, x.shape[2] - size + 1, stride):
        for left in range(0, x.shape[3] - size + 1, stride):
            yield top, left, x[..., top : top + size, left : left + size]


def check_padded(model: Any, network: nn.Module, x: Tensor, size: int, stride: int) -> None:
    """Every position of the map is the head on its own features, which padding changes in part.

    Those features of a window are the classifier's own that see no padding but the image's.
    """
    whole, y = model.features(x), network(x)
    for top, left, crop in crops_of(x, size, stride):
        i, j = top // stride, left // stride
        own = model.features(crop)
        rows, columns = own.shape[2:]
        same = whole[..., i : i + rows, j : j + columns]
        assert_close(y[..., i, j], model.head(model.flatten(same)), name="on the features")
        assert (y[..., i, j] - model(crop)).abs().max() > 1e-3
        # A side of the window may reach beyond the crop only where the image ends too.
        start, seen = torch.tensor([top, left]), receptive_windows(model.features, crop.shape[1:])
        first = (seen[..., :2] >= 0) | (start == 0)
        last = (seen[..., 2:] <= size) | (start + size == torch.tensor(x.shape[2:]))
        permitted = (first & last).all(-1)
        assert 0 < permitted.sum() < rows * columns
        assert_close(own[..., permitted], same[..., permitted], name="features")
        assert ((own - same).abs().amax((0, 1)) > 0)[~permitted].all()
