"""Trains a network and its fused copy side by side and compares every number."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from sharedmlp.fusion import fuse, fusion_report
from tests.tolerances import assert_close


def randomize(model):
    """Norms of both signs and statistics of their own, so that no term is trivial."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                for tensor in (module.weight, module.bias, module.running_mean):
                    if tensor is not None:
                        tensor.normal_(generator=generator)
                if module.running_var is not None:
                    module.running_var.uniform_(0.5, 2, generator=generator)


def pair(model, dtype=torch.float64):
    """The network, and a copy of it that is fused."""
    randomize(model)
    model = model.to(dtype)
    return model, fuse(copy.deepcopy(model))


def cloud(*shape, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(1))


def fused_layers(model):
    return [entry.layer for entry in fusion_report(model) if entry.fused]


def reason(model, layer="linear"):
    (entry,) = [entry for entry in fusion_report(model) if entry.layer == layer]
    assert not entry.fused
    return entry.detail


def check(model, x, fused=None, *, dtype=torch.float64, kind="fused"):
    """Two training steps with SGD, an evaluation with gradients and one without.

    `fused` are the names of the layers that are to run fused in all of them, where given.
    """
    plain, ours = pair(model, dtype)
    x = x.to(dtype)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.01, momentum=0.9) for m in (plain, ours)]
    for training in (True, True, False):
        results = []
        for m, optimizer in zip((plain, ours), optimizers, strict=True):
            m.train(training)
            optimizer.zero_grad()
            points = x.clone().requires_grad_()
            outputs = [t for t in tree_leaves(m(points)) if isinstance(t, Tensor)]
            generator = torch.Generator().manual_seed(2)
            loss: Any = sum(
                (t * torch.randn(t.shape, dtype=dtype, generator=generator)).sum()
                for t in outputs
                if t.is_floating_point()
            )
            loss.backward()
            results.append([t.detach() for t in outputs])
            if points.grad is not None:
                results[-1].append(points.grad)
            assert all(type(t) is Tensor for t in outputs)
        compare(results, plain, ours, kind)
        if fused is not None:
            assert fused_layers(ours) == fused
        for optimizer in optimizers:
            if training:
                optimizer.step()
    with torch.no_grad():
        results = [[t for t in tree_leaves(m(x)) if isinstance(t, Tensor)] for m in (plain, ours)]
    for want, got in zip(*results, strict=True):
        assert got.stride() == want.stride()
        assert_close(got, want, kind=kind, name="evaluation")
    if fused is not None:
        assert set(fused) <= set(fused_layers(ours))
    return ours


def compare(results, plain, ours, kind="fused"):
    for number, (want, got) in enumerate(zip(*results, strict=True)):
        assert_close(got, want, kind=kind, name=f"output or input gradient {number}")
    gradients = [p.grad for p in plain.parameters() if p.grad is not None]
    scale = max((g.abs().max().item() for g in gradients), default=1.0)
    for (name, want), (got_name, got) in zip(
        plain.named_parameters(), ours.named_parameters(), strict=True
    ):
        assert name == got_name
        assert (got.grad is None) == (want.grad is None), name
        if want.grad is not None:
            assert_close(got.grad, want.grad, kind=kind, scale=scale, name=name)
    for (name, want), got in zip(plain.named_buffers(), ours.buffers(), strict=True):
        assert_close(got, want, kind=kind, name=name)
