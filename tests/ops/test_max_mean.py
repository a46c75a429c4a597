"""Max and mean after a pointwise layer against the plain formula."""

import math

import pytest
import torch
from torch import Tensor

from sharedmlp.ops.layer import Activation, BatchNorm, PointwiseTensors
from sharedmlp.ops.max_mean import max_mean_reasons, plan_max_mean, run_max_mean
from tests.covering import pairwise
from tests.formula import scale_of
from tests.tolerances import assert_close

# One point, one cloud, less than a tile, a tile, two tiles and a rest, several clouds in a tile.
SHAPES = [(3, 1), (1, 700), (2, 511), (2, 512), (2, 1300), (40, 60)]
NORMS = ["batch", "running", None]


def random(*shape, seed=1, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def make(norm="batch", slope=0.2, dtype=torch.float64, channels=5, width=7, bias=True):
    """A layer with norm weights of both signs, one of them zero and one tiny."""
    weight = random(width, channels, seed=2, dtype=dtype).requires_grad_()
    offset = random(width, seed=3, dtype=dtype).requires_grad_() if bias else None
    batch_norm = None
    if norm:
        gamma = random(width, seed=4, dtype=dtype)
        gamma[0], gamma[1], gamma[2] = 0.0, 1e-6, -1e-6
        batch_norm = BatchNorm(
            gamma.requires_grad_(),
            random(width, seed=5, dtype=dtype).requires_grad_(),
            random(width, seed=6, dtype=dtype),
            random(width, seed=7, dtype=dtype).square() + 0.5,
            torch.tensor(0),
            norm == "batch",
            0.1,
            1e-5,
        )
    return PointwiseTensors(weight, offset, batch_norm, Activation("leaky_relu", slope))


def leaves(layer):
    norm = layer.norm
    return [
        t
        for t in (layer.weight, layer.bias, norm and norm.weight, norm and norm.bias)
        if t is not None
    ]


def formula(layer, x):
    """Return the maxima and means, and running statistics after the call."""
    y = x @ layer.weight.T
    y = y if layer.bias is None else y + layer.bias
    running = []
    if layer.norm is not None:
        norm = layer.norm
        mean, variance = norm.running_mean, norm.running_var
        running = [mean, variance]
        if norm.training:
            count = y[..., 0].numel()
            mean = y.mean((0, 1))
            variance = (y - mean).square().mean((0, 1))
            running = [
                0.9 * old + 0.1 * new.detach()
                for old, new in zip(running, (mean, variance * count / (count - 1)), strict=True)
            ]
        y = (y - mean) / (variance + norm.eps).sqrt() * norm.weight + norm.bias
    z = torch.where(y > 0, y, layer.activation.parameter * y)
    first = z.max(1).indices[:, None]
    return torch.cat([z.gather(1, first)[:, 0], z.sum(1) / z.shape[1]], 1), running


def run(layer, x) -> Tensor:
    plan = plan_max_mean([layer], x.shape[0] * x.shape[1], len(x), must=True)
    assert plan.path != "plain", plan.reasons
    pooled = run_max_mean(plan, x)
    assert pooled is not None
    return pooled


def gradients(pooled, tensors):
    direction = random(*pooled.shape, seed=9, dtype=pooled.dtype)
    return torch.autograd.grad((pooled * direction).sum(), tensors)


def doubled(layer):
    """A copy in float64: in float32 a tiny norm weight makes ties of the formula's outputs."""

    def copy(tensor):
        is_number = isinstance(tensor, Tensor) and tensor.is_floating_point()
        return tensor.detach().double().requires_grad_() if is_number else tensor

    norm = layer.norm and BatchNorm(*map(copy, layer.norm))
    return layer._replace(weight=copy(layer.weight), bias=copy(layer.bias), norm=norm)


def compare(layer, x, kind="fused"):
    plain, plain_x = doubled(layer), x.double().requires_grad_()
    want, running = formula(plain, plain_x)
    wanted = [t.to(x.dtype) for t in gradients(want, [plain_x, *leaves(plain)])]
    x = x.requires_grad_()
    got = run(layer, x)
    found = gradients(got, [x, *leaves(layer)])
    assert_close(got.detach(), want.detach().to(x.dtype), kind=kind)
    assert_close(found[0], wanted[0], kind=kind, scale=scale_of(wanted[0]), name="input")
    scale = max(map(scale_of, wanted[1:]))
    for a, b in zip(found[1:], wanted[1:], strict=True):
        assert_close(a, b, kind=kind, scale=scale)
    if layer.norm is not None:
        for a, b in zip((layer.norm.running_mean, layer.norm.running_var), running, strict=True):
            assert_close(a, b.detach().to(x.dtype), kind=kind, name="running statistics")


@pairwise(
    shape=SHAPES,
    norm=NORMS,
    slope=[0.0, 0.2, 1.0, 1.5],
    dtype=[torch.float64, torch.float32],
    bias=[True, False],
    strides=["BNC", "BCN", "every other point"],
)
def test_the_numbers_are_those_of_the_formula(shape, norm, slope, dtype, bias, strides):
    x = random(*shape, 5, dtype=dtype) * random(5, seed=8, dtype=dtype) + 3
    if strides == "BCN":
        x = x.transpose(1, 2).contiguous().transpose(1, 2)
    elif strides == "every other point":
        x = x.repeat_interleave(2, 1)[:, ::2]
    compare(make(norm, slope, dtype, bias=bias), x)


def test_far_from_the_origin_nothing_cancels():
    compare(make(), random(2, 700, 5) + 1e3)


def test_the_numbers_of_a_wide_layer_in_float32():
    layer = make(dtype=torch.float32, channels=64, width=128, bias=False)
    compare(layer, random(3, 1024, 64, dtype=torch.float32))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["relu", "leaky_relu", "identity", "gelu", "silu", "tanh"])
