"""Edge convolution against the plain formula on the edges, in every backend and on both paths."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from sharedmlp import EdgeConv
from sharedmlp.convert import convert_backend
from tests.covering import pairwise
from tests.formula import Formula, compare_parameters, randomize, scale_of
from tests.tolerances import assert_close

BACKENDS = ["linear", "conv1d", "conv2d"]
SIZES = {
    # clouds, points, centers or None, neighbors
    "the points themselves": (2, 11, None, 4),
    "two sets": (3, 9, 7, 5),
    "one neighbor": (2, 6, 8, 1),
    "one cloud": (1, 30, None, 3),
}
WIDTHS = {"one layer": [5, 16], "narrow": [5, 3], "two layers": [5, 8, 12], "three": [5, 6, 7, 9]}
# Leaky ReLU in the tests' formula has another slope.
SLOPE = 0.01


def random(*shape, seed=1, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=dtype)


def make(widths=(5, 16), backend="linear", dtype=torch.float64, **options):
    torch.manual_seed(0)
    layer = EdgeConv(widths, backend=backend, negative_slope=SLOPE, **options).to(dtype)
    randomize(layer.pool)
    return layer


def inputs(size="the points themselves", dtype=torch.float64):
    clouds, num_points, num_centers, num_neighbors = SIZES[size]
    x = random(clouds, num_points, 5, dtype=dtype) + 1
    centers = None if num_centers is None else random(clouds, num_centers, 5, seed=2, dtype=dtype)
    generator = torch.Generator().manual_seed(3)
    shape = (clouds, num_centers or num_points, num_neighbors)
    return x, torch.randint(num_points, shape, generator=generator), centers


def edges_of(x, neighbors, centers):
    ends = x if centers is None else centers
    rows = []
    for cloud in range(len(x)):
        of_neighbors = x[cloud][neighbors[cloud]]
        of_centers = ends[cloud][:, None].repeat(1, neighbors.shape[2], 1)
        rows.append(torch.cat([of_neighbors - of_centers, of_centers], -1))
    return torch.stack(rows)


def compare(layer, x, neighbors, centers, norm="batch", activation="leaky_relu"):
    """Compare outputs, winners, gradients of both ends and of parameters, and statistics."""
    formula = Formula.of(layer.pool, norm, activation)
    leaves: list[Any] = [None if t is None else t.clone().requires_grad_() for t in (x, centers)]
    plain: list[Any] = [None if t is None else t.clone().requires_grad_() for t in (x, centers)]
    edges = edges_of(plain[0], neighbors, plain[1])
    want, positions = formula(edges.flatten(0, 2)).view(*neighbors.shape, -1).max(2)
    got, winners = layer(leaves[0], neighbors, leaves[1], return_indices=True)
    assert_close(got.detach(), want.detach(), kind="fused", name="output")
    off = want == 0 if activation == "relu" else torch.zeros_like(want).bool()
    assert torch.equal(winners[~off], neighbors.gather(2, positions)[~off])
    direction = random(*want.shape, seed=4, dtype=x.dtype)
    (got * direction).sum().backward()
    (want * direction).sum().backward()
    for found, expected in zip(leaves, plain, strict=True):
        if found is not None:
            scale = scale_of(expected.grad)
            assert_close(found.grad, expected.grad, kind="fused", scale=scale, name="input")
    compare_parameters(layer.pool, formula, kind="fused")


@pairwise(
    size=list(SIZES),
    widths=list(WIDTHS),
    backend=BACKENDS,
    dtype=[torch.float64, torch.float32],
    mode=["train", "eval"],
    norm=["batch", None],
    activation=["leaky_relu", "relu", None],
    bias=[True, None],
    fused=[True, "auto", False],
)
def test_numbers_are_those_of_the_formula_on_edges(
    size, widths, backend, dtype, mode, norm, activation, bias, fused
):
    layer = make(
        WIDTHS[widths], backend, dtype, norm=norm, activation=activation, bias=bias, fused=fused
    ).train(mode == "train")
    x, neighbors, centers = inputs(size, dtype)
    compare(layer, x, neighbors, centers, norm, activation)


@pytest.mark.parametrize("momentum", [None, 0.3])
def test_momentum(momentum):
    layer = make(norm_kwargs={"momentum": momentum}, fused=True)
    compare(layer, *inputs())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("widths", list(WIDTHS))
def test_folded_without_gradients(backend, widths):
    layer = make(WIDTHS[widths], backend, fused=True).eval()
    plain = copy.deepcopy(layer)
    plain.fused = plain.pool.fused = False
    with torch.no_grad():
        assert_close(layer(*inputs()), plain(*inputs()), kind="fused")


def test_twenty_steps_in_every_backend():
    states = []
    for backend, fused in [("linear", False), *((backend, True) for backend in BACKENDS)]:
        options = {"backend": backend, "fused": fused}
        layers = nn.ModuleList([make([5, 6, 16], **options), make([16, 8], **options)])
        optimizer = torch.optim.Adam(layers.parameters(), 1e-2)
        x, neighbors, _ = inputs()
        for _ in range(20):
            optimizer.zero_grad()
            layers[1](layers[0](x, neighbors), neighbors).square().mean().backward()
            optimizer.step()
        states.append(layers.state_dict())
    for state in states[1:]:
        assert list(state) == list(states[0])
        for name, value in states[0].items():
            assert_close(state[name].view_as(value), value, kind="training, fused", scale=1.0)


def test_backends_load_each_other():
    x, neighbors, _ = inputs()
    source = make(backend="linear").eval()
    for backend in BACKENDS:
        target = EdgeConv([5, 16], backend=backend, negative_slope=SLOPE).double().eval()
        target.load_state_dict(source.state_dict())
        assert_close(target(x, neighbors), source(x, neighbors), kind="fused")
        converted: Any = convert_backend(source, backend).module
        assert converted.pool.backend == backend
        assert_close(converted(x, neighbors), source(x, neighbors), kind="fused")


def test_the_default_activation_is_that_of_dgcnn():
    layer: Any = EdgeConv([3, 64, 64])
    slopes = [part.activation.negative_slope for part in layer.pool.layers]
    assert slopes == [0.2, 0.2]
    assert layer.k == 20
    assert (layer.in_channels, layer.out_channels) == (3, 64)
    assert layer.pool.layers[0].linear.weight.shape == (64, 6)


@pytest.mark.parametrize(("where", "width"), [("features", 5), ("coordinates", 3)])
def test_neighbors_are_found(where, width):
    x = inputs()[0]
    leaf = x.clone().requires_grad_()
    layer = make(k=4, neighbors_in=where)
    y = layer(leaf)
    points = x[..., :width]
    distances = (points[:, :, None] - points[:, None]).square().sum(-1)
    found = distances.sort(-1).indices[..., :4]
    plain = x.clone().requires_grad_()
    want = layer(plain, found)
    assert torch.equal(y, want)
    for output, tensor in ((y, leaf), (want, plain)):
        output.square().sum().backward()
        assert tensor.grad is not None
    assert torch.equal(leaf.grad, plain.grad)


def test_a_smaller_cloud_than_k_repeats_its_nearest_point():
    x = inputs()[0]
    few = make(k=11).eval()
    many = make(k=20).eval()
    assert_close(many(x), few(x), kind="fused")


@pytest.mark.parametrize("widths", list(WIDTHS))
def test_autocast(widths):
    x, neighbors, _ = inputs(dtype=torch.float32)
    results = []
    for fused in ("auto", False):
        layer = make(WIDTHS[widths], dtype=torch.float32, fused=fused)
        with torch.autocast("cpu", torch.bfloat16):
            results.append(layer(x, neighbors))
    assert results[0].dtype == results[1].dtype
    # bfloat16 keeps 8 bits
    assert_close_in_bfloat16(*results)


def assert_close_in_bfloat16(found, expected):
    assert (found.float() - expected.float()).abs().max() < 0.05 * expected.abs().max()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("widths", ["one layer", "two layers"])
def test_numbers_that_are_not_finite_are_those_of_the_plain_path(value, widths, training):
    x, neighbors, _ = inputs()
    x[0, 3, 1] = value
    results = []
    for fused in (True, False):
        layer = make(WIDTHS[widths], fused=fused).train(training)
        results.append([layer(x, neighbors), *layer.buffers()])
    for found, expected in zip(*results, strict=True):
        assert torch.equal(found.isnan(), expected.isnan())
        assert torch.allclose(found, expected, equal_nan=True)


def test_hooks_are_called(training):
    x, neighbors, _ = inputs()
    layer = make().train(training)
    assert layer.not_supported_reasons(x) == []
    seen = []
    layer.pool.layers[0].norm.register_forward_hook(lambda *_: seen.append(1))
    assert "hooks" in layer.not_supported_reasons()[0]
    layer(x, neighbors)
    assert seen == [1]


def test_forward_ad_takes_the_plain_path():
    x, neighbors, _ = inputs()
    layer = make().eval()
    product: Any = torch.func.jvp(lambda x: layer(x, neighbors), (x,), (torch.ones_like(x),))[1]
    step = 1e-6
    want = (layer(x + step, neighbors) - layer(x - step, neighbors)) / (2 * step)
    assert torch.allclose(product, want, atol=1e-5)


@pytest.mark.parametrize("widths", list(WIDTHS))
def test_double_backward(widths):
    x, neighbors, _ = inputs("one cloud")
    results = []
    for fused in (True, False):
        layer, leaf = make(WIDTHS[widths], fused=fused), x.clone().requires_grad_()
        y = layer(leaf, neighbors)
        (of_x,) = torch.autograd.grad(y.square().sum(), leaf, create_graph=True)
        results.append([of_x.detach(), *torch.autograd.grad(of_x.square().sum(), leaf)])
    for found, expected in zip(*results, strict=True):
        assert_close(found, expected, kind="fused")


@pytest.mark.parametrize("size", list(SIZES))
def test_small_inputs_take_the_plain_path(size, monkeypatch):
    monkeypatch.setattr("sharedmlp.ops.cost.MIB", 2**20)
    layer, plain = make(), make(fused=False)
    assert torch.equal(layer(*inputs(size)), plain(*inputs(size)))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"activation": "gelu"}, "monotone"),
        ({"norm": "layer"}, "norm"),
    ],
)
def test_fused_only_where_it_can_be(options, reason):
    with pytest.raises(ValueError, match=reason):
        EdgeConv([3, 8], fused=True, **options)
    x = random(2, 6, 3, dtype=torch.float32)
    neighbors = torch.randint(6, (2, 6, 4), generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    layer = EdgeConv([3, 8], **options)
    want = layer.pool(edges_of(x, neighbors, None))
    assert_close(layer(x, neighbors), want)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "positive"),
        ({"neighbors_in": "space"}, "neighbors_in"),
        ({"fused": "yes"}, "fused"),
        ({"backend": "conv3d"}, "backend"),
        ({"channels": [3]}, "channels"),
        ({"channels": []}, "channels"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        EdgeConv(**{"channels": [3, 8], **arguments})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(6, 3)}, r"\(B, N, 3\)"),
        ({"x": torch.zeros(2, 6, 4)}, r"\(B, N, 3\)"),
        ({"x": torch.zeros(2, 0, 3)}, "one point"),
        ({"neighbors": torch.zeros(2, 5, 4, dtype=torch.int64)}, r"\(2, 6, K\)"),
        ({"neighbors": torch.zeros(2, 6, dtype=torch.int64)}, r"\(2, 6, K\)"),
        ({"neighbors": torch.zeros(2, 6, 0, dtype=torch.int64)}, "at least 1"),
        ({"neighbors": torch.zeros(2, 6, 4, dtype=torch.int32)}, "int64"),
        ({"neighbors": torch.full((2, 6, 4), 6)}, "0 to 5, got 6 to 6"),
        ({"neighbors": torch.full((2, 6, 4), -1)}, "got -1"),
        ({"centers": torch.zeros(3, 6, 3)}, "2 clouds"),
        ({"centers": torch.zeros(2, 6, 4)}, "centers"),
        ({"centers": torch.zeros(2, 6, 3), "neighbors": None}, "along with centers"),
        ({"x": torch.zeros(1, 1, 3), "neighbors": torch.zeros(1, 1, 1).long()}, "two edges"),
    ],
)
def test_wrong_inputs(change, message):
    given = {"x": torch.zeros(2, 6, 3), "neighbors": torch.zeros(2, 6, 4).long(), **change}
    with pytest.raises(ValueError, match=message):
        EdgeConv([3, 8])(**given)
