"""The first layer on points instead of pairs, against the plain formula on the pairs."""

import math
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sharedmlp.ops.cpu import neighborhoods as kernels
from sharedmlp.ops.cpu.gather import Chunk
from sharedmlp.ops.cpu.neighborhoods import (
    _join_clouds,
    neighbor_max,
    neighbor_moments,
    winning_positions,
)
from sharedmlp.ops.cpu.pair_rows import pair_rows
from sharedmlp.ops.cpu.scaled_activation import scaled_activation
from sharedmlp.ops.cpu.workspace import _OfThread
from sharedmlp.ops.layer import Activation, BatchNorm, PointwiseTensors
from sharedmlp.ops.neighborhoods import (
    PairTensors,
    neighborhood_max,
    neighborhood_reasons,
    neighborhood_rows,
    split_edge_layer,
)
from tests.covering import pairwise
from tests.tolerances import assert_close

ACTIVATIONS = {
    "identity": lambda y: y,
    "relu": lambda y: torch.where(y > 0, y, 0.0 * y),
    "leaky_relu": lambda y: torch.where(y > 0, y, 0.2 * y),
    "tanh": torch.tanh,
}
# clouds, sources, centers, neighbors, channels of a source, of a center, of the output
SIZES = {
    "all different": (3, 11, 7, 4, 5, 2, 6),
    "split channels": (1, 9, 13, 3, 4, 3, 64),
    "one neighbor": (2, 5, 6, 1, 3, 3, 4),
    "one source": (2, 1, 6, 3, 2, 3, 4),
    "one center": (4, 6, 1, 5, 3, 4, 2),
}


def random(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=dtype)


def random_rows(num_sources, *shape, seed=0):
    return torch.randint(num_sources, shape, generator=torch.Generator().manual_seed(seed))


class Case:
    """Leaves, settings and running statistics of a layer on pairs, fused and by its formula."""

    def __init__(self, size="all different", *, dtype=torch.float64, norm="train", **options):
        clouds, sources, centers, num_neighbors, *channels = SIZES.get(size, size)
        self.norm, self.dtype = norm, dtype
        self.activation = options.get("activation", "leaky_relu")
        self.momentum = options.get("momentum", 0.1)
        of_source, of_center, width = channels
        self.neighbors = random_rows(sources, clouds, centers, num_neighbors)
        self.leaves = {
            "sources": random(clouds, sources, of_source, seed=1, dtype=dtype) + 2,
            "centers": random(clouds, centers, of_center, seed=2, dtype=dtype) - 3,
            "source weight": random(width, of_source, seed=3, dtype=dtype),
            "center weight": random(width, of_center, seed=4, dtype=dtype),
        }
        if options.get("bias", True):
            self.leaves["bias"] = random(width, seed=5, dtype=dtype)
        if norm and options.get("affine", True):
            self.leaves["gamma"] = random(width, seed=6, dtype=dtype)
            self.leaves["gamma"][0] = 0.0
            self.leaves["gamma"][1] = -1e-9 if dtype == torch.float64 else -1e-3
            self.leaves["beta"] = random(width, seed=7, dtype=dtype)
        if options.get("equal_sources"):
            self.leaves["sources"][:] = self.leaves["sources"][:, :1].clone()
        for leaf in self.leaves.values():
            leaf.requires_grad_()
        self.running: Any = None
        if norm in ("train", "eval"):
            self.running = [
                random(width, seed=8, dtype=dtype),
                random(width, seed=9, dtype=dtype).abs() + 0.5,
                torch.tensor(3),
            ]

    def fused(self, function=neighborhood_max, **options):
        leaves = self.leaves
        norm = None
        if self.norm:
            running: Any = self.running or (None, None, None)
            training = self.norm != "eval"
            affine = (leaves.get("gamma"), leaves.get("beta"))
            mean, variance, count = running
            norm = BatchNorm(*affine, mean, variance, count, training, self.momentum, 1e-5)
        activation = Activation(self.activation, 0.2)
        bias = leaves.get("bias")
        layer = PointwiseTensors(leaves["source weight"], bias, norm, activation)
        pairs = PairTensors(leaves["source weight"], leaves["center weight"], layer)
        ends = (leaves["sources"], leaves["centers"], self.neighbors)
        return function(pairs, *ends, **options)

    def plain(self):
        """By the formula of each step on all pairs: `(B, Q, K, D)` before the max."""
        leaves = self.leaves
        clouds = torch.arange(len(self.neighbors))[:, None, None]
        sources = leaves["sources"][clouds, self.neighbors]
        y = sources @ leaves["source weight"].T
        y = y + (leaves["centers"] @ leaves["center weight"].T)[:, :, None]
        y = y + leaves.get("bias", 0.0)
        if self.norm == "eval":
            mean, variance, _ = self.running
        elif self.norm:
            count = y[..., 0].numel()
            mean = y.sum((0, 1, 2)) / count
            variance = ((y - mean) ** 2).sum((0, 1, 2)) / count
            if self.running:
                self.running[2] = self.running[2] + 1
                factor = 1 / self.running[2].item() if self.momentum is None else self.momentum
                for i, new in enumerate((mean, variance * count / (count - 1))):
                    self.running[i] = (1 - factor) * self.running[i] + factor * new.detach()
        if self.norm:
            y = (y - mean) / (variance + 1e-5) ** 0.5
            y = y * leaves.get("gamma", 1.0) + leaves.get("beta", 0.0)
        return ACTIVATIONS[self.activation](y)


