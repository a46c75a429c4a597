"""Set abstraction against loops over centers and neighbors."""

from typing import Any

import pytest
import torch

from sharedmlp import SetAbstraction
from sharedmlp.convert import convert_backend
from tests.covering import pairwise
from tests.formula import randomize
from tests.layers.fused_pool import BACKENDS, DTYPES
from tests.layers.neighborhoods import compare_set_abstraction
from tests.tolerances import assert_close

SCALES: dict[str, Any] = {
    "one": (4, 0.8, 5, [6, 7]),
    "two": (4, [0.5, 1.2], [3, 5], [[6, 7, 8], [6, 9]]),
    "all": (None, None, None, [6, 7]),
}


def cloud(*shape, dtype=torch.float64, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype)


def make(form="one", width=5, dtype=torch.float64, **options):
    torch.manual_seed(0)
    centers, radius, k, channels = SCALES[form]
    scales = channels if form == "two" else [channels]
    scales = [[width, *hidden] for hidden in scales]
    channels = scales if form == "two" else scales[0]
    layer = SetAbstraction(centers, radius, k, channels, **options).to(dtype)
    randomize(layer)
    return layer


@pairwise(
    form=SCALES,
    backend=BACKENDS,
    dtype=DTYPES,
    fused=["auto", True, False],
    num_features=[0, 2],
    norm=["batch", "layer"],
    training=[True, False],
)
def test_against_the_formula(form, backend, dtype, fused, num_features, norm, training):
    fused = "auto" if norm == "layer" else fused  # of these the max cannot be fused
    layer = make(form, 3 + num_features, dtype, backend=backend, fused=fused, norm=norm)
    layer.train(training)
    points = cloud(2, 11, 3, dtype=dtype)
    features = cloud(2, 11, num_features, dtype=dtype, seed=3) if num_features else None
    compare_set_abstraction(layer, points, features, norm=norm)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("num_points", [1, 2, 3])
def test_fewer_points_than_centers_and_neighbors(backend, num_points, training):
    layer = make("two", backend=backend).train(training)
    compare_set_abstraction(layer, cloud(3, num_points, 3), cloud(3, num_points, 2, seed=3))


@pytest.mark.parametrize("form", SCALES)
def test_one_cloud_and_points_of_another_dimension(form, training):
    layer = make(form, 4).train(training)
    compare_set_abstraction(layer, cloud(1, 9, 2), cloud(1, 9, 2, seed=3))


def test_points_that_coincide(training):
    """Every one of them is in the ball; the samples repeat when all are covered."""
    points = cloud(2, 3, 3).repeat(1, 3, 1)
    compare_set_abstraction(make("one").train(training), points, cloud(2, 9, 2, seed=3))


def test_a_negative_and_a_zero_gamma(training):
    layer = make("one").train(training)
    with torch.no_grad():
        for pool in layer.pools:
            pool.layers[-1].norm.weight[::2] = -0.7
            pool.layers[-1].norm.weight[1] = 0
    compare_set_abstraction(layer, cloud(2, 11, 3), cloud(2, 11, 2, seed=3))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("form", SCALES)
def test_the_winners_make_the_maxima(form, backend):
    layer = make(form, backend=backend).eval()
    points, features = cloud(2, 11, 3), cloud(2, 11, 2, seed=3)
    centers, values, winners = layer(points, features, return_indices=True)
    assert winners.dtype == torch.int64
    assert winners.shape == values.shape
    clouds = torch.arange(2)[:, None, None]
    relative = points[clouds, winners] - centers[:, :, None]
    groups = torch.cat([relative, features[clouds, winners]], -1)  # (B, Q, out_channels, C)
    alone = torch.cat([pool(groups[..., None, :]) for pool in layer.pools], -1)
    assert_close(alone.diagonal(0, -2, -1).detach(), values.detach(), kind="fused")


def test_converted_to_another_backend():
    layer = make("two").eval()
    inputs = cloud(2, 11, 3), cloud(2, 11, 2, seed=3)
    conversion = convert_backend(layer, "conv1d")
    assert conversion.replaced == ("pools.0", "pools.1")
    assert_close(conversion.module(*inputs)[1].detach(), layer(*inputs)[1].detach(), kind="fused")


@pytest.mark.parametrize("form", SCALES)
def test_backends_share_weights_and_checkpoints(form):
    layers = [make(form, backend=backend) for backend in BACKENDS]
    assert len({tuple(layer.state_dict()) for layer in layers}) == 1
    inputs = cloud(2, 11, 3), cloud(2, 11, 2, seed=3)
    expected = layers[0](*inputs)[1].detach()
    for layer in layers[1:]:
        assert_close(layer(*inputs)[1].detach(), expected, kind="fused")
        layer.load_state_dict(layers[0].state_dict())


def test_gradcheck():
    layer = make("two")
    inputs = cloud(2, 7, 3).requires_grad_(), cloud(2, 7, 2, seed=3).requires_grad_()
    assert torch.autograd.gradcheck(layer, inputs, fast_mode=True)


def test_widths():
    layer = make("two")
    assert (layer.in_channels, layer.out_channels) == (5, 17)
    assert "num_centers=4, radius=[0.5, 1.2], num_neighbors=[3, 5]" in repr(layer)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((4, 0.2, 8, [3]), "at least two positive integers"),
        ((0, 0.2, 8, [3, 4]), "num_centers has to be an integer of 1 or more, got 0"),
        ((4, -0.2, 8, [3, 4]), "radius has to be a positive finite number, got -0.2"),
        ((4, 0.2, 0, [3, 4]), "num_neighbors has to be an integer of 1 or more, got 0"),
        ((4, None, 8, [3, 4]), "radius is one number for each of the 1 lists"),
        ((4, 0.2, [8, 9], [[3, 4], [3, 4]]), "radius is one number for each of the 2 lists"),
        ((4, [0.1, 0.2], 8, [[3, 4], [3, 4]]), "num_neighbors is one number for each"),
        ((4, [0.1, 0.2], [8, 9], [[3, 4], [5, 4]]), "all with the same first width"),
        ((4, [0.1, 0.2], [8, 9], [[3, 4], 5]), "all with the same first width"),
        ((None, 0.2, None, [3, 4]), "radius and num_neighbors are None"),
        ((None, None, None, [[3, 4], [3, 4]]), "2 lists of channels"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        SetAbstraction(*arguments)


def test_channels_first_is_refused():
    with pytest.raises(ValueError, match=r"features.transpose\(1, 2\)"):
        SetAbstraction(4, 0.2, 8, [3, 4], channel_dim=1)


@pytest.mark.parametrize(
    ("points", "features", "message"),
    [
        ((11, 3), None, r"expected points \(B, N, D\).* got \(11, 3\)"),
        ((2, 11, 3), (2, 2, 11), "of the same B and N"),
        ((2, 11, 3), (3, 11, 2), "of the same B and N"),
        ((2, 11, 3), None, "expected 5 coordinates and features a point, got 3"),
        ((2, 11, 3), (2, 11, 4), "make the first of channels 7"),
        ((2, 0, 3), (2, 0, 2), "no rows to choose from"),
    ],
)
def test_bad_inputs(points, features, message):
    with pytest.raises(ValueError, match=message):
        make("one")(cloud(*points), None if features is None else cloud(*features))


def test_bad_numbers():
    points = cloud(2, 11, 3)
    points[1, 4, 2] = torch.nan
    with pytest.raises(ValueError, match="points has to be finite"):
        make("one")(points, cloud(2, 11, 2))
