"""Set abstraction whose first layer runs on points, against loops and against the plain path."""

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from sharedmlp import SetAbstraction
from sharedmlp.ops import groups
from sharedmlp.ops.cpu import tiles
from tests.covering import pairwise
from tests.formula import randomize, scale_of
from tests.layers.fused_pool import BACKENDS, DTYPES
from tests.layers.neighborhoods import backward, compare_set_abstraction, leaf
from tests.processes import run_processes
from tests.tolerances import assert_close

# What follows the coordinates and features; the last is wider than what it reads.
HIDDEN = {
    "one": [9],
    "two": [6, 9],
    "three": [6, 6, 9],
    "narrowing": [8, 4, 9],
    "four": [4, 5, 6, 9],
}
SHARES = [slice(0, 3), slice(3, 4)]


def make(hidden="three", num_features=2, dtype=torch.float64, k=5, **options):
    torch.manual_seed(0)
    options = {"fused": True, **options}
    layer = SetAbstraction(6, 0.9, k, [3 + num_features, *HIDDEN[hidden]], **options).to(dtype)
    randomize(layer)
    return layer


def inputs(num_clouds=3, num_features=2, dtype=torch.float64, num_points=17):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(num_clouds, num_points, 3 + num_features, generator=generator, dtype=dtype)
    return x[..., :3], (x[..., 3:] if num_features else None)


def run(layer, points, features, **options):
    points, features = leaf(points), leaf(features)
    outputs = layer(points, features, **options)
    backward(outputs[:2])
    gradients = [p.grad for p in layer.parameters()]
    buffers = [b.clone() for b in layer.buffers()]
    return [*(y.detach() for y in outputs), points.grad, *gradients, *buffers]


@pairwise(
    hidden=HIDDEN,
    backend=BACKENDS,
    dtype=DTYPES,
    num_features=[0, 2],
    tile=[7, 1024],
    k=[1, 5],
    bias=[None, True],
    training=[True, False],
)
def test_against_the_formula(
    hidden, backend, dtype, num_features, tile, k, bias, training, monkeypatch
):
    monkeypatch.setattr(tiles, "_CPU_POINTS", tile)
    fused = "auto" if hidden == "narrowing" else True
    layer = make(hidden, num_features, dtype, k, backend=backend, bias=bias, fused=fused)
    layer.train(training)
    compare_set_abstraction(layer, *inputs(3, num_features, dtype))


@pytest.mark.parametrize(("hidden", "op"), [("two", "group_argmax"), ("three", "group_moments")])
def test_it_takes_the_path_on_points(hidden, op, monkeypatch):
    calls = []
    original = getattr(groups, op)
    monkeypatch.setattr(groups, op, lambda *a, **k: (calls.append(op), original(*a, **k))[1])
    make(hidden)(*inputs())
    assert calls == [op]
    make(hidden, fused=False)(*inputs())
    assert calls == [op]


@pytest.mark.parametrize("num_features", [0, 2])
def test_folded_for_evaluation(num_features, monkeypatch):
    monkeypatch.setattr(tiles, "_CPU_POINTS", 7)
    layer, plain = (make(num_features=num_features, fused=f).eval() for f in (True, False))
    with torch.no_grad():
        got, want = layer(*inputs(3, num_features)), plain(*inputs(3, num_features))
    assert_close(got[1], want[1], kind="fused")


@pytest.mark.parametrize("distance", [0.0, 100.0])
def test_clouds_far_from_the_origin_keep_their_digits(distance):
    """Gradients and statistics too: relative coordinates are what is multiplied."""
    points, features = inputs(4, dtype=torch.float32)
    points = points + distance
    layer = make(dtype=torch.float32)
    plain = make(fused=False)
    got, want = run(layer, points, features), run(plain, points.double(), features.double())
    scale = max(scale_of(y) for y in want[3:])
    for i, (y, expected) in enumerate(zip(got, want, strict=True)):
        if y.is_floating_point():
            s = scale if i > 2 else None
            assert_close(y, expected.float(), kind="fused", scale=s, name=str(i))


@pytest.mark.parametrize("k", [1, 6])
def test_points_that_coincide(k):
    """One position for all: the relative coordinates are zero, and every neighbor ties."""
    points, features = inputs()
    points = points[:, :1].expand_as(points)
    compare_set_abstraction(make(k=k), points, features)


def test_equal_neighbors_the_first_wins():
    points, features = (x.repeat(1, 3, 1) for x in inputs(2, num_points=6))
    got = run(make(k=9), points, features, return_indices=True)
    want = run(make(k=9, fused=False), points, features, return_indices=True)
    for y, expected in zip(got, want, strict=True):
        assert_close(y, expected, kind="fused", scale=max(1.0, scale_of(expected.double())))


def test_the_number_of_threads_changes_no_bit(monkeypatch):
    monkeypatch.setattr(tiles, "_CPU_POINTS", 10)
    normal, results = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(run(make(dtype=torch.float32), *inputs(5, dtype=torch.float32)))
    finally:
        torch.set_num_threads(normal)
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("where", ["features", "points"])
def test_gradients_can_be_differentiated_again(where):
    layer = make(k=3)
    points, features = inputs(2, num_points=7)
    x = leaf(features if where == "features" else points)

    def function(x):
        return layer(*((points, x) if where == "features" else (x, features)))[1]

    assert torch.autograd.gradgradcheck(function, x, fast_mode=True)


def test_what_is_not_finite_is_left_to_the_plain_layers():
    points, features = inputs()
    features[0, 3, 1] = torch.inf
    layer, plain = make(), make(fused=False)
    torch.testing.assert_close(
        layer(points, features)[1], plain(points, features)[1], equal_nan=True
    )
    for got, want in zip(layer.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(got, want, equal_nan=True)


def test_autocast_and_a_coarse_search():
    points, features = inputs(dtype=torch.float32)
    layer = make(dtype=torch.float32, search_precision="bfloat16")
    plain = make(dtype=torch.float32, fused=False)
    want = plain(points, features)[1]
    assert_close(layer(points, features)[1].detach(), want.detach(), kind="fused", scale=100.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = layer(points, features)[1]
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), want, rtol=0.05, atol=0.05)


def check(rank):
    layer, whole = make(norm="sync_batch"), make(fused=False)
    share = SHARES[rank]
    tensors = inputs(4)
    parallel = DistributedDataParallel(layer)
    got = parallel(*(x[share] for x in tensors))[1]
    want = whole(*tensors)[1]
    assert_close(got.detach(), want[share].detach(), kind="fused")
    weights = torch.linspace(-1, 1, want.numel(), dtype=want.dtype).view_as(want)
    (got * weights[share]).sum().backward()
    (want * weights).sum().backward()
    # DistributedDataParallel averages over the two processes.
    gradients = {name: parameter.grad / 2 for name, parameter in whole.named_parameters()}
    scale = max(map(scale_of, gradients.values()))
    for name, parameter in layer.named_parameters():
        assert_close(parameter.grad, gradients[name], kind="fused", scale=scale, name=name)
    for name, buffer in layer.named_buffers():
        assert_close(buffer, dict(whole.named_buffers())[name], kind="fused", name=name)


def work(rank, folder):
    check(rank)
    return rank


def test_two_processes_are_one(tmp_path):
    assert run_processes(2, work, tmp_path) == [0, 1]
