"""torch.func on layers that find neighbors: the same as with gradients of torch.autograd."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, jvp, vmap

from sharedmlp import EdgeConv, FeaturePropagation, SetAbstraction
from sharedmlp.neighbors import ball_query, farthest_points, interpolation_weights, k_nearest


class Pooled(nn.Module):
    """Both layers, one after the other, to one number a cloud."""

    def __init__(self):
        super().__init__()
        self.edges = EdgeConv([3, 4], k=5)
        self.sets = SetAbstraction(6, 0.8, 4, [7, 8, 2])

    def forward(self, points):
        return self.sets(points, self.edges(points))[1].square().sum((1, 2))


def make():
    torch.manual_seed(0)
    model = Pooled().double().eval()
    points = torch.rand(3, 20, 3, dtype=torch.float64)
    points[:, 10:13] = points[:, :3]  # ties
    return model, points


def test_gradients_of_the_parameters_and_the_points():
    model, points = make()
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    of_parameters, of_points = grad(
        lambda p, x: functional_call(model, p, (x,)).sum(), argnums=(0, 1)
    )(parameters, points)
    expected = torch.autograd.grad(
        model(points.requires_grad_()).sum(), [*model.parameters(), points]
    )
    torch.testing.assert_close([*of_parameters.values(), of_points], list(expected))


def test_each_cloud_by_vmap_and_a_product_by_jvp():
    model, points = make()
    torch.testing.assert_close(vmap(lambda x: model(x[None])[0])(points), model(points))
    direction = torch.rand_like(points)
    product = jvp(model, (points,), (direction,))[1]
    (gradient,) = torch.autograd.grad(model(points.requires_grad_()).sum(), points)
    torch.testing.assert_close(product, (gradient * direction).sum((1, 2)))


@pytest.mark.parametrize("integers", [False, True])
def test_the_rows_are_those_of_the_searches(integers):
    points = torch.rand(2, 30, 3, generator=torch.Generator().manual_seed(0))
    points = (4 * points).round() if integers else points
    centers = points[:, ::7]
    searches = [
        lambda p, c: k_nearest(points=p, k=7, queries=c),
        lambda p, _: k_nearest(p, 33),
        lambda p, c: ball_query(p, c, 1.1, 5),
        lambda p, _: farthest_points(p, 33, start=2),
    ]
    for search in searches:
        assert torch.equal(vmap(search)(points, centers), search(points, centers))


def test_interpolation_is_mapped_and_differentiated():
    points, centers = torch.rand(2, 9, 3), torch.rand(2, 4, 3)
    for found, want in zip(
        vmap(interpolation_weights)(points, centers),
        interpolation_weights(points, centers),
        strict=True,
    ):
        torch.testing.assert_close(found, want)
    layer, x = FeaturePropagation([2, 4]).eval(), torch.rand(2, 4, 2, requires_grad=True)
    found = grad(lambda x: layer(points, centers, x).sum())(x.detach())
    layer(points, centers, x).sum().backward()
    torch.testing.assert_close(found, x.grad)