def test_folded_for_every_activation(norm, name):
    layer = make("running" if norm else None)._replace(activation=Activation(name, 0.2))
    x = random(2, 2300, 5)
    with torch.no_grad():
        plan = plan_max_mean([layer], 1, 1, must=True)
        assert plan.path == "fold"
        got = run(layer, x)
        plain = x @ layer.weight.T + layer.bias
        if layer.norm is not None:
            of_norm = layer.norm
            plain = (plain - of_norm.running_mean) / (of_norm.running_var + of_norm.eps).sqrt()
            plain = plain * of_norm.weight + of_norm.bias
        y = layer.activation(plain)
    assert_close(got, torch.cat([y.amax(1), y.mean(1)], 1), kind="fused")


@pytest.mark.parametrize("slope", [0.0, 0.2])
def test_ties_give_the_gradient_to_the_first(slope):
    """Integers, whose products are exact: each maximum is there many times, in both tiles."""
    x = random(1, 1024, 5).sign()
    layer = make(slope=slope)
    with torch.no_grad():
        layer.weight.mul_(2).round_()
        y = x @ layer.weight.T
        assert ((y == y.amax(1, keepdim=True)).sum(1) > 1).any()
    compare(layer, x)


def test_all_points_equal():
    """Then y is its mean up to rounding, whose sign decides: only the output is compared."""
    layer, x = make(), random(1, 1, 5).expand(3, 600, 5)
    with torch.no_grad():
        assert_close(run(layer, x), formula(make(), x)[0], kind="fused")


def test_a_dead_channel_is_exact():
    layer = make(bias=False)
    with torch.no_grad():
        layer.weight[3:5] = 0.0
    compare(layer, random(2, 700, 5))


