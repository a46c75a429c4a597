"""The fused last layer against the plain formula, in the corners where it could differ."""

import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint

from sharedmlp import SharedMLP, SharedMLPMaxPool
from sharedmlp.layers import narrow, tiles, winners
from sharedmlp.layers.fused import can_fuse_narrow
from sharedmlp.layers.threads import run_jobs
from tests.formula import Formula, randomize, scale_of
from tests.formula import compare_with_formula as compare
from tests.tolerances import assert_close

BACKENDS = ["linear", "conv1d", "conv2d"]
DTYPES = [torch.float64, torch.float32]
WIDTHS = [3, 6, 9]


def compare_with_formula(pool, x, **options):
    compare(pool, x, pooled=True, kind="fused", **options)


def make(backend="linear", dtype=torch.float64, **options):
    torch.manual_seed(0)
    pool = SharedMLPMaxPool(WIDTHS, backend=backend, fused=True, **options).to(dtype)
    randomize(pool)
    return pool


def clouds(*shape, dtype=torch.float64, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture(params=[True, False], ids=["train", "eval"])
def training(request):
    return request.param


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", None])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "norm_kwargs",
    [{}, {"affine": False}, {"momentum": None}, {"track_running_stats": False}],
    ids=str,
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
    together, plain_together = (x.grad.unflatten(1, (2, 5)).sum(1) for x in (twice, plain_twice))
    assert_close(together, plain_together)


def test_constant_inputs():
    """No spread: every normalised value is zero, and what comes out is beta."""
    pool = SharedMLPMaxPool([3, 9], fused=True).double()
    randomize(pool)
    x = torch.full((4, 7, 3), 0.37, dtype=torch.float64).requires_grad_()
    y = pool(x)
    assert_close(y, pool.layers[0].norm.bias.detach().relu().expand(4, 9))
    y.sum().backward()
    # A gradient through a variance of zero is rounding times 1 / sqrt(eps), in torch's as in ours.
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
    layer, exact = pool.layers[0], oracle.layers[0]
    for got, want, name in [
        (y, expected, "output"),
        (moved.grad, near.grad, "input gradient"),
        (layer.linear.weight.grad, exact.linear.weight.grad, "weight gradient"),
        (layer.norm.weight.grad, exact.norm.weight.grad, "gamma gradient"),
        (layer.norm.bias.grad, exact.norm.bias.grad, "beta gradient"),
        (layer.norm.running_var, exact.norm.running_var, "running variance"),
    ]:
        assert_close(got.detach(), want.detach().to(dtype), kind="fused", name=name)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 90)),
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
    normal = tiles._CPU_POINTS, winners.GATHERED
    # Tiles, and parts of them, of every relation to the clouds.
    tiles._CPU_POINTS, winners.GATHERED = columns, gathered
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
        tiles._CPU_POINTS, winners.GATHERED = normal


