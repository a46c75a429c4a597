"""Compares two modules of other backends: one step, one state."""

import torch

from tests.tolerances import assert_close


def step(module, x):
    """Output, gradients by name as matrices, and buffers after one backward pass."""
    module.zero_grad()
    x = x.clone().requires_grad_()
    y = module(x)
    direction = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(2))
    (y * direction).sum().backward()
    gradients = {name: p.grad.flatten() for name, p in module.named_parameters()}
    return y.detach(), {"input": x.grad, **gradients}, dict(module.named_buffers())


def compare_steps(module, original, x):
    y, gradients, buffers = step(module, x)
    expected, expected_gradients, expected_buffers = step(original, x)
    assert_close(y, expected, name="output")
    assert gradients.keys() == expected_gradients.keys()
    scale = max(g.abs().max().item() for g in expected_gradients.values())
    for name, gradient in expected_gradients.items():
        assert_close(gradients[name], gradient, kind="gradient", scale=scale, name=name)
    assert buffers.keys() == expected_buffers.keys()
    for name, buffer in expected_buffers.items():
        assert_close(buffers[name], buffer, name=name)


def snapshot(module):
    return {
        name: (value, value.clone()) for name, value in module.state_dict(keep_vars=True).items()
    }


def untouched(module, before, types):
    state = module.state_dict(keep_vars=True)
    return (
        list(state) == list(before)
        and all(state[k] is value and torch.equal(value, old) for k, (value, old) in before.items())
        and types_of(module) == types
    )


def types_of(module):
    return [(name, type(child)) for name, child in module.named_modules()]


def same_state(module, other):
    ours, theirs = module.state_dict(), other.state_dict()
    return list(ours) == list(theirs) and all(torch.equal(ours[k], theirs[k]) for k in ours)
