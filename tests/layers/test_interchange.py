"""Every backend against the plain formula: outputs, gradients, running statistics."""

from typing import Any

import pytest
import torch

from sharedmlp import SharedMLP, SharedMLPMaxPool
from tests.covering import pairwise
from tests.formula import Formula, check_against_formula, randomize
from tests.tolerances import assert_close

BACKENDS = ["linear", "conv1d", "conv2d"]
# All sizes differ, and N differs from every width: an axis taken for another cannot pass.
SHAPES = {
    "NC": (-1, (7, 3)),
    "BNC": (-1, (4, 7, 3)),
    "BKNC": (-1, (2, 5, 7, 3)),
    "ABKNC": (-1, (2, 3, 5, 7, 3)),
    "BCN": (1, (4, 3, 7)),
    "BCHW": (1, (4, 3, 5, 7)),
    "BCDHW": (1, (4, 3, 2, 5, 7)),
}
# N equal to every width: where the trap of BatchNorm1d on (B, N, C) would be silent.
SQUARE = (-1, (2, 3, 3))


DTYPES = [torch.float64, torch.float32]


@pytest.fixture(params=DTYPES, ids=["float64", "float32"])
def dtype(request):
    return request.param


@pairwise(
    layout=SHAPES,
    backend=BACKENDS,
    norm=["batch", "layer", None],
    bias=[True, False, None],
    training=[True, False],
    dtype=DTYPES,
)
def test_shared_mlp_equals_the_plain_formula(backend, layout, training, bias, norm, dtype):
    channel_dim, shape = SHAPES[layout]
    mlp = SharedMLP([3, 6, 4], backend=backend, norm=norm, bias=bias, channel_dim=channel_dim)
    check_against_formula(mlp.train(training), channel_dim, shape, dtype, norm, "relu")


@pairwise(
    layout=SHAPES,
    backend=BACKENDS,
    norm=["batch", "layer", None],
    fused=["auto", False],
    training=[True, False],
    dtype=DTYPES,
)
def test_max_pool_equals_the_plain_formula(backend, layout, training, norm, fused, dtype):
    channel_dim, shape = SHAPES[layout]
    pool = SharedMLPMaxPool(
        [3, 6, 9], backend=backend, norm=norm, channel_dim=channel_dim, fused=fused
    )
    check_against_formula(
        pool.train(training), channel_dim, shape, dtype, norm, "relu", pooled=True
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("activation", [None, "relu", "leaky_relu"])
def test_activations(backend, activation, dtype):
    mlp = SharedMLP([3, 6, 4], backend=backend, activation=activation)
    check_against_formula(mlp, *SHAPES["BNC"], dtype, "batch", activation)


@pytest.mark.parametrize("backend", BACKENDS)
def test_batch_norm_takes_the_channels_even_where_n_equals_c(backend, dtype):
    check_against_formula(SharedMLP([3, 3, 3], backend=backend), *SQUARE, dtype, "batch", "relu")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "norm_kwargs", [{"affine": False}, {"track_running_stats": False}], ids=str
)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_norm_kwargs_reach_the_norm(backend, norm_kwargs, training, dtype):
    mlp = SharedMLP([3, 6, 4], backend=backend, norm_kwargs=norm_kwargs).train(training)
    check_against_formula(mlp, *SHAPES["BNC"], dtype, "batch", "relu")


@pytest.mark.parametrize("backend", BACKENDS)
def test_plain_last_leaves_the_last_layer_linear(backend):
    mlp: Any = SharedMLP([3, 5, 4], backend=backend, plain_last=True).double().eval()
    x = torch.randn(2, 7, 3, dtype=torch.float64)
    hidden = mlp.layers[0](mlp._layout.enter(x, -1))
    hidden = mlp._layout.leave(hidden, (2, 7), -1)
    weight = mlp.layers[1].linear.weight.reshape(4, 5)
    assert_close(mlp(x), hidden @ weight.T + mlp.layers[1].linear.bias)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("channel_dim", "shape"), [(-1, (4, 0, 3)), (1, (4, 3, 0)), (-1, (0, 3))])
def test_zero_points_in_eval(backend, channel_dim, shape):
    mlp = SharedMLP([3, 6, 5], backend=backend, channel_dim=channel_dim).eval()
    expected = tuple(5 if size == 3 else size for size in shape)
    assert mlp(torch.empty(shape)).shape == expected


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("fused", [True, False])
def test_winners_are_the_argmax(backend, fused):
    pool = SharedMLPMaxPool([3, 6, 9], backend=backend, fused=fused).double()
    randomize(pool)
    formula = Formula.of(pool, "batch", "relu")
    x = torch.randn(4, 7, 3, dtype=torch.float64)
    features = formula(x.reshape(-1, 3)).reshape(4, 7, 9)
    values, indices = pool(x, return_indices=True)
    assert_close(values, features.max(1).values)
    alive = values > 0  # where ReLU is off everywhere, all points tie
    assert torch.equal(indices[alive], features.max(1).indices[alive])
    assert alive.any()


@pairwise(layout=SHAPES, backend=BACKENDS, fused=[True, False], norm=["batch", None])
def test_the_max_without_gradients_is_the_same(backend, layout, fused, norm):
    channel_dim, shape = SHAPES[layout]
    pool = SharedMLPMaxPool(
        [3, 6, 9], backend=backend, channel_dim=channel_dim, fused=fused, norm=norm
    )
    pool = pool.double().eval()
    randomize(pool)
    x = torch.randn(shape, dtype=torch.float64)
    expected = pool(x)
    with torch.no_grad():
        assert_close(pool(x), expected.detach())


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_copy_between_stacks_of_one_backend(backend):
    first = SharedMLP([3, 6], backend=backend, norm=None)
    second = SharedMLP([6, 5], backend=backend, norm=None)
    x = torch.randn(4, 7, 3)
    between = first(x)
    assert second._layout.enter(between, -1).data_ptr() == between.data_ptr()


def test_dropout_drops_in_training_alone():
    mlp = SharedMLP([3, 64], dropout=0.5, activation=None, norm=None)
    x = torch.randn(4, 7, 3)
    dropped = (mlp(x) == 0).float().mean().item()
    assert 0.4 < dropped < 0.6
    assert not (mlp.eval()(x) == 0).any()