@pytest.mark.parametrize("training", [True, False])
def test_gradcheck_to_the_second_order(training):
    pool = SharedMLPMaxPool([3, 5], activation="leaky_relu", fused=True).double().train(training)
    randomize(pool)
    layer = pool.layers[0]
    x = clouds(3, 4, 3).requires_grad_()

    def run(x, weight, gamma, beta):
        parameters = {
            "layers.0.linear.weight": weight,
            "layers.0.norm.weight": gamma,
            "layers.0.norm.bias": beta,
        }
        return torch.func.functional_call(pool, parameters, (x,))

    inputs = (x, layer.linear.weight, layer.norm.weight, layer.norm.bias)
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
            last = nn.Sequential(pool.layers[-1])[0]
            found = winners.find_winners(
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
    assert len(pool.not_supported_reasons()) == 4


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


@pytest.mark.parametrize("grad", [True, False])
def test_a_hook_on_a_narrow_layer_is_called(training, grad):
    pool = SharedMLPMaxPool(WIDTHS).train(training)
    calls = []
    pool.layers[0].linear.register_forward_hook(lambda *_: calls.append(1))
    with torch.set_grad_enabled(grad):
        pool(torch.randn(2, 7, 3))
    assert calls == [1]


def test_narrow_layers_to_the_second_order():
    x = clouds(9, 3).requires_grad_()
    center, behind = clouds(3, seed=2), clouds(5, seed=3)
    weight, bias = clouds(5, 3, seed=4).requires_grad_(), clouds(5, seed=5).requires_grad_()

    def layer(x, weight, bias):
        return narrow.narrow_moments(x, narrow.Narrow(center, weight, bias), behind)

    def layer_and_max(x, weight, bias, wide):
        found = winners.find_winners(
            x.view(3, 3, 3),
            wide,
            torch.ones(7, dtype=x.dtype),
            behind,
            moments=True,
            search_dtype=x.dtype,
            layer=narrow.Narrow(center, weight, bias),
        )
        return found.values, found.mean, found.second_moment

    for function, inputs in [
        (lambda x: narrow.input_moments(x, center), (x,)),
        (layer, (x, weight, bias)),
        (layer_and_max, (x, weight, bias, clouds(7, 5, seed=6).requires_grad_())),
    ]:
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_several_narrow_layers_on_more_rows_than_a_tile(backend, bias, affine):
    torch.manual_seed(0)
    options = {"bias": bias, "norm_kwargs": {"affine": affine}}
    pool = SharedMLPMaxPool([3, 4, 6, 9], backend=backend, fused=True, **options).double()
    randomize(pool)
    compare_with_formula(pool, clouds(5, 700, 3))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("options", [{}, {"bias": True}, {"norm_kwargs": {"affine": False}}])
@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("channel_dim", [-1, 1])
def test_a_fused_mlp_without_a_max(backend, dtype, options, grad, channel_dim, training):
    torch.manual_seed(0)
    mlp = SharedMLP(WIDTHS, backend=backend, fused=True, channel_dim=channel_dim, **options)
    mlp = mlp.to(dtype).train(training)
    randomize(mlp)
    x = clouds(5, 700, 3, dtype=dtype).movedim(-1, channel_dim)
    if grad:
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

    monkeypatch.setattr("sharedmlp.layers.shared_mlp.fused_mlp", refuse)
    monkeypatch.setattr("sharedmlp.layers.shared_mlp.folded_mlp", refuse)
    x = torch.randn(4, 7, 3)
    for options in [{"norm": "layer"}, {"activation": "gelu"}, {"dropout": 0.5}]:
        SharedMLP(WIDTHS, fused=True, **options)(x)
    hooked = SharedMLP(WIDTHS, fused=True)
    hooked.layers[0].linear.register_forward_hook(lambda *_: None)
    hooked(x)
    with torch.no_grad():
        hooked.eval()(x)
    mlp = SharedMLP(WIDTHS, fused=True)
    torch.export.export(mlp.eval(), (x,))
    mlp(x)
    SharedMLP(WIDTHS)(x)
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
    found = narrow.input_moments(x[0], tiles.sample_rows(x).mean(0))
    covariance = found.second - torch.outer(found.mean, found.mean)
    assert_close(covariance[0, 0], x.var(correction=0))


def test_a_narrowing_layer_takes_its_modules():
    pool = SharedMLPMaxPool([6, 3, 9], fused=True).double()
    assert not can_fuse_narrow(pool.layers[0])
    compare_with_formula(pool, clouds(4, 7, 6))


def test_fused_takes_the_fused_path_and_false_does_not(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("fused")

    monkeypatch.setattr("sharedmlp.layers.max_pool.fused_max_pool", refuse)
    monkeypatch.setattr("sharedmlp.layers.max_pool.folded_max_pool", refuse)
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


def test_inference_mode_and_dataloader_forks():
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


def test_each_thread_works_alone_also_if_its_first_job_needed_no_torch():
    before = torch.get_num_threads()
    seen = []

    def idle(jobs):
        for _ in jobs:
            time.sleep(0.005)  # so that every thread gets one

    def work(jobs):
        for _ in jobs:
            time.sleep(0.005)
            seen.append(torch.get_num_threads())

    try:
        torch.set_num_threads(3)
        for worker in (idle, work):
            run_jobs(worker, 12)
        assert set(seen) == {1}
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_norm_may_run_plainly_and_fused_in_one_graph():
    """Autograd saves the running statistics of the plain call, which the fused one then moves."""
    pool = make()
    x = clouds(4, 7, 3).requires_grad_()
    plain = super(SharedMLPMaxPool, pool).forward(x)
    (plain.sum() + pool(x).sum()).backward()
    assert x.grad.isfinite().all()
