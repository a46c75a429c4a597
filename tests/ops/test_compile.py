"""torch.compile keeps one graph, with the fused layers in it as operators."""

import shutil
from typing import Any

import pytest
import torch

from sharedmlp import SharedMLPMaxPool, create_model
from sharedmlp.ops.torch_internals import COMPILER_FOLLOWS_PLAN
from tests.covering import pairwise
from tests.models.small import SMALL
from tests.ops.compare import BACKENDS, LAYERS, WIDTHS, make, points, same

needs_operators = pytest.mark.skipif(
    not COMPILER_FOLLOWS_PLAN, reason="before torch 2.12 the graph has the plain operations"
)
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")


@pytest.fixture(autouse=True)
def _forget_compiled_code():
    torch._dynamo.reset()


def step(module):
    x = points(3, 400, 3).requires_grad_()
    y = module(x)
    y.square().sum().backward()
    return y, x.grad, [p.grad for p in module.parameters()]


@pytest.mark.parametrize(
    ("kind", "backend", "training"),
    [
        ("mlp", "linear", True),
        ("pool", "conv1d", False),
        ("max_mean", "conv2d", True),
        ("tnet", "linear", False),
    ],
)
def test_a_training_step(kind, backend, training):
    check_a_training_step(kind, backend, backend != "conv1d", training, "aot_eager")


@pytest.mark.slow
@pairwise(backend=BACKENDS, kind=LAYERS, fullgraph=[True, False], training=[True, False])
def test_a_training_step_of_all(kind, backend, fullgraph, training):
    check_a_training_step(kind, backend, fullgraph, training, "aot_eager")


def check_a_training_step(kind, backend, fullgraph, training, compiler):
    def prepare(module):
        if module.training and kind == "tnet":
            return module  # a T-Net's head sees three rows: compared in evaluation
        return torch.compile(module, backend=compiler, fullgraph=fullgraph)

    same(step, kind, backend, training=training, prepare=prepare, plain=False)


@pytest.mark.slow
@needs_compiler
@pairwise(backend=BACKENDS, kind=LAYERS, training=[True, False])
def test_inductor(kind, backend, training):
    check_a_training_step(kind, backend, True, training, "inductor")
    check_an_evaluation(kind, backend, "inductor")


@pytest.mark.parametrize(("kind", "backend"), [("mlp", "linear"), ("pool", "conv2d")])
def test_an_evaluation(kind, backend):
    check_an_evaluation(kind, backend, "aot_eager")


def check_an_evaluation(kind, backend, compiler):
    def use(module):
        with torch.no_grad():
            run = torch.compile(module, backend=compiler, fullgraph=True)
            return run(points(3, 400, 3)), run(points(2, 70, 3))

    same(use, kind, backend, plain=False)


@needs_operators
@pytest.mark.parametrize(
    ("backend", "training"),
    [
        ("linear", True),
        ("conv1d", False),
        pytest.param("conv1d", True, marks=pytest.mark.slow),
        pytest.param("linear", False, marks=pytest.mark.slow),
        ("conv2d", True),
        pytest.param("conv2d", False, marks=pytest.mark.slow),
    ],
)
def test_the_graph_has_the_operators_in_it(backend, training):
    names: list[str] = []

    def compiler(graph, inputs):
        names.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    module = make("pool", backend).train(training)
    with torch.set_grad_enabled(training):
        torch.compile(module, backend=compiler, fullgraph=True)(points(3, 400, 3))
    wanted = ["linear_argmax", "moments"] if training else ["folded_max"]
    for name in wanted:
        assert any(f"sharedmlp.{name}" in found for found in names), names


@pytest.mark.parametrize(
    ("backend", "training"),
    [("linear", True), pytest.param("conv1d", False, marks=pytest.mark.slow)],
)
def test_a_whole_model_is_one_graph(backend, training):
    torch.manual_seed(0)
    few = {**SMALL["pointnet_vanilla"], "transforms": "input"}
    model = create_model("pointnet", 5, backend=backend, **few).double().train(training)
    explained = torch._dynamo.explain(model)(points(4, 20, 3))
    assert explained.graph_count == 1
    assert explained.graph_break_count == 0


@needs_operators
def test_winners_and_cumulative_statistics(training):
    def prepare(module):
        for layer in module.layers:
            layer.norm.momentum = None
        layer.activation = None

    def use(module):
        run = module
        if module.fused:  # torch cannot compile its own batch norm's cumulative average
            run = torch.compile(module, backend="aot_eager", fullgraph=True)
        return [run(points(3, 40, 3, seed=seed), return_indices=True) for seed in (1, 2)]

    same(use, "pool", "linear", training=training, prepare=prepare, plain=False)


def test_clouds_of_different_sizes_break_the_graph_and_work(training):
    batch = torch.arange(3).repeat_interleave(torch.tensor([20, 5, 15]))

    def use(module):
        return torch.compile(module, backend="aot_eager")(points(40, 3), batch=batch)

    same(use, "pool", "linear", training=training, plain=False)


@pytest.mark.parametrize("name", ["linear_argmax", "linear_bn_relu", "moments", "folded_max"])
def test_operators_pass_the_checks_of_torch(name):
    x, width = points(20, 3).requires_grad_(), 6
    center, weight = points(3, seed=2), points(width, 3, seed=3).requires_grad_()
    bias = points(width, seed=4).requires_grad_()
    wide, sign = points(9, width, seed=5).requires_grad_(), torch.ones(9).double()
    after = points(width, seed=6)
    clouds = x.detach().view(4, 5, 3)
    arguments: dict[str, list[Any]] = {
        "moments": [(x, center)],
        "linear_bn_relu": [
            (x, center, weight, bias, after),
            (x.detach(), center, weight, bias, None),
        ],
        "linear_argmax": [
            (x.view(4, 5, 3), wide, center, weight, bias, sign, after, True, torch.float64, []),
            (clouds, weight, None, None, None, sign[:6], center, False, torch.float64, []),
        ],
        "folded_max": [
            (x.detach().view(4, 5, 3), [weight.detach()], [bias.detach()], "relu", [0.0]),
        ],
    }
    operator = getattr(torch.ops.sharedmlp, name).default
    for some in arguments[name]:
        torch.library.opcheck(operator, some)


@needs_operators
@pytest.mark.parametrize(
    "backend", ["conv2d", *(pytest.param(b, marks=pytest.mark.slow) for b in BACKENDS[:2])]
)
def test_autocast_inside_a_graph(backend):
    module = SharedMLPMaxPool(WIDTHS, backend=backend).eval()
    x = points(3, 40, 3, dtype=torch.float32)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        want = module(x)
        got = torch.compile(module, backend="aot_eager", fullgraph=True)(x)
    assert got.dtype == want.dtype == torch.bfloat16
    torch.testing.assert_close(got, want)
