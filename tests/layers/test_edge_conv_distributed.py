"""Edge convolution in several gloo processes that share the statistics of batch norm."""

import pytest
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from sharedmlp.layers.edge_conv import EdgeConv
from tests.formula import randomize, scale_of
from tests.processes import run_processes
from tests.tolerances import assert_close

# Of four clouds, by the number of processes: three here and one there, or one each.
SHARES = {2: [slice(0, 3), slice(3, 4)], 4: [slice(i, i + 1) for i in range(4)]}
WIDTHS = [[3, 8], [3, 4, 8]]


def make(widths, norm, fused=True):
    torch.manual_seed(0)
    layer = EdgeConv(widths, norm=norm, fused=fused, bias=True).double()
    randomize(layer.pool)
    return layer


def inputs():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4, 9, 3, dtype=torch.float64, generator=generator)
    neighbors = torch.randint(9, (4, 9, 5), generator=generator)
    return x, neighbors, torch.randn(4, 9, 8, dtype=torch.float64, generator=generator)


def run(layer, share):
    x, neighbors, direction = (tensor[share] for tensor in inputs())
    x = x.clone().requires_grad_()
    y = layer(x, neighbors)
    (y * direction).sum().backward()
    return y.detach(), x.grad


def check(rank, shares, widths):
    layer, whole = make(widths, "sync_batch"), make(widths, "batch", fused=False)
    share = shares[rank]
    got = run(DistributedDataParallel(layer), share)
    want = [tensor[share] for tensor in run(whole, slice(None))]
    for value, expected, name in zip(got, want, ("output", "input gradient"), strict=True):
        assert_close(value, expected, kind="fused", name=name)
    # DistributedDataParallel averages over the processes.
    count = len(shares)
    gradients = {name: parameter.grad / count for name, parameter in whole.named_parameters()}
    scale = max(map(scale_of, gradients.values()))
    for name, parameter in layer.named_parameters():
        assert_close(parameter.grad, gradients[name], kind="fused", scale=scale, name=name)
    for name, buffer in layer.named_buffers():
        assert_close(buffer, dict(whole.named_buffers())[name], kind="fused", name=name)


def work(rank, folder):
    for widths in WIDTHS:
        check(rank, SHARES[distributed.get_world_size()], widths)
    return rank


@pytest.mark.parametrize("world_size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_processes_are_one(tmp_path, world_size):
    assert run_processes(world_size, work, tmp_path) == list(range(world_size))