def compare_hidden(*arguments, **options):
    """Compare the rows of a layer before another one."""
    fused, plain = Case(*arguments, **options), Case(*arguments, **options)
    got, want = fused.fused(neighborhood_rows), plain.plain()
    compare_all(fused, plain, got, want)


def compare(*arguments, tied=False, **options):
    """Compare outputs, winners, gradients, statistics; with `tied` winners are nobody's right."""
    fused, plain = Case(*arguments, **options), Case(*arguments, **options)
    got, found_positions = fused.fused(return_indices=True)
    want, positions = plain.plain().max(2)
    if not tied:
        # A neighbor that comes twice may win at either place: the plain products round differently.
        winners, expected = (plain.neighbors.gather(2, p) for p in (found_positions, positions))
        assert torch.equal(winners, expected)
    compare_all(fused, plain, got, want, tied)


def compare_all(fused, plain, got, want, tied=False):
    assert_close(got.detach(), want.detach(), kind="fused", name="output")
    direction = random(*want.shape, seed=10, dtype=fused.dtype)
    (got * direction).sum().backward()
    (want * direction).sum().backward()
    scale = max(leaf.grad.abs().max().item() for leaf in plain.leaves.values())
    for name, leaf in plain.leaves.items():
        found, expected = fused.leaves[name].grad, leaf.grad
        if tied and name == "sources":
            found, expected = found.sum(1), expected.sum(1)
        assert_close(found, expected, kind="gradient", scale=scale, name=name)
    for found, expected in zip(fused.running or [], plain.running or [], strict=True):
        assert_close(found, expected, kind="fused", name="running statistics")


@pairwise(
    size=list(SIZES),
    dtype=[torch.float64, torch.float32],
    norm=["train", "eval", "untracked", None],
    activation=list(ACTIVATIONS),
    affine=[True, False],
    bias=[True, False],
    momentum=[0.1, None],
)
def test_numbers_are_those_of_the_formula_on_pairs(
    size, dtype, norm, activation, affine, bias, momentum
):
    compare(
        size,
        dtype=dtype,
        norm=norm,
        activation=activation,
        affine=affine,
        bias=bias,
        momentum=momentum,
        # All pairs of a center are one; tanh makes large numbers one.
        tied=size == "one source" or activation == "tanh",
    )


@pairwise(
    size=list(SIZES),
    dtype=[torch.float64, torch.float32],
    norm=["train", "eval", "untracked", None],
    activation=["identity", "relu", "leaky_relu"],
    affine=[True, False],
    bias=[True, False],
    momentum=[0.1, None],
)
def test_rows_before_another_layer(size, dtype, norm, activation, affine, bias, momentum):
    options = {"affine": affine, "bias": bias, "momentum": momentum}
    compare_hidden(size, dtype=dtype, norm=norm, activation=activation, **options)


