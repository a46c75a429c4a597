"""The hidden layers before a fused max, in tiles, against the plain formula."""

import pytest
import torch

from sharedmlp import SharedMLP, SharedMLPMaxPool
from sharedmlp.layers.pointwise import layer_tensors
from sharedmlp.ops.cpu import linear_argmax as argmax_op
from sharedmlp.ops.cpu import linear_bn_relu as hidden_op
from sharedmlp.ops.interface import FoldedLinear
from sharedmlp.ops.plan import hidden_reasons
from sharedmlp.ops.statistics import sample_rows
from tests.covering import pairwise
from tests.formula import Formula, randomize
from tests.formula import compare_with_formula as compare
from tests.layers.fused_pool import BACKENDS, DTYPES, WIDTHS, clouds, compare_with_formula
from tests.tolerances import assert_close


@pytest.mark.parametrize("grad", [True, False])
def test_a_hook_on_a_hidden_layer_is_called(training, grad):
    pool = SharedMLPMaxPool(WIDTHS).train(training)
    calls = []
    pool.layers[0].linear.register_forward_hook(lambda *_: calls.append(1))
    with torch.set_grad_enabled(grad):
        pool(torch.randn(2, 7, 3))
    assert calls == [1]


def test_hidden_layers_to_the_second_order():
    x = clouds(9, 3).requires_grad_()
    center, after = clouds(3, seed=2), clouds(5, seed=3)
    weight, bias = clouds(5, 3, seed=4).requires_grad_(), clouds(5, seed=5).requires_grad_()

    def layer(x, weight, bias):
        return hidden_op.linear_bn_relu(x, FoldedLinear(center, weight, bias), after)

    def layer_and_max(x, weight, bias, wide):
        found = argmax_op.linear_argmax(
            x.view(3, 3, 3),
            wide,
            torch.ones(7, dtype=x.dtype),
            after,
            moments=True,
            search_dtype=x.dtype,
            layer=FoldedLinear(center, weight, bias),
        )
        return found.values, found.mean, found.second_moment

    for function, inputs in [
        (lambda x: hidden_op.input_moments(x, center), (x,)),
        (layer, (x, weight, bias)),
        (layer_and_max, (x, weight, bias, clouds(7, 5, seed=6).requires_grad_())),
    ]:
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_several_hidden_layers_on_more_rows_than_a_tile(backend, bias, affine):
    torch.manual_seed(0)
    options = {"bias": bias, "norm_kwargs": {"affine": affine}}
    pool = SharedMLPMaxPool([3, 4, 6, 9], backend=backend, fused=True, **options).double()
    randomize(pool)
    compare_with_formula(pool, clouds(5, 700, 3))


@pairwise(
    backend=BACKENDS,
    options=[{}, {"bias": True}, {"norm_kwargs": {"affine": False}}],
    dtype=DTYPES,
    grad=[True, False],
    channel_dim=[-1, 1],
    training=[True, False],
)
def test_a_fused_mlp_without_a_max(backend, dtype, options, grad, channel_dim, training):
    torch.manual_seed(0)
    mlp = SharedMLP(WIDTHS, backend=backend, fused=True, channel_dim=channel_dim, **options)
    mlp = mlp.to(dtype).train(training)
    randomize(mlp)
    x = clouds(5, 700, 3, dtype=dtype).movedim(-1, channel_dim)
    if grad:
        if not training:
            mlp.fused = "auto"  # nothing to fuse: constant statistics and gradients
        compare(mlp, x, kind="fused", channel_dim=channel_dim)
        return
    formula = Formula.of(mlp, "batch", "relu")
    with torch.no_grad():
        y = mlp(x).movedim(channel_dim, -1)
        expected = formula(x.movedim(channel_dim, -1).reshape(-1, 3)).view(5, 700, 9)
    assert_close(y, expected, kind="fused")


def test_a_fused_mlp_takes_its_modules_where_it_must(monkeypatch):
    """Hooks, layer norm, another activation, export: the fused functions are not for them."""

    def refuse(*_):
        raise AssertionError("fused")

    monkeypatch.setattr("sharedmlp.layers.shared_mlp.run_mlp", refuse)
    x = torch.randn(4, 7, 3)
    for options in [{"norm": "layer"}, {"activation": "gelu"}, {"dropout": 0.5}, {"fused": False}]:
        SharedMLP(WIDTHS, **options)(x)
    hooked = SharedMLP(WIDTHS)
    hooked.layers[0].linear.register_forward_hook(lambda *_: None)
    hooked(x)
    with torch.no_grad():
        hooked.eval()(x)
    mlp = SharedMLP(WIDTHS)
    torch.export.export(mlp.eval(), (x,))
    mlp(x)
    with pytest.raises(AssertionError, match="fused"):
        mlp.train()(x)
    with pytest.raises(AssertionError, match="fused"), torch.no_grad():
        mlp.eval()(x)
    with pytest.raises(ValueError, match='"auto", True or False'):
        SharedMLP(WIDTHS, fused="yes")


@pytest.mark.parametrize("rows", [300, 5000])
def test_moments_keep_their_digits_where_the_sample_is_far_from_the_mean(rows):
    """All sampled rows are alike and far off."""
    x = torch.zeros(1, rows, 1, dtype=torch.float64)
    x[:, 1::7] = 1.0
    x[:, :: max(1, rows // 1024)] = 1e3
    mean, second = hidden_op.input_moments(x[0], sample_rows(x).mean(0))
    covariance = second - torch.outer(mean, mean)
    assert_close(covariance[0, 0], x.var(correction=0))


def test_a_narrowing_layer_takes_its_modules():
    pool = SharedMLPMaxPool([6, 3, 9], fused=True).double()
    assert hidden_reasons(layer_tensors(pool.layers[0]))
    compare_with_formula(pool, clouds(4, 7, 6))
