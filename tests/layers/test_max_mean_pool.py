"""The shared MLP with a max and a mean: against the plain formula, in every backend."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sharedmlp import SharedMLP
from sharedmlp.convert import convert_backend
from sharedmlp.layers import SharedMLPMaxMeanPool
from sharedmlp.ops import cost
from sharedmlp.ops.torch_internals import COMPILER_FOLLOWS_PLAN
from tests.covering import pairwise
from tests.formula import Formula, compare_parameters, randomize, scale_of
from tests.processes import run_processes
from tests.tolerances import assert_close

BACKENDS = ["linear", "conv1d", "conv2d"]
WIDTHS = [3, 6, 5]


def make(backend="linear", dtype=torch.float64, fused: Any = "auto", channels=None, **options):
    torch.manual_seed(0)
    options = {"activation": "leaky_relu", **options}
    pool = SharedMLPMaxMeanPool(channels or WIDTHS, backend=backend, fused=fused, **options)
    randomize(pool)
    return pool.to(dtype)


def random(*shape, seed=1, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


@pairwise(
    backend=BACKENDS,
    fused=[True, "auto", False],
    norm=["batch", None],
    activation=["relu", "leaky_relu", None],
    channels=[[3, 8], [3, 6, 5]],
    shape=[(4, 9), (3, 1), (1, 600), (2, 3, 7)],
    channel_dim=[-1, 1],
    dtype=[torch.float64, torch.float32],
    training=[True, False],
)
def test_the_numbers_are_those_of_the_formula(
    backend, fused, norm, activation, channels, shape, channel_dim, dtype, training
):
    options = {"norm": norm, "activation": activation, "channel_dim": channel_dim}
    pool = make(backend, dtype, fused, channels, **options).train(training)
    formula = Formula.of(pool, norm, activation)
    x = random(*shape, 3, dtype=dtype)
    plain = x.clone().requires_grad_()
    z = formula(plain.reshape(-1, 3)).view(*shape, -1)
    want = torch.cat([z.max(-2).values, z.sum(-2) / shape[-1]], -1)
    moved = x.movedim(-1, channel_dim).requires_grad_()
    got = pool(moved)
    assert_close(got.detach(), want.detach().movedim(-1, channel_dim), kind="fused")
    direction = random(*want.shape, seed=2, dtype=dtype)
    (got * direction.movedim(-1, channel_dim)).sum().backward()
    (want * direction).sum().backward()
    found = moved.grad.movedim(channel_dim, -1)
    assert_close(found, plain.grad, kind="fused", scale=scale_of(plain.grad), name="input")
    compare_parameters(pool, formula, "fused")
    with torch.no_grad():
        if not training:
            assert_close(pool(moved), got.detach(), kind="fused", name="without gradients")


def test_it_is_a_shared_mlp_and_its_pools():
    pool = make(fused=True)
    assert pool.out_channels == 10
    assert list(pool.state_dict()) == list(SharedMLP(WIDTHS).state_dict())
    assert pool.not_supported_reasons() == []
    x = random(2, 7, 3)
    assert pool._plan(x, 14, 2, must=False).path == "fuse"
    with torch.no_grad():
        assert pool.eval()._plan(x, 14, 2, must=False).path == "fold"


def test_in_evaluation_hidden_layers_are_folded_too():
    with torch.no_grad():
        plan = make().eval()._plan(random(2, 7, 3), 14, 2, must=True)
    assert len(plan.layers) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "gelu"}, "activation GELU is not a ReLU or leaky ReLU"),
        ({"norm": "layer"}, "LayerNorm: only batch norm"),
    ],
)
def test_what_cannot_be_fused_runs_plainly(options, message):
    pool = make(**options)
    assert any(message in reason for reason in pool.not_supported_reasons())
    with pytest.raises(ValueError, match=message):
        make(fused=True, **options)
    for mode in (True, False):
        pool.train(mode)
        mlp = SharedMLP(WIDTHS, fused=False, **{"activation": "leaky_relu", **options}).double()
        mlp.load_state_dict(pool.state_dict())
        y = mlp.train(mode)(random(2, 7, 3))
        assert_close(pool(random(2, 7, 3)), torch.cat([y.amax(1), y.mean(1)], 1))


def test_dropout_and_hooks_are_noticed():
    assert "dropout stands" in str(make(dropout=0.5).not_supported_reasons())
    pool = make()
    calls = []
    pool.layers[1].norm.register_forward_hook(lambda *_: calls.append(1))
    assert "hooks are registered" in str(pool.not_supported_reasons())
    pool(random(2, 7, 3))
    assert calls == [1]


@pytest.mark.parametrize(
    ("channel_dim", "shape"), [(-1, (4, 0, 3)), (-1, (0, 7, 3)), (1, (4, 3, 0)), (1, (4, 3))]
)
def test_it_needs_points(channel_dim, shape):
    pool = make(channel_dim=channel_dim).eval()
    with pytest.raises(ValueError, match="SharedMLPMaxMeanPool takes the max over the points"):
        pool(torch.zeros(shape))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_numbers_that_are_not_finite_become_what_the_plain_layers_make_of_them(value, training):
    x = random(2, 600, 3)
    x[1, 530, 1] = value
    pools = [make(fused=fused).train(training) for fused in ("auto", False)]
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            got, want = (pool(x) for pool in pools)
        torch.testing.assert_close(got, want, equal_nan=True)
    for got, want in zip(pools[0].buffers(), pools[1].buffers(), strict=True):
        torch.testing.assert_close(got, want, equal_nan=True)


def test_autocast():
    pools = [make(dtype=torch.float32, fused=fused) for fused in (True, False)]
    with torch.autocast("cpu", torch.bfloat16):
        got, want = (pool(random(4, 300, 3, dtype=torch.float32)) for pool in pools)
    assert got.dtype == want.dtype == torch.bfloat16
    torch.testing.assert_close(got, want, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("backend", BACKENDS)
def test_other_backends_by_conversion_and_by_file(backend):
    pool = make().eval()
    x = random(2, 7, 3)
    converted = convert_backend(pool, backend).module
    assert isinstance(converted, SharedMLPMaxMeanPool)
    assert converted.backend == backend
    loaded = make(backend).eval()
    loaded.load_state_dict(pool.state_dict())
    for other in (converted, loaded):
        assert_close(other(x), pool(x), kind="fused")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_export_records_the_plain_operations():
    pool = make().eval()
    x = random(2, 7, 3)
    points = torch.export.Dim("points", min=2, max=4096)
    exported = torch.export.export(pool, (x,), dynamic_shapes=[{1: points}])
    assert "sharedmlp" not in str(exported.graph)
    other = random(2, 11, 3)
    assert_close(exported.module()(other), pool(other), kind="fused")
    traced = torch.jit.trace(pool, x)
    assert_close(traced(other), pool(other), kind="fused")


@pytest.mark.skipif(not COMPILER_FOLLOWS_PLAN, reason="before torch 2.12 it is the plain layers")
def test_compiled_it_is_one_graph_with_the_operators_in_it(training):
    names: list[str] = []

    def compiler(graph, inputs):
        names.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    with torch.set_grad_enabled(training):
        torch.compile(make().train(training), backend=compiler, fullgraph=True)(random(3, 400, 3))
    for name in ["max_mean_products", "max_mean"] if training else ["folded_max_mean"]:
        assert any(f"sharedmlp.{name}" in found for found in names), names


# Five clouds here, two there: the counts of points differ too.
SHARES = [slice(0, 5), slice(5, 7)]


def clouds():
    return random(7, 11, 3)


def work(rank, folder):
    share = SHARES[rank]
    # Without "fused" one of them has so many points that it pays, the other has too few.
    cost.MIB = 5 * 11 * 9 * 8 // 32
    for backend, fused in zip(BACKENDS, [True, "auto", True], strict=True):
        pool = make(backend, fused=fused, norm="sync_batch", bias=True)
        whole = make(fused=False, bias=True)
        direction = random(7, 10, seed=3)
        wide = clouds().requires_grad_()
        want = whole(wide)
        (want * direction).sum().backward()
        own = clouds()[share].requires_grad_()
        parallel = DistributedDataParallel(pool)
        got = parallel(own)
        (got * direction[share]).sum().backward()
        assert_close(got.detach(), want.detach()[share], kind="fused")
        scale = scale_of(wide.grad)
        assert_close(own.grad, wide.grad[share], kind="fused", scale=scale)
        # DistributedDataParallel averages over the two processes.
        wanted = {name: parameter.grad / 2 for name, parameter in whole.named_parameters()}
        scale = max(map(scale_of, wanted.values()))
        for name, parameter in pool.named_parameters():
            found = parameter.grad.view_as(wanted[name])
            assert_close(found, wanted[name], kind="fused", scale=scale, name=name)
        for got_buffer, buffer in zip(pool.buffers(), whole.buffers(), strict=True):
            assert_close(got_buffer, buffer, kind="fused")
    return rank


def test_two_processes_that_share_statistics_are_one(tmp_path):
    assert run_processes(2, work, tmp_path) == [0, 1]


def test_torchs_own_sync_batch_norm_is_fused_too():
    pool = nn.SyncBatchNorm.convert_sync_batchnorm(make())
    assert pool.not_supported_reasons() == []
