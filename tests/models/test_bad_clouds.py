"""Clouds that are hardly any: an error or a defined result, on every backend, fused or not."""

import pytest
import torch
from torch.nn import functional

from sharedmlp.models import create_model

BACKENDS = ["linear", "conv1d", "conv2d"]


@pytest.fixture(params=BACKENDS)
def backend(request):
    return request.param


@pytest.fixture(params=["auto", False], ids=["fused", "plain"])
def make(request, backend):
    return lambda: create_model("pointnet", 5, backend=backend, fused=request.param)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_cloud_that_is_not_finite_gets_nan_and_the_others_what_they_get_without_it(make, value):
    model, points = make().eval(), torch.randn(3, 40, 3)
    with torch.no_grad():
        expected = model(points)
        points[1, 7, 2] = value
        logits = model(points)
    assert logits[1].isnan().all()
    torch.testing.assert_close(logits[[0, 2]], expected[[0, 2]], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_in_training_it_reaches_the_loss(make, value):
    points = torch.randn(3, 40, 3)
    points[1, 7, 2] = value
    assert make()(points).sum().isnan()


@pytest.mark.parametrize(
    "points",
    [
        torch.full((3, 40, 3), 0.7),  # all points of all clouds are equal
        torch.randn(3, 1, 3).expand(3, 40, 3),  # those of each cloud
        torch.randn(3, 1, 3),  # clouds of one point
        torch.zeros(3, 1, 3),
    ],
    ids=["equal", "equal in each", "one point", "zeros"],
)
def test_equal_points_and_single_ones_train(make, points):
    model = make()
    logits = model(points)
    functional.cross_entropy(logits, torch.tensor([0, 1, 2])).backward()
    assert logits.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert all(buffer.isfinite().all() for buffer in model.buffers())
    assert model.eval()(points).isfinite().all()


def test_a_repeated_point_changes_nothing(make):
    model, points = make().eval(), torch.randn(3, 1, 3)
    torch.testing.assert_close(model(points.expand(3, 40, 3)), model(points), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 0, 3), (0, 40, 3)])
@pytest.mark.parametrize("training", [True, False])
def test_no_points_and_no_clouds_are_refused(make, shape, training):
    with pytest.raises(ValueError, match=rf"got \({shape[0]}, {shape[1]}, 3\)|max over the points"):
        make().train(training)(torch.zeros(shape))
