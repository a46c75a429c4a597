"""Bad input gets an error that says what was expected, what came and what to do."""

import pytest
import torch

from sharedmlp import SharedMLP, SharedMLPMaxPool, TNet

BACKENDS = ["linear", "conv1d", "conv2d"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": [3]}, r"at least two positive integers.*got \[3\]"),
        ({"channels": [3, 0]}, r"positive integers.*got \[3, 0\]"),
        ({"channels": [3, -4]}, r"got \[3, -4\]"),
        ({"channels": [3, 2.5]}, r"got \[3, 2\.5\]"),
        ({"backend": "conv3d"}, r"unknown backend 'conv3d'.*linear, conv1d, conv2d"),
        ({"norm": "group"}, r"unknown norm 'group'.*batch, layer or None"),
        ({"activation": "maxout"}, r"unknown activation 'maxout'.*relu"),
        ({"channel_dim": 2}, r"-1 for \(\.\.\., C\) or 1 .*got 2"),
        ({"dropout": 1.0}, r"dropout is one probability in \[0, 1\).*got 1\.0"),
        ({"dropout": [0.1]}, r"each of the 2 layers.*got \[0\.1\]"),
    ],
)
def test_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        SharedMLP(**{"channels": [3, 6, 5], **arguments})


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("channel_dim", "shape", "message"),
    [
        (-1, (8, 7, 4), r"expected \(\.\.\., 3\), got \(8, 7, 4\): make the first of channels 4"),
        (-1, (8, 3, 7), r"got \(8, 3, 7\): make the layer with channel_dim=1, or pass x\.movedim"),
        (1, (8, 7, 3), r"expected \(B, 3, \.\.\.\), got \(8, 7, 3\).*channel_dim=-1"),
        (-1, (3,), r"at least two dimensions, got \(3,\): .*unsqueeze"),
        (-1, (), r"at least two dimensions, got \(\)"),
        (-1, (1, 1, 3), r"training mode needs at least two positions.*got \(1, 1, 3\)"),
        (-1, (2, 0, 3), r"training mode needs at least two positions.*got \(2, 0, 3\)"),
    ],
)
def test_inputs(backend, channel_dim, shape, message):
    mlp = SharedMLP([3, 6], backend=backend, channel_dim=channel_dim)
    with pytest.raises(ValueError, match=message):
        mlp(torch.zeros(shape))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("channel_dim", "shape"), [(-1, (4, 0, 3)), (-1, (0, 7, 3)), (1, (4, 3, 0)), (1, (4, 3))]
)
def test_a_max_needs_points(backend, channel_dim, shape):
    pool = SharedMLPMaxPool([3, 6], backend=backend, channel_dim=channel_dim).eval()
    with pytest.raises(ValueError, match="max over the points"):
        pool(torch.zeros(shape))


def test_tnet_wants_a_batch_of_clouds():
    with pytest.raises(ValueError, match=r"expected \(B, N, 3\), got \(7, 3\)"):
        TNet(3)(torch.zeros(7, 3))
    with pytest.raises(ValueError, match="at least two positions"):
        TNet(3)(torch.zeros(1, 7, 3))


def test_the_list_of_channels_is_the_callers():
    channels = [3, 6]
    mlp = SharedMLP(channels)
    channels[0] = 99
    assert mlp.in_channels == 3