@pytest.mark.parametrize("norm", ["train", "eval"])
def test_chunks_of_rows_make_no_difference(norm, monkeypatch):
    monkeypatch.setattr("sharedmlp.ops.cpu.pair_rows._TILE", 50)
    compare_hidden(norm=norm)


@pytest.mark.parametrize("norm", ["train", "eval"])
def test_chunks_of_centers_make_no_difference(norm, monkeypatch):
    monkeypatch.setattr("sharedmlp.ops.cpu.gather.BUFFER_SIZE", 12)
    compare(norm=norm)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "identity"])
def test_several_chunks_of_the_scaled_activation(activation, monkeypatch):
    monkeypatch.setattr("sharedmlp.ops.cpu.scaled_activation._TILE", 6)
    compare(activation=activation)


def test_every_source_is_a_neighbor_once():
    num_points = 8
    case = Case((2, num_points, num_points, num_points, 3, 3, 5))
    case.neighbors = torch.stack(
        [torch.randperm(num_points, generator=torch.Generator().manual_seed(i)) for i in range(16)]
    ).view(2, num_points, num_points)
    plain = Case((2, num_points, num_points, num_points, 3, 3, 5))
    plain.neighbors = case.neighbors
    got, _ = case.fused()
    assert_close(got.detach(), plain.plain().amax(2).detach(), kind="fused")


@pytest.mark.parametrize("norm", ["train", "eval"])
def test_all_points_equal(norm):
    # equal but for the roundings of the product, so any neighbor may win
    compare(norm=norm, equal_sources=True, tied=True)


def test_digits_far_from_the_origin():
    far, near = Case(dtype=torch.float32), Case(dtype=torch.float32)
    with torch.no_grad():
        # multiples of 2^-7 stay exact when moved by 2^13
        for case in (far, near):
            for name in ("sources", "centers"):
                case.leaves[name].mul_(128).round_().div_(128)
        far.leaves["sources"].add_(2**13)
        far.leaves["centers"].sub_(2**13)
    assert_close(far.fused()[0].detach(), near.fused()[0].detach(), kind="fused")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("norm", ["train", "eval"])
@pytest.mark.parametrize("end", ["sources", "centers", "bias"])
def test_numbers_that_are_not_finite_are_left_to_the_plain_layers(value, norm, end):
    case = Case(norm=norm)
    before = [tensor.clone() for tensor in case.running]
    with torch.no_grad():
        target = case.leaves[end]
        target.view(-1, target.shape[-1])[case.neighbors[0, 0, 0] if end == "sources" else 0, 0] = (
            value
        )
    assert case.fused() is None
    assert case.fused(neighborhood_rows) is None
    for old, new in zip(before, case.running, strict=True):
        assert torch.equal(old, new)


def test_the_bias_of_a_batch_norm_gets_a_zero_gradient():
    case = Case()
    case.fused()[0].sum().backward()
    assert torch.equal(case.leaves["bias"].grad, torch.zeros_like(case.leaves["bias"]))


@pytest.mark.parametrize("with_moments", [True, False])
def test_derivatives_of_any_order(with_moments):
    a = random(1, 4, 3).requires_grad_()
    b: Any = random(1, 3, 3, seed=1).requires_grad_() if with_moments else None
    neighbors = random_rows(4, 1, 3, 2)
    tied = torch.tensor([True, False, False])

    def function(a, b):
        found = neighbor_max(a, neighbors, b, tied)
        return found if with_moments else found.values

    assert torch.autograd.gradcheck(function, (a, b))
    assert torch.autograd.gradgradcheck(function, (a, b))


