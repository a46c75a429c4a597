"""Sampling, grouping and interpolation as loops: the oracle of the layers on neighborhoods."""

from typing import Any

import torch

from tests.formula import Formula, compare_parameters, scale_of
from tests.tolerances import assert_close


def plain_centers(cloud, num_centers):
    """Return the rows of farthest points of one cloud, from row 0 on."""
    chosen = [0]
    for _ in range(num_centers - 1):
        distances = [
            min(((point - cloud[row]) ** 2).sum().item() for row in chosen) for point in cloud
        ]
        farthest = max(range(len(cloud)), key=lambda row: distances[row])
        chosen.append(farthest if distances[farthest] > 0 else 0)
    return chosen


def plain_ball(cloud, center, radius, k):
    """Return the first k rows in a ball, the first repeated; the nearest if the ball is empty."""
    distances = ((cloud - center) ** 2).sum(-1).tolist()
    rows = [row for row, distance in enumerate(distances) if distance < radius**2][:k]
    rows = rows or [distances.index(min(distances))]
    return rows + rows[:1] * (k - len(rows))


def plain_set_abstraction(layer, formulas, points, features):
    """Apply the layer with its own numbers and the formulas of its shared MLPs."""
    if layer.num_centers is None:
        centers = torch.zeros_like(points[:, :1])
    else:
        samples = [plain_centers(cloud.detach(), layer.num_centers) for cloud in points]
        centers = torch.stack([cloud[rows] for cloud, rows in zip(points, samples, strict=True)])
    scales = []
    for scale, formula in enumerate(formulas):
        groups = []
        for b, cloud in enumerate(points):
            for center in centers[b]:
                rows = list(range(len(cloud)))
                if layer.num_centers is not None:
                    radius, k = layer.radii[scale], layer.num_neighbors[scale]
                    rows = plain_ball(cloud.detach(), center.detach(), radius, k)
                for row in rows:
                    relative = cloud[row] - center
                    known = relative[:0] if features is None else features[b, row]
                    groups.append(torch.cat([relative, known]))
        y = formula(torch.stack(groups))
        scales.append(y.reshape(*centers.shape[:2], -1, y.shape[-1]).max(2).values)
    return centers, torch.cat(scales, -1)


def plain_interpolation(points, centers, center_features):
    """Average the features of the three nearest centers, weighted by 1 / (distance^2 + 1e-8)."""
    result = []
    for cloud, known, features in zip(points, centers, center_features, strict=True):
        for point in cloud:
            distances = ((known - point) ** 2).sum(-1).tolist()
            nearest = sorted(range(len(known)), key=lambda row: distances[row])[:3]
            weights = [1 / (distances[row] + 1e-8) for row in nearest]
            total = sum(w * features[row] for w, row in zip(weights, nearest, strict=True))
            result.append(total / sum(weights))
    return torch.stack(result).reshape(*points.shape[:2], -1)


def leaf(x):
    return None if x is None else x.detach().clone().requires_grad_()


def compare_set_abstraction(layer, points, features, kind="fused", norm="batch"):
    """Compare outputs, gradients of inputs and parameters, and running statistics."""
    formulas = [Formula.of(pool, norm, "relu") for pool in layer.pools]
    points, features = leaf(points), leaf(features)
    plain_points, plain_features = leaf(points), leaf(features)
    expected = plain_set_abstraction(layer, formulas, plain_points, plain_features)
    got = layer(points, features)
    for y, want, name in zip(got, expected, ("centers", "features"), strict=True):
        assert_close(y.detach(), want.detach(), kind=kind, name=name)
    backward(got)
    backward(expected)
    compare_gradients([points, features], [plain_points, plain_features], kind)
    for pool, formula in zip(layer.pools, formulas, strict=True):
        compare_parameters(pool, formula, kind)


def backward(outputs):
    """Differentiate the same random combination of all outputs."""
    generator = torch.Generator().manual_seed(2)
    total: Any = 0
    for y in outputs:
        direction = torch.randn(y.shape, dtype=torch.float64, generator=generator)
        total = total + (y * direction.to(y.dtype)).sum()
    total.backward()


def compare_gradients(inputs, plain_inputs, kind):
    for x, plain in zip(inputs, plain_inputs, strict=True):
        if x is not None:
            assert (x.grad is None) == (plain.grad is None)
        if x is not None and plain.grad is not None:
            assert_close(
                x.grad, plain.grad, kind=kind, scale=scale_of(plain.grad), name="input gradient"
            )
