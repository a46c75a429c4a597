"""An implementation of the ops is one object and one line; the plain formulas are the oracle."""

import pytest
import torch
from torch import nn

from sharedmlp import SharedMLP, SharedMLPMaxPool, fuse, fusion_report
from sharedmlp.ops.cpu.implementation import CPU
from sharedmlp.ops.implementations import IMPLEMENTATIONS
from sharedmlp.ops.interface import FoldedLayer, FoldedLinear
from sharedmlp.ops.layer import Activation
from sharedmlp.ops.reference import Reference
from tests.covering import pairwise
from tests.formula import randomize
from tests.ops.compare import points
from tests.tolerances import assert_close


class Toy(Reference):
    """The reference under another name, for everything, which counts its calls."""

    name = "toy"

    def __init__(self, reasons=()):
        self.reasons = list(reasons)
        self.calls = []

    def not_supported_reasons(self, workload):
        return self.reasons

    def __getattribute__(self, name):
        if name in ("linear_argmax", "moments", "linear_bn_relu", "folded_max", "folded_mlp"):
            self.calls.append(name)
        return super().__getattribute__(name)


@pytest.fixture
def toy():
    toy = Toy()
    IMPLEMENTATIONS.insert(0, toy)
    yield toy
    IMPLEMENTATIONS.remove(toy)


def step(module, x):
    y = module(x)
    y.square().sum().backward()
    return [y.detach(), *(p.grad for p in module.parameters()), *module.buffers()]


def compare(ours, plain, x):
    ours, plain = ours.double(), plain.double()
    ours.load_state_dict(plain.state_dict())
    scale = 1.0
    for got, want in zip(step(ours, x), step(plain, x), strict=True):
        scale = max(scale, want.abs().max().item())  # a bias before batch norm has rounding alone
        assert_close(got, want, kind="fused", scale=scale)


def test_layers_use_the_first_that_gives_no_reasons(toy, training):
    pool = SharedMLPMaxPool([3, 6, 9], fused=True).train(training)
    compare(pool, SharedMLPMaxPool([3, 6, 9], fused=False).train(training), points(4, 7, 3))
    assert toy.calls == (["moments", "linear_argmax"] if training else ["linear_argmax"])
    toy.calls.clear()
    batch = torch.tensor([0, 2, 2, 0, 0, 2])
    plain = SharedMLPMaxPool([3, 6, 9], fused=False).double().train(training)
    plain.load_state_dict(pool.state_dict())
    x = points(6, 3)
    assert_close(pool(x, batch=batch), plain(x, batch=batch), kind="fused")
    assert "linear_argmax" in toy.calls
    toy.calls.clear()
    mlp = SharedMLP([3, 6, 9], fused="auto").train(training)
    compare(mlp, SharedMLP([3, 6, 9], fused=False).train(training), points(4, 7, 3))
    assert toy.calls == (["moments", "linear_bn_relu", "linear_bn_relu"] if training else [])
    toy.calls.clear()
    with torch.no_grad():
        pool.eval()(points(4, 7, 3))
        mlp.eval()(points(4, 7, 3))
    assert [toy.calls[0], toy.calls[-1]] == ["folded_max", "folded_mlp"]


def test_fuse_uses_it(toy, training):
    network = nn.Sequential(nn.Conv1d(3, 9, 1), nn.BatchNorm1d(9), nn.AdaptiveMaxPool1d(1))
    plain = nn.Sequential(nn.Conv1d(3, 9, 1), nn.BatchNorm1d(9), nn.AdaptiveMaxPool1d(1))
    network, plain = fuse(network.train(training)), plain.train(training)
    compare(network, plain, points(4, 3, 7))
    assert fusion_report(network)[0].fused
    assert toy.calls == ["linear_argmax"]
    toy.calls.clear()
    with torch.no_grad():
        network.eval()(points(4, 3, 7))
    assert toy.calls[0] == "folded_max"


def test_who_declines_is_passed_over(toy):
    toy.reasons = ["it is a toy"]
    SharedMLPMaxPool([3, 9], fused=True)(points(4, 7, 3, dtype=torch.float32))
    assert toy.calls == []