@pytest.mark.parametrize("name", ["identity", "relu", "leaky_relu", "sigmoid"])
def test_derivatives_of_the_scaled_activation(name):
    inputs = (random(2, 3, 4), random(2, 3, 4, seed=1), random(4, seed=2), random(4, seed=3))
    inputs = tuple(tensor.requires_grad_() for tensor in inputs)

    def function(*tensors):
        a, b, scale, shift = tensors
        return scaled_activation(a, b, scale, shift, Activation(name, 0.2))

    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("slope", [1.0, 0.0, 0.2])
def test_derivatives_of_rows(slope):
    inputs = (random(1, 4, 3).requires_grad_(), random(1, 3, 3, seed=1).requires_grad_())
    neighbors = random_rows(4, 1, 3, 2)

    def function(a, b):
        return pair_rows(a, b, neighbors, slope)

    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


def test_derivatives_of_the_moments_alone():
    inputs = (random(1, 4, 3).requires_grad_(), random(1, 3, 3, seed=1).requires_grad_())
    neighbors = random_rows(4, 1, 3, 2)

    def function(a, b):
        return neighbor_moments(a, neighbors, b)

    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("channels", [2, 33, 64])
def test_the_first_of_equal_neighbors_wins(channels):
    a = random_rows(3, 1, 6, channels).double()  # few values: many ties
    neighbors = random_rows(6, 1, 50, 5, seed=1)
    want, positions = a[0][neighbors].max(2)
    found = neighbor_max(a, neighbors)
    assert torch.equal(found.values, want)
    assert torch.equal(winning_positions(a, neighbors, found.values), positions)