@pytest.mark.parametrize("norm", NORMS)
def test_gradcheck(norm):
    layer = make(norm, channels=2, width=4)
    # a step of gradcheck would lift a channel of weight zero or 1e-6 over its kink
    if layer.norm is not None:
        with torch.no_grad():
            layer.norm.weight[:3] = torch.tensor([0.7, -0.4, 1.1])

    def function(x, *parameters):
        weight, bias, *of_norm = parameters
        batch_norm = layer.norm
        if of_norm:
            batch_norm = batch_norm._replace(weight=of_norm[0], bias=of_norm[1])
        return run(PointwiseTensors(weight, bias, batch_norm, layer.activation), x)

    inputs = (random(2, 4, 2).requires_grad_(), *leaves(layer))
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("norm", NORMS)
def test_gradients_of_gradients_are_those_of_the_formula(norm):
    results = []
    for function in (run, lambda layer, x: formula(layer, x)[0]):
        layer, x = make(norm), random(2, 600, 5).requires_grad_()
        tensors = [x, *leaves(layer)]
        first = torch.autograd.grad(function(layer, x).square().sum(), tensors, create_graph=True)
        total = torch.stack([g.square().sum() for g in first]).sum()
        results.append(torch.autograd.grad(total, tensors))
    scale = max(map(scale_of, results[1]))
    for found, wanted in zip(*results, strict=True):
        assert_close(found, wanted, kind="fused", scale=scale)


def test_only_the_gradients_that_are_asked_for():
    layer = make()
    got = run(layer, random(2, 9, 5))
    got.sum().backward()
    assert layer.weight.grad is not None
    x = random(2, 9, 5).requires_grad_()
    detached = layer._replace(weight=layer.weight.detach())
    run(detached, x).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("shape", [(1, 5000), (40, 60), (7, 1024)])
def test_not_a_bit_depends_on_the_number_of_threads(shape):
    before = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            layer = make(dtype=torch.float32, channels=16, width=32)
            x = random(*shape, 16, dtype=torch.float32).requires_grad_()
            pooled = run(layer, x)
            results.append([pooled, *gradients(pooled, [x, *leaves(layer)])])
            with torch.no_grad():
                results[-1].append(run(make("running", dtype=torch.float32, channels=16), x))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e300])
@pytest.mark.parametrize("where", ["x", "weight", "norm weight"])
def test_a_number_that_is_not_finite_changes_nothing(value, where):
    layer, x = make(), random(2, 600, 5)
    with torch.no_grad():
        if where == "x":
            x[1, 530, 2] = value
        elif where == "weight":
            layer.weight[3, 2] = value
        elif math.isfinite(value):
            return
        else:
            layer.norm.weight[3] = value
    state = [layer.norm.running_mean.clone(), layer.norm.running_var.clone()]
    assert run_max_mean(plan_max_mean([layer], 1200, 2, must=True), x) is None
    assert torch.equal(layer.norm.running_mean, state[0])
    assert torch.equal(layer.norm.running_var, state[1])
    assert layer.norm.num_batches_tracked == 0


def test_no_infinity_of_a_channel_without_weight():
    """Weight zero and bias zero: the threshold is NaN, below which is all."""
    layer = make(slope=0.2)
    with torch.no_grad():
        layer.norm.bias[0] = 0.0
    compare(layer, random(2, 700, 5))


def test_who_is_declined_and_why():
    layer = make()
    assert max_mean_reasons(layer) == []
    others = {
        "GELU is not a ReLU": layer._replace(activation=Activation("gelu")),
        "does not keep the order": layer._replace(activation=Activation("leaky_relu", -0.1)),
        "dropout stands between": layer._replace(dropout=True),
        "neither float32 nor float64": layer._replace(weight=layer.weight.bfloat16()),
    }
    for message, other in others.items():
        (reason,) = max_mean_reasons(other)
        assert message in reason
        assert plan_max_mean([other], 1, 1, must=True).reasons == (reason,)
    elsewhere = layer._replace(weight=layer.weight.detach().to("meta"))
    assert plan_max_mean([elsewhere], 1, 1, must=True).reasons == ("it is not on a CPU",)


def test_nothing_of_the_size_of_the_products_is_kept_but_the_products():
    kept = []

    def pack(tensor):
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run(make(width=64), random(2, 600, 5).requires_grad_())
    sizes = {t.data_ptr(): t.numel() for t in kept}
    assert sorted(size for size in sizes.values() if size >= 2 * 600 * 64) == [2 * 600 * 64]
