"""A backend is one entry: a toy one works in every layer and shares checkpoints with the others."""

import pytest
import torch
from torch import nn

from sharedmlp import SharedMLP, SharedMLPMaxPool, TNet
from sharedmlp.layers.backend import BACKENDS, Backend
from sharedmlp.layers.layout import ChannelsFirst, ChannelsLast
from sharedmlp.layers.sync_norm import SyncBatchNorm
from tests.formula import check_against_formula, randomize
from tests.tolerances import assert_close


class ToyLinear(nn.Linear):
    """A linear map of somebody's own."""


TOYS = {
    "toy": Backend(
        name="toy",
        torch_class=ToyLinear,
        layout=ChannelsLast("BNC"),
        norms={"batch": nn.BatchNorm1d, "sync_batch": SyncBatchNorm, "layer": nn.LayerNorm},
    ),
    "conv3d": Backend(
        name="conv3d",
        torch_class=nn.Conv3d,
        layout=ChannelsFirst("BCDHW", spatial_dims=3),
        norms={"batch": nn.BatchNorm3d},
        linear_options={"kernel_size": 1},
    ),
}


@pytest.fixture(params=TOYS)
def toy(request, monkeypatch):
    monkeypatch.setitem(BACKENDS, request.param, TOYS[request.param])
    return request.param


@pytest.mark.parametrize("fused", ["auto", False])
@pytest.mark.parametrize(("channel_dim", "shape"), [(-1, (4, 7, 3)), (1, (4, 3, 7))])
def test_it_gives_the_numbers_of_the_formula(toy, channel_dim, shape, fused, training):
    for cls in (SharedMLP, SharedMLPMaxPool):
        module = cls([3, 6, 9], backend=toy, channel_dim=channel_dim, fused=fused).train(training)
        pooled = cls is SharedMLPMaxPool
        check_against_formula(
            module, channel_dim, shape, torch.float64, "batch", "relu", pooled=pooled
        )


def test_it_runs_fused(toy):
    pool = SharedMLPMaxPool([3, 6, 9], backend=toy, fused=True)
    assert type(pool.layers[0].linear) is TOYS[toy].torch_class
    assert pool.not_supported_reasons() == []
    assert TNet(3, backend=toy)(torch.randn(4, 7, 3)).shape == (4, 3, 3)


@pytest.mark.parametrize("other", ["linear", "conv1d", "conv2d"])
def test_checkpoints_go_both_ways(toy, other):
    x = torch.randn(4, 7, 3)
    for source, target in ((toy, other), (other, toy)):
        for cls in (SharedMLP, SharedMLPMaxPool):
            torch.manual_seed(1)
            saved, loaded = cls([3, 6, 9], backend=source), cls([3, 6, 9], backend=target)
            randomize(saved)
            loaded.load_state_dict(saved.state_dict())
            assert_close(loaded.eval()(x), saved.eval()(x), kind="fused")


def test_one_seed_starts_all_alike(toy):
    weights = []
    for backend in (toy, "linear"):
        torch.manual_seed(0)
        weights.append(SharedMLP([3, 6, 9], backend=backend).layers[0].linear.weight.flatten(1))
    assert torch.equal(*weights)
