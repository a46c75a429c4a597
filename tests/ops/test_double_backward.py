"""Gradients of gradients, where the input and the folded weight of a layer come from one tensor."""

import pytest
import torch

from sharedmlp import SharedMLP, SharedMLPMaxPool
from tests.tolerances import assert_close


# Of several layers, the weight of each has the statistics of the one before folded in.
@pytest.mark.parametrize("module", [SharedMLP, SharedMLPMaxPool])
@pytest.mark.parametrize("widths", [[3, 9], [3, 6, 9], [3, 4, 6, 9]])
def test_gradients_of_gradients(module, widths):
    results = []
    for fused in (True, False):
        torch.manual_seed(0)
        layer = module(widths, fused=fused).double()
        x = torch.randn(2, 11, 3, dtype=torch.float64, requires_grad=True)
        (of_x,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
        results.append([of_x.detach(), *torch.autograd.grad(of_x.square().sum(), x)])
    for found, expected in zip(*results, strict=True):
        assert_close(found, expected, kind="fused")