@pytest.mark.parametrize("kind", ["all different", "ties", "repeated", "one tie", "tied channel"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gradient_goes_to_the_first_of_equal_neighbors(kind, dtype, monkeypatch):
    a = random(2, 40, 32, dtype=dtype)
    neighbors = random(2, 30, 40, seed=1).argsort(-1)[..., :6]
    tied = None
    if kind == "ties":
        a = a.round()
    elif kind == "repeated":
        neighbors = neighbors[..., :3].repeat(1, 1, 2)
    elif kind == "one tie":
        a[1, neighbors[1, 0, 4]] = a[1, neighbors[1, 0, 2]]
    elif kind == "tied channel":
        tied = torch.arange(32) == 5
    a.requires_grad_()
    gathered = a[torch.arange(2)[:, None, None], neighbors]
    ordered = gathered if tied is None else torch.where(tied, 0.0 * gathered, gathered)
    positions = torch.max(ordered, 2, keepdim=True).indices
    want = gathered.gather(2, positions)[:, :, 0]
    direction = random(*want.shape, seed=2, dtype=dtype)
    (expected,) = torch.autograd.grad(want, a, direction)
    tries = []
    real = Chunk._only_winners
    monkeypatch.setattr(
        Chunk, "_only_winners", lambda *arguments: tries.append(real(*arguments)) or tries[-1]
    )
    for largest_sum in (2**24, 0):
        monkeypatch.setattr("sharedmlp.ops.cpu.gather._LARGEST_SUM", largest_sum)
        found = neighbor_max(a, neighbors, None, tied).values
        assert torch.equal(found, want)
        assert_close(torch.autograd.grad(found, a, direction)[0], expected, kind="gradient")
    # Where nothing is equal, the fast way is taken; else it is given up, at least once.
    clear = kind in ("all different", "tied channel")
    assert all(winners is not None for winners in tries) == clear


def test_an_infinite_gradient_stays_out_of_what_a_relu_switches_off():
    ones = torch.ones(2, 1, 3)
    a, b = (-ones).requires_grad_(), (ones * 0.5).requires_grad_()
    scale, shift = ones[0, 0].clone().requires_grad_(), torch.zeros(3, requires_grad=True)
    gradient = torch.full((2, 1, 3), torch.inf)
    leaves = (a, b, scale, shift)
    scaled = scaled_activation(a, b, scale, shift, Activation("relu"))
    for found in torch.autograd.grad(scaled, leaves, gradient):
        assert torch.equal(found, torch.zeros_like(found))
    rows = pair_rows(a, b, torch.zeros(2, 1, 1, dtype=torch.int64), 0.0)
    for found in torch.autograd.grad(rows, (a, b), gradient[:, :, None]):
        assert torch.equal(found, torch.zeros_like(found))


@pytest.mark.parametrize("num_sources", [5, 2**16, 2**16 + 9])
def test_pairs_in_the_order_of_their_sources(num_sources):
    neighbors = random_rows(num_sources, 400, 3)
    neighbors[7] = num_sources - 1
    centers = kernels._centers_by_source(neighbors, num_sources)
    order = neighbors.flatten().sort(stable=True).indices
    assert torch.equal(centers, order // 3)


class Largest(TorchDispatchMode):
    """How many numbers the largest floating-point result of an operation has."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                self.numbers = max(
                    self.numbers, tensor.untyped_storage().nbytes() // tensor.itemsize
                )
        return result


@pytest.mark.parametrize("norm", ["train", "eval"])
def test_nothing_has_the_size_of_the_pairs(norm, monkeypatch):
    size = (2, 50, 40, 30, 3, 3, 16)
    largest = 2 * 50 * 16  # a of all sources
    monkeypatch.setattr("sharedmlp.ops.cpu.gather.BUFFER_SIZE", largest)
    monkeypatch.setattr("sharedmlp.ops.cpu.workspace._of_thread", _OfThread())
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)  # where the mode sees it
    case = Case(size, norm=norm)
    with Largest() as seen:
        case.fused()[0].sum().backward()
    assert 0 < seen.numbers <= largest


def test_edges_split_into_their_ends():
    weight, x, y = random(4, 6), random(3, seed=1), random(3, seed=2)
    pairs = split_edge_layer(PointwiseTensors(weight, None, None, Activation()))
    assert_close(pairs.source @ y + pairs.center @ x, weight @ torch.cat([y - x, x]))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"activation": Activation("gelu")}, "monotone"),
        ({"activation": Activation("leaky_relu", -0.1)}, "monotone"),
        ({"dropout": True}, "dropout"),
        ({"weight": torch.zeros(4, 6, dtype=torch.bfloat16)}, "digits"),
        ({"weight": torch.zeros(4, 6, device="meta")}, "CPU"),
    ],
)
def test_reasons(change, reason):
    layer = PointwiseTensors(torch.zeros(4, 6), None, None, Activation("relu"))
    assert neighborhood_reasons(layer) == []
    (said,) = neighborhood_reasons(layer._replace(**change))
    assert reason in said


def test_a_hidden_layer_runs_as_a_leaky_relu():
    layer = PointwiseTensors(torch.zeros(4, 6), None, None, Activation("tanh"))
    assert neighborhood_reasons(layer) == []
    (said,) = neighborhood_reasons(layer, before_max=False)
    assert "Tanh" in said


@pytest.mark.parametrize("with_moments", [True, False])
def test_small_clouds_run_as_one_and_stay_apart(with_moments):
    a = random(32, 9, 6, dtype=torch.float64).requires_grad_()
    b = random(32, 7, 6, seed=1, dtype=torch.float64).requires_grad_() if with_moments else None
    neighbors = random(32, 7, 9, seed=2).argsort(-1)[..., :4]
    joined, table, _ = _join_clouds(neighbors, a.detach())
    assert joined.shape == (8, 28, 4)
    assert table.shape == (8, 36, 6)
    gathered = a[torch.arange(32)[:, None, None], neighbors]
    want = [gathered.amax(2)]
    found = neighbor_max(a, neighbors, b)
    if b is not None:
        pairs = (gathered + b[:, :, None]).flatten(0, 2)
        want += [pairs.mean(0), pairs.square().mean(0)]
    directions = [random(*w.shape, seed=3 + i, dtype=w.dtype) for i, w in enumerate(want)]
    inputs = [x for x in (a, b) if x is not None]
    for ours, theirs in zip(found, want, strict=False):
        assert_close(ours, theirs)
    for ours, theirs in zip(
        torch.autograd.grad(found[: len(want)], inputs, directions),
        torch.autograd.grad(want, inputs, directions),
        strict=True,
    ):
        assert_close(ours, theirs, kind="gradient")
