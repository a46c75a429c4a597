"""The fused last layer against the plain formula, in the corners where it could differ."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sharedmlp import SharedMLP, SharedMLPMaxPool
from sharedmlp.layers.pointwise import layer_tensors
from sharedmlp.ops.cpu import argmax_tiles, tiles
from sharedmlp.ops.cpu import linear_argmax as argmax_op
from sharedmlp.ops.fused import run_max
from sharedmlp.ops.plan import make_plan
from tests.covering import pairwise
from tests.formula import randomize
from tests.layers.fused_pool import BACKENDS, DTYPES, WIDTHS, clouds, compare_with_formula, make
from tests.tolerances import assert_close


@pairwise(
    norm_kwargs=[{}, {"affine": False}, {"momentum": None}, {"track_running_stats": False}],
    backend=BACKENDS,
    activation=["relu", "leaky_relu", None],
    bias=[True, False],
    dtype=DTYPES,
    training=[True, False],
)
def test_norms_and_activations(backend, dtype, activation, bias, norm_kwargs, training):
    pool = make(backend, dtype, activation=activation, bias=bias, norm_kwargs=norm_kwargs)
    pool.train(training)
    for seed in (1, 2):  # twice: a cumulative average weighs the second batch otherwise
        x = clouds(4, 7, 3, dtype=dtype, seed=seed)
        compare_with_formula(pool, x, activation=activation)
        pool.zero_grad()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "shape",
    [(5, 1, 3), (1, 7, 3), (1, 2, 3), (2, 1500, 3), (3, 300, 3), (40, 50, 3), (7, 3)],
    ids=str,
)
def test_sizes(backend, shape, training):
    """One point, one cloud, clouds larger than a tile, many small clouds in a tile."""
    pool = make(backend).train(training)
    compare_with_formula(pool, clouds(*shape))
    if not training:
        expected = pool(clouds(*shape)).detach()
        with torch.no_grad():  # the folded path
            assert_close(pool(clouds(*shape)), expected)


@pytest.mark.parametrize("gamma", [-1.0, 0.0, 1e-6, -1e-6])
@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_gammas_of_any_sign_and_size(gamma, beta, training):
    pool = make(activation=None).train(training)
    with torch.no_grad():
        pool.layers[-1].norm.weight[::2] = gamma
        pool.layers[-1].norm.bias.fill_(beta)
    compare_with_formula(pool, clouds(4, 7, 3), activation=None)


def test_all_gammas_zero():
    """Then all points tie, and the first gets the gradient, as in torch.max."""
    pool = make()
    with torch.no_grad():
        pool.layers[-1].norm.weight.zero_()
        pool.layers[-1].norm.bias.fill_(0.5)
    compare_with_formula(pool, clouds(4, 300, 3))
    assert not pool(clouds(4, 300, 3), return_indices=True)[1].any()


def test_dead_channels(training):
    pool = make().train(training)
    with torch.no_grad():
        pool.layers[-1].norm.bias[::2] = -100.0
    assert not pool(clouds(4, 7, 3))[:, ::2].any()
    compare_with_formula(pool, clouds(4, 7, 3))


def test_all_channels_dead_send_no_gradient():
    pool = make()
    with torch.no_grad():
        pool.layers[-1].norm.bias.fill_(-100.0)
    x = clouds(4, 7, 3).requires_grad_()
    pool(x).sum().backward()
    assert not x.grad.any()
    assert all(not p.grad.any() for p in pool.parameters())


def test_duplicated_points(training):
    pool = make().train(training)
    x = clouds(4, 1, 3).expand(4, 7, 3)
    compare_with_formula(pool, x, tied_points=True)


def test_some_points_twice(training):
    pool = make().train(training)
    x = clouds(4, 5, 3)
    twice = torch.cat([x, x], dim=1).requires_grad_()
    plain = SharedMLPMaxPool(WIDTHS, fused=False).double().train(training)
    plain.load_state_dict(pool.state_dict())
    plain_twice = twice.detach().clone().requires_grad_()
    pool(twice).square().sum().backward()
    plain(plain_twice).square().sum().backward()
    assert twice.grad is not None
    assert plain_twice.grad is not None
    together = twice.grad.unflatten(1, (2, 5)).sum(1)
    plain_together = plain_twice.grad.unflatten(1, (2, 5)).sum(1)
    assert_close(together, plain_together)


def test_constant_inputs():
    """No spread: every normalised value is zero, and what comes out is beta."""
    pool: Any = SharedMLPMaxPool([3, 9], fused=True).double()
    randomize(pool)
    x = torch.full((4, 7, 3), 0.37, dtype=torch.float64).requires_grad_()
    y = pool(x)
    assert_close(y, pool.layers[0].norm.bias.detach().relu().expand(4, 9))
    y.sum().backward()
    # A gradient through a variance of zero is rounding times 1 / sqrt(eps), in torch's as in ours.
    assert x.grad is not None
    assert x.grad.abs().max() < 1e4
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_mean_a_thousand_times_the_spread(dtype):
    """Where E[x^2] - m^2 would lose all digits of float32.

    Batch norm takes the mean off again, so the formula gets the same points without it: with it,
    the plain path itself is a million times less exact here than the fused one.
    """
    moved = (clouds(4, 700, 3) + 1000.0).to(dtype).requires_grad_()
    near = (moved.detach().double() - 1000.0).requires_grad_()
    pool = SharedMLPMaxPool([3, 9], fused=True)
    randomize(pool)
    oracle = SharedMLPMaxPool([3, 9], fused=False).double()
    oracle.load_state_dict(pool.state_dict())
    pool = pool.to(dtype)
    y, expected = pool(moved), oracle(near)
    y.square().sum().backward()
    expected.square().sum().backward()
    layer: Any = pool.layers[0]
    exact: Any = oracle.layers[0]
    for got, want, name in [
        (y, expected, "output"),
        (moved.grad, near.grad, "input gradient"),
        (layer.linear.weight.grad, exact.linear.weight.grad, "weight gradient"),
        (layer.norm.weight.grad, exact.norm.weight.grad, "gamma gradient"),
        (layer.norm.bias.grad, exact.norm.bias.grad, "beta gradient"),
        (layer.norm.running_var, exact.norm.running_var, "running variance"),
    ]:
        assert_close(got.detach(), want.detach().to(dtype), kind="fused", name=name)


@settings(max_examples=20, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 12), st.integers(1, 90)),
    widths=st.lists(st.integers(1, 8), min_size=1, max_size=2),
    extra=st.integers(1, 20),
    backend=st.sampled_from(BACKENDS),
    columns=st.sampled_from([1, 16, 70, 1024]),
    gathered=st.sampled_from([1, 100, 2**19]),
    training=st.booleans(),
)
def test_any_shape(shape, widths, extra, backend, columns, gathered, training):
    if training and shape[0] * shape[1] < 2:
        return
    torch.manual_seed(0)
    pool = SharedMLPMaxPool([*widths, widths[-1] + extra], backend=backend, fused=True).double()
    randomize(pool)
    normal = tiles._CPU_POINTS, argmax_tiles.GATHERED
    # Tiles, and parts of them, of every relation to the clouds.
    tiles._CPU_POINTS, argmax_tiles.GATHERED = columns, gathered
    try:
        x = clouds(*shape, widths[0])
        y = pool.train(training)(x)
        expected = SharedMLP([*widths, widths[-1] + extra]).double().train(training)
        state = {k: v.reshape(expected.state_dict()[k].shape) for k, v in pool.state_dict().items()}
        if not training:
            expected.load_state_dict(state)
            assert_close(y, expected(x).max(-2).values)
        compare_with_formula(pool, x, tied_points=True)
    finally:
        tiles._CPU_POINTS, argmax_tiles.GATHERED = normal


@pytest.mark.parametrize("training", [True, False])
def test_gradcheck_to_the_second_order(training):
    pool: Any = SharedMLPMaxPool([3, 5], activation="leaky_relu", fused=True).double()
    randomize(pool.train(training))
    layer: Any = layer_tensors(pool.layers[0])
    x = clouds(3, 4, 3).requires_grad_()

    def run(x, weight, gamma, beta):
        norm = layer.norm._replace(weight=gamma, bias=beta)
        layers = [layer._replace(weight=weight, norm=norm)]
        result = run_max(make_plan(layers, 12, 3, must=True), x)
        assert result is not None
        return result[0]

    inputs = (x, *(p.detach().requires_grad_() for p in (layer.weight, *layer.norm[:2])))
    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs)


def test_the_result_does_not_depend_on_the_number_of_threads():
    x = clouds(6, 700, 3, dtype=torch.float32)
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            pool = make(dtype=torch.float32)
            inputs = x.clone().requires_grad_()
            # One layer alone: torch's own kernels in front of it do depend on the threads.
            last: Any = nn.Sequential(pool.layers[-1])[0]
            found = argmax_op.linear_argmax(
                inputs.repeat(1, 1, 2),
                last.linear.weight,
                torch.ones(9),
                torch.zeros(6),
                moments=True,
                search_dtype=torch.float32,
            )
            (found.values.sum() + found.second_moment.sum()).backward()
            results.append(
                (found.values, found.second_moment, inputs.grad, last.linear.weight.grad)
            )
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        for value, first in zip(result, results[0], strict=True):
            assert torch.equal(value, first)
