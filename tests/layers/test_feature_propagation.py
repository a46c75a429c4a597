"""Feature propagation against loops over points."""

import pytest
import torch

from sharedmlp import FeaturePropagation
from tests.covering import pairwise
from tests.formula import Formula, compare_parameters, randomize
from tests.layers.fused_pool import BACKENDS, DTYPES
from tests.layers.neighborhoods import backward, compare_gradients, leaf, plain_interpolation
from tests.layers.test_set_abstraction import cloud
from tests.tolerances import assert_close


def make(width=9, dtype=torch.float64, **options):
    torch.manual_seed(0)
    layer = FeaturePropagation([width, 10, 12], **options).to(dtype)
    randomize(layer)
    return layer


def compare_with_formula(layer, points, centers, center_features, features, norm="batch"):
    formula = Formula.of(layer.mlp, norm, "relu")
    inputs = [leaf(x) for x in (points, centers, center_features, features)]
    plain = [leaf(x) for x in (points, centers, center_features, features)]
    rows = plain_interpolation(plain[0].detach(), plain[1].detach(), plain[2])
    if features is not None:
        rows = torch.cat([rows, plain[3]], -1)
    expected = formula(rows.flatten(0, 1)).reshape(*points.shape[:2], -1)
    y = layer(*inputs)
    assert_close(y.detach(), expected.detach(), kind="fused", name="output")
    backward([y])
    backward([expected])
    compare_gradients(inputs, plain, "fused")
    compare_parameters(layer.mlp, formula, "fused")


@pairwise(
    backend=BACKENDS,
    dtype=DTYPES,
    fused=["auto", True, False],
    num_features=[0, 2],
    num_centers=[1, 2, 5],
    norm=["batch", "layer"],
    training=[True, False],
)
def test_against_the_formula(backend, dtype, fused, num_features, num_centers, norm, training):
    # There is nothing to fuse in a shared MLP with layer norm, or in evaluation with gradients.
    fused = "auto" if norm == "layer" or not training else fused
    layer = make(7 + num_features, dtype, backend=backend, fused=fused, norm=norm).train(training)
    points, centers = cloud(2, 11, 3, dtype=dtype), cloud(2, num_centers, 3, dtype=dtype, seed=2)
    known = cloud(2, num_centers, 7, dtype=dtype, seed=3)
    features = cloud(2, 11, num_features, dtype=dtype, seed=4) if num_features else None
    compare_with_formula(layer, points, centers, known, features, norm)


def test_points_that_are_centers(training):
    """They keep the features of their own center, to 1e-8."""
    points, known = cloud(2, 11, 3), cloud(2, 5, 7, seed=3)
    layer = make().train(training)
    compare_with_formula(layer, points, points[:, :5], known, cloud(2, 11, 2, seed=4))


def test_backends_share_checkpoints():
    layers = [make(backend=backend) for backend in BACKENDS]
    assert len({tuple(layer.state_dict()) for layer in layers}) == 1
    for layer in layers[1:]:
        layer.load_state_dict(layers[0].state_dict())


@pytest.mark.parametrize(
    "backend",
    ["linear", *(pytest.param(b, marks=pytest.mark.slow) for b in ["conv1d", "conv2d"])],
)
def test_export_takes_any_number_of_points_and_centers(backend):
    layer = make(backend=backend).eval()

    def inputs(num_points, num_centers):
        sizes = [(num_points, 3), (num_centers, 3), (num_centers, 7), (num_points, 2)]
        return tuple(cloud(2, *size, seed=seed) for seed, size in enumerate(sizes))

    points, centers = torch.export.Dim("points", min=2), torch.export.Dim("centers", min=2)
    shapes = [{1: points}, {1: centers}, {1: centers}, {1: points}]
    program = torch.export.export(layer, inputs(11, 5), dynamic_shapes=shapes)
    assert "sharedmlp" not in str(program.graph)
    for sizes in ((11, 5), (4, 2), (30, 9)):
        assert_close(program.module()(*inputs(*sizes)), layer(*inputs(*sizes)), kind="fused")


def test_gradcheck():
    layer = make()
    points, centers = cloud(2, 7, 3), cloud(2, 4, 3, seed=2)
    features = cloud(2, 4, 7, seed=3).requires_grad_(), cloud(2, 7, 2, seed=4).requires_grad_()
    assert torch.autograd.gradcheck(lambda *f: layer(points, centers, *f), features, fast_mode=True)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(11, 3), (5, 3), (5, 7), (11, 2)], r"got points \(11, 3\)"),
        ([(2, 11, 3), (2, 5, 3), (2, 7, 5), (2, 11, 2)], r"center_features \(2, 7, 5\)"),
        ([(2, 11, 3), (2, 5, 3), (2, 5, 7), (2, 2, 11)], r"features \(2, 2, 11\)"),
        ([(2, 11, 3), (3, 5, 3), (3, 5, 7), (2, 11, 2)], "same number of clouds"),
        ([(2, 11, 3), (2, 5, 2), (2, 5, 7), (2, 11, 2)], "same number of clouds and of channels"),
        ([(2, 11, 3), (2, 5, 3), (2, 5, 7), (2, 11, 3)], "make the first of channels 10"),
        ([(2, 11, 3), (2, 0, 3), (2, 0, 7), (2, 11, 2)], "no rows to choose from"),
    ],
)
def test_bad_inputs(shapes, message):
    with pytest.raises(ValueError, match=message):
        make()(*[cloud(*shape) for shape in shapes])


def test_missing_features():
    with pytest.raises(ValueError, match="pass the features that are missing"):
        make()(cloud(2, 11, 3), cloud(2, 5, 3), cloud(2, 5, 7))


def test_bad_arguments():
    with pytest.raises(ValueError, match="at least two positive integers"):
        FeaturePropagation([3])
    with pytest.raises(ValueError, match=r"features.transpose\(1, 2\)"):
        FeaturePropagation([3, 4], channel_dim=1)
