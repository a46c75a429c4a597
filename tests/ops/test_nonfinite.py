"""NaN and infinities, wherever they stand, become what torch.max makes of them."""

import pytest
import torch
from torch import nn

from sharedmlp import SharedMLP, SharedMLPMaxPool, fuse
from tests.formula import randomize

BACKENDS = ["linear", "conv1d", "conv2d"]
# First, in the first group of columns, around the border of a tile, last.
POSITIONS = [0, 63, 64, 1023, 1024, 1099]
VALUES = [torch.nan, torch.inf, -torch.inf]
N = 1100


def clouds(*marks, dtype=torch.float64):
    """Two clouds of N points; each mark is (cloud, point, channel, value)."""
    x = torch.randn(2, N, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for cloud, point, channel, value in marks:
        x[cloud, point, channel] = value
    return x.to(dtype)


def pair(fused="auto", *, training, dtype=torch.float64, cls=SharedMLPMaxPool, **options):
    modules = []
    for value in (fused, False):
        torch.manual_seed(0)
        module = cls([3, 6, 9], fused=value, **options).to(dtype)
        randomize(module)
        with torch.no_grad():
            for layer in module.layers:
                if layer.norm is not None:
                    layer.norm.weight[0] = 0.0  # zero times infinity
                layer.linear.weight[1] = 0.0
        modules.append(module.train(training))
    return modules


def compare(modules, run):
    got, want = (run(module) for module in modules)
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, equal_nan=True, rtol=1e-5, atol=1e-6)
    for (name, a), b in zip(
        modules[0].state_dict().items(), modules[1].state_dict().values(), strict=True
    ):
        torch.testing.assert_close(a, b, equal_nan=True, rtol=1e-5, atol=1e-6, msg=name)


# Each position with one of the values, each value at one of the borders of a tile.
MARKS = [
    *([(1, place, 1, value)] for place, value in zip(POSITIONS, VALUES * 2, strict=True)),
    *([(1, 1024, 1, value)] for value in VALUES[:1]),
    *([(1, 1023, 1, value)] for value in VALUES[1:]),
    [(0, 5, 0, torch.nan), (0, 1050, 2, torch.inf), (1, 1090, 0, -torch.inf)],
    [(1, 1030, 0, torch.nan), (1, 70, 0, torch.nan), (1, 6, 1, torch.nan)],
    [(1, 70, 0, torch.inf), (1, 6, 0, -torch.inf)],
]


@pytest.mark.parametrize("marks", MARKS, ids=str)
@pytest.mark.parametrize("norm", ["batch", None])
def test_dense_clouds(marks, norm, training):
    def run(module):
        return (*module(clouds(*marks), return_indices=True), module(clouds(*marks)))

    compare(pair(training=training, norm=norm), run)


@pytest.mark.parametrize("marks", MARKS, ids=str)
def test_without_gradients(marks, training):
    """Folded in evaluation."""

    def run(module):
        with torch.no_grad():
            return (module(clouds(*marks)), *module(clouds(*marks), return_indices=True))

    compare(pair(training=training), run)


@pytest.mark.parametrize("marks", MARKS, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_shared_mlp_without_a_max(marks, backend, training):
    compare(pair(training=training, cls=SharedMLP, backend=backend), lambda m: [m(clouds(*marks))])


@pytest.mark.parametrize("marks", MARKS, ids=str)
def test_flat_batches_and_masks(marks, training):
    batch = torch.arange(2).repeat_interleave(N)
    mask = torch.ones(2, N, dtype=torch.bool)
    mask[0, 7:30] = False

    def run(module):
        x = clouds(*marks)
        flat = module(x.flatten(0, 1), return_indices=True, batch=batch)
        return (*flat, *module(x, return_indices=True, mask=mask))

    compare(pair(training=training), run)


@pytest.mark.parametrize("marks", MARKS, ids=str)
def test_a_search_in_bfloat16(marks, training):
    """Which of two almost equal points wins is bfloat16's; where something is NaN, it is not."""
    for options in ({"training": training}, {"training": training, "norm": None}):
        ours, plain = pair(dtype=torch.float32, search_precision="bfloat16", **options)
        x = clouds(*marks, dtype=torch.float32)
        (got, where), (want, plain_where) = (m(x, return_indices=True) for m in (ours, plain))
        assert torch.equal(got.isnan(), want.isnan())
        assert torch.equal(got.isposinf(), want.isposinf())
        assert torch.equal(where[want.isnan()], plain_where[want.isnan()])


@pytest.mark.parametrize("marks", MARKS, ids=str)
@pytest.mark.parametrize("grad", [True, False])
def test_fused_networks(marks, training, grad):
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.conv1, self.bn1 = nn.Conv1d(3, 6, 1), nn.BatchNorm1d(6)
            self.conv2, self.bn2 = nn.Conv1d(6, 9, 1), nn.BatchNorm1d(9)

        def forward(self, x):
            x = torch.relu(self.bn1(self.conv1(x)))
            values, indices = torch.max(torch.relu(self.bn2(self.conv2(x))), 2)
            return values, indices

    def run(module):
        with torch.set_grad_enabled(grad):
            return module(clouds(*marks).transpose(1, 2))

    compare([m.double().train(training) for m in (fuse(Network()), Network())], run)


@pytest.mark.parametrize("marks", MARKS[::3], ids=str)
def test_compiled(marks):
    torch._dynamo.reset()

    def run(module):
        compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
        return compiled(clouds(*marks), return_indices=True)

    ours, plain = pair(training=False, norm=None)
    (got, where), (want, plain_where) = run(ours), plain(clouds(*marks), return_indices=True)
    torch.testing.assert_close(got, want, equal_nan=True)
    assert torch.equal(where, plain_where)


def test_ties_go_to_the_first_point(training):
    """Duplicated points, in one tile and in two, in one group of columns and in two."""
    x = clouds()
    for copy in (3, 65, 67, 1030):
        x[:, copy] = x[:, 900]
    x = torch.cat([x[:, :1], x[:, 1:]], dim=1)
    for activation in ("relu", None):
        ours, plain = pair(training=training, activation=activation)
        where = [m(x, return_indices=True)[1] for m in (ours, plain)]
        assert torch.equal(*where)


def test_gradients_of_a_cloud_without_nan_are_those_of_the_plain_layers():
    """Evaluation: the clouds of a batch know nothing of each other."""
    gradients = []
    for module in pair(training=False, norm=None):
        x = clouds((1, 70, 0, torch.nan)).requires_grad_()
        module(x)[0].square().sum().backward()
        gradients.append(x.grad)
    torch.testing.assert_close(*gradients, equal_nan=True)