def test_reasons_are_given_if_all_decline(monkeypatch):
    monkeypatch.setattr("sharedmlp.ops.implementations.IMPLEMENTATIONS", [Toy(["it is a toy"])])
    pool = SharedMLPMaxPool([3, 9], fused="auto")
    assert pool.not_supported_reasons() == ["it is a toy"]
    pool(torch.randn(4, 7, 3))
    network = fuse(nn.Sequential(nn.Conv1d(3, 9, 1), nn.AdaptiveMaxPool1d(1)))
    network(torch.randn(4, 3, 7))
    assert fusion_report(network)[0].detail == "it is a toy"


def gradients(outputs, inputs):
    used = [y for y in outputs if y.is_floating_point() and y.requires_grad]
    total = sum((y * points(*y.shape, seed=9)).sum() for y in used)
    return torch.autograd.grad(total, inputs)


@pairwise(
    shape=[(4, 7, 3), (2, 1100, 3), (1, 30, 3)],
    lengths=[[], [17, 6, 6, 1], [29, 1]],
    hidden=[True, False],
    moments=[True, False],
    zero=[True, False],
)
def test_linear_argmax_is_that_of_the_reference(shape, lengths, hidden, moments, zero):
    if lengths and shape[0] != 1:
        shape = (1, sum(lengths), 3)
    clouds = points(*shape).requires_grad_()
    width = 5 if hidden else 3
    weight, center = points(9, width, seed=2).requires_grad_(), points(width, seed=3)
    sign = torch.where(points(9, seed=4) > 0, 1.0, -1.0).double()
    sign[0] = 0.0 if zero else 1.0
    inputs, layer = [clouds, weight], None
    if hidden:
        own = points(5, 3, seed=5).requires_grad_(), points(5, seed=6).requires_grad_()
        layer = FoldedLinear(points(3, seed=7), *own)
        inputs += own
    results = []
    for ops in (CPU(), Reference()):
        found = ops.linear_argmax(
            clouds,
            weight,
            sign,
            center,
            moments=moments,
            search_dtype=torch.float64,
            layer=layer,
            lengths=lengths,
        )
        outputs = found if moments else found[:2]
        results.append([*outputs, *gradients(outputs, inputs)])
    for got, want in zip(*results, strict=True):
        assert_close(got.detach(), want.detach(), kind="fused")


def test_the_other_ops_are_those_of_the_reference():
    x, center = points(1100, 3).requires_grad_(), points(3, seed=2)
    weight, bias = points(5, 3, seed=3).requires_grad_(), points(5, seed=4).requires_grad_()
    layer, after = FoldedLinear(center, weight, bias), points(5, seed=5)
    folded = [
        FoldedLayer(weight.detach(), bias.detach(), Activation("relu")),
        FoldedLayer(points(4, 5, seed=6), points(4, seed=7), Activation("tanh")),
    ]
    results = []
    for ops in (CPU(), Reference()):
        moments, outputs = ops.moments(x, center), ops.linear_bn_relu(x, layer, after)
        with torch.no_grad():
            alone = ops.folded_mlp(x, folded), ops.folded_max(x.view(11, 100, 3), folded)
        results.append(
            [
                *moments,
                *gradients(moments, [x]),
                *outputs,
                *gradients(outputs, [x, weight, bias]),
                ops.linear_bn_relu(x, layer, None)[0],
                *alone,
            ]
        )
    for got, want in zip(*results, strict=True):
        assert_close(got.detach(), want.detach(), kind="fused")


def test_other_devices_get_the_reference_and_gpus_no_hidden_tiles():
    from sharedmlp.ops.interface import Workload
    from sharedmlp.ops.layer import PointwiseTensors

    def ask(device, hidden):
        weight = torch.empty(9, 3, device="meta")
        layer = PointwiseTensors(weight, None, None, Activation())

        class Elsewhere:
            type = device

        fake = layer._replace(weight=type("W", (), {"device": Elsewhere})())
        workload = Workload("fuse", [fake] * (2 if hidden else 1), 100, 4)
        return [ops.name for ops in IMPLEMENTATIONS if not ops.not_supported_reasons(workload)]

    assert ask("cpu", True) == ["cpu"]
    assert ask("cuda", False) == ["cpu", "reference"]
    assert ask("cuda", True) == []
    assert ask("mps", False) == ["reference"]


def test_randomized_norms_of_both_signs(toy):
    pool, plain = SharedMLPMaxPool([3, 6, 9], fused=True), SharedMLPMaxPool([3, 6, 9], fused=False)
    randomize(plain)
    compare(pool, plain, points(4, 7, 3))
