"""The fused path under autocast, checkpointing and threads, and when it is taken."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from sharedmlp import SharedMLPMaxPool
from tests.formula import scale_of
from tests.layers.fused_pool import (
    BACKENDS,
    WIDTHS,
    clouds,
    make,
)
from tests.tolerances import assert_close


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradient_checkpointing(backend):
    x = clouds(4, 7, 3)
    gradients = []
    for run in (lambda pool, x: pool(x), lambda pool, x: checkpoint(pool, x, use_reentrant=False)):
        pool = make(backend)
        inputs = x.clone().requires_grad_()
        run(pool, inputs).square().sum().backward()
        gradients.append([inputs.grad, *(p.grad for p in pool.parameters())])
    for value, expected in zip(*gradients, strict=True):
        assert torch.equal(value, expected)


def test_gradient_accumulation():
    pool, twice = make(), make()
    x, y = clouds(4, 7, 3), clouds(4, 7, 3, seed=2)
    total = None
    for batch in (x, y):
        pool.zero_grad()
        pool(batch).square().sum().backward()
        gradients = [p.grad.clone() for p in pool.parameters()]
        total = (
            gradients if total is None else [a + b for a, b in zip(total, gradients, strict=True)]
        )
        twice(batch).square().sum().backward()
    for parameter, expected in zip(twice.parameters(), total, strict=True):
        assert_close(parameter.grad, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_keeps_the_statistics_in_float32(backend, training):
    pool = make(backend, torch.float32).train(training)
    exact = SharedMLPMaxPool(WIDTHS, fused=False).train(training)
    exact.load_state_dict(pool.state_dict())
    x = clouds(4, 50, 3, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = pool(x)
    assert y.dtype == torch.bfloat16
    expected = exact(x)
    # bfloat16 keeps 8 bits; the layer in front rounds too.
    assert (y.float() - expected).abs().max() < 0.05 * expected.abs().max()
    norm, exact_norm = pool.layers[-1].norm, exact.layers[-1].norm
    assert norm.running_var.dtype == torch.float32
    assert (norm.running_var / exact_norm.running_var - 1).abs().max() < 0.02
    y.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in pool.parameters())


def test_bfloat16_search_recomputes_the_values_exactly():
    # On a sphere the runner-up is close behind the winner: closer than bfloat16 can tell.
    x = nn.functional.normalize(clouds(8, 5000, 3, dtype=torch.float32), dim=-1)
    exact = SharedMLPMaxPool([3, 9], fused=True)
    quick = SharedMLPMaxPool([3, 9], fused=True, search_precision="bfloat16")
    quick.load_state_dict(exact.state_dict())
    values, indices = exact(x, return_indices=True)
    quick_values, quick_indices = quick(x, return_indices=True)
    same = indices == quick_indices
    assert 0.05 < same.float().mean() < 1.0  # else bfloat16 was not used at all
    assert_close(quick_values[same], values[same])
    assert (quick_values <= values + 1e-5).all()  # another winner is never a larger one
    assert (values - quick_values).max() < 0.02 * scale_of(values)
    with torch.no_grad():
        values, indices = exact.eval()(x, return_indices=True)
        same = indices == quick.eval()(x, return_indices=True)[1]
        assert_close(quick(x)[same], values[same])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"norm": "layer"}, "its norm is a LayerNorm"),
        ({"activation": "gelu"}, "not known to be monotone"),
        ({"activation": "silu"}, "not known to be monotone"),
        ({"channels": [3, 9, 9]}, "9 output channels are not more than 9 input channels"),
        ({"dropout": 0.5}, "dropout stands between"),
    ],
)
def test_reasons(options, reason):
    options = {"channels": WIDTHS, **options}
    auto = SharedMLPMaxPool(**options)
    assert any(reason in found for found in auto.not_supported_reasons())
    assert auto(torch.randn(2, 7, 3)).shape == (2, 9)
    with pytest.raises(ValueError, match=reason):
        SharedMLPMaxPool(**options, fused=True)


def test_every_reason_is_listed():
    pool = SharedMLPMaxPool([9, 9], norm="layer", activation="gelu", dropout=0.5)
    assert len(pool.not_supported_reasons()) == 1
    pool = SharedMLPMaxPool([9, 9], activation="gelu", dropout=0.5)
    assert len(pool.not_supported_reasons()) == 3


def test_changes_after_the_making_count():
    pool = SharedMLPMaxPool(WIDTHS)
    assert pool.not_supported_reasons() == []
    calls = []
    handle = pool.layers[-1].norm.register_forward_hook(lambda *_: calls.append(1))
    assert "hooks are registered" in pool.not_supported_reasons()[0]
    pool(torch.randn(2, 7, 3))
    assert calls == [1]
    handle.remove()
    assert pool.not_supported_reasons() == []
    torch.nn.utils.parametrizations.weight_norm(pool.layers[-1].linear)
    assert "ParametrizedLinear" in pool.not_supported_reasons()[0]
    assert "bfloat16" not in str(pool.not_supported_reasons())
    assert SharedMLPMaxPool(WIDTHS).bfloat16().not_supported_reasons()


def test_fused_takes_the_fused_path_and_false_does_not(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("fused")

    monkeypatch.setattr("sharedmlp.layers.max_pool.run_max", refuse)
    x = torch.randn(2, 7, 3)
    SharedMLPMaxPool(WIDTHS, fused=False)(x)
    pool = SharedMLPMaxPool(WIDTHS)
    with pytest.raises(AssertionError, match="fused"):
        pool(x)
    with pytest.raises(AssertionError, match="fused"), torch.no_grad():
        pool.eval()(x)


@pytest.mark.parametrize("arguments", [{"fused": "yes"}, {"search_precision": "float16"}])
def test_unknown_values(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=name):
        SharedMLPMaxPool(WIDTHS, **arguments)


def test_inference_mode():
    pool = make().eval()
    x = clouds(4, 700, 3)
    with torch.no_grad():
        expected = pool(x)
    with torch.inference_mode():
        assert_close(pool(x).clone(), expected)


def test_nan_is_not_hidden():
    x = clouds(4, 300, 3)
    x[1, 5, 0] = torch.nan
    pool = make(activation=None)
    y, indices = pool.eval()(x, return_indices=True)
    assert torch.isnan(y[1]).all()
    assert torch.isfinite(y[0]).all()
    assert (indices >= 0).all()
    assert (indices < 300).all()
    with torch.no_grad():
        assert torch.isnan(pool(x)[1]).all()


def test_a_norm_may_run_plainly_and_fused_in_one_graph():
    """Autograd saves the running statistics of the plain call, which the fused one then moves."""
    pool = make()
    x = clouds(4, 7, 3).requires_grad_()
    plain = super(SharedMLPMaxPool, pool).forward(x)
    (plain.sum() + pool(x).sum()).backward()
    assert x.grad.isfinite().all()
