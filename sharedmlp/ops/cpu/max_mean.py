"""The max and the mean over points of pointwise products, with one product each way and no more.

For clouds `x (G, N, C)` and a weight `W (D, C)` the products `y = W (x - center)` are kept, the one
tensor of the size `(G, N, D)`. Each tile of them gives its sums and its maxima while it is in the
cache. A leaky ReLU of slope a after a channelwise affine map is a factor of each point there,
`f = 1` above a threshold and a below it, so that its mean needs only the means of `f y` and of f.
The backward pass makes the gradient of y tile by tile, and from it at once those of x and of W.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sharedmlp.ops.cpu.sums import PartialSums
from sharedmlp.ops.cpu.threads import run_chunks
from sharedmlp.ops.cpu.tiles import Tile, split_clouds
from sharedmlp.ops.cpu.workspace import workspace
from sharedmlp.ops.custom_op import custom_op
from sharedmlp.ops.reference import double_backward

# Points of a tile. Fewer would have two threads wait for each other between their calls.
_POINTS = 512


class Products(NamedTuple):
    """What `products` makes of G clouds of N points.

    Attributes:
        y: `(G, N, D)`, `W (x - center)`.
        maxima: `(G, D)`, over the points.
        indices: `(G, D)` int64, the first point of each maximum.
        means: `(G, D)`, of y over the points.
        second_moment: `(D,)`, the mean of `y^2` over all points; zeros without `moments`.
    """

    y: Tensor
    maxima: Tensor
    indices: Tensor
    means: Tensor
    second_moment: Tensor


def products(
    clouds: Tensor, weight: Tensor, center: Tensor, tied: Tensor | None, *, moments: bool
) -> Products:
    """Multiply, and take maxima and means. Not differentiable; see `with_gradients`.

    Args:
        clouds: `(G, N, C)`, in any strides.
        weight: `(D, C)`.
        center: `(C,)`.
        tied: `(D,)` bool, in which channels all points count as equal: there the first one is the
            maximum. None if in none.
        moments: Whether to compute the second moment.
    """
    y, maxima, indices, means, second = _products(clouds, weight, center, moments)
    if tied is not None:
        maxima = torch.where(tied, y[:, 0], maxima)
        indices = indices.masked_fill(tied, 0)
    return Products(y, maxima, indices, means, second)


def activated_means(
    y: Tensor, means: Tensor, threshold: Tensor, slope: float
) -> tuple[Tensor, Tensor]:
    """Return the means over points of `f y` and of f, `(G, D)`. Not differentiable.

    Args:
        y: `(G, N, D)`, contiguous.
        means: `(G, D)`, of y.
        threshold: `(D,)`.
        slope: What f is where y is not above the threshold; it is 1 elsewhere.
    """
    if slope == 1:
        return means, torch.ones_like(means)
    mean_above, fraction_above = _means_above(y, threshold)
    return (
        torch.lerp(mean_above, means, slope),
        torch.lerp(fraction_above, torch.ones_like(means), slope),
    )


def with_gradients(
    clouds: Tensor,
    weight: Tensor,
    center: Tensor,
    found: Products,
    weighted_means: Tensor,
    threshold: Tensor,
    slope: float,
    *,
    moments: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return maxima, weighted means, mean and second moment, differentiable in clouds and weight.

    Args:
        clouds: As those of `products`.
        weight: As that of `products`.
        center: As that of `products`.
        found: What `products` returned.
        weighted_means: `(G, D)`, the means of `f y`; f is a constant.
        threshold: As that of `activated_means`.
        slope: As that of `activated_means`.
        moments: Whether the last two of the results have gradients.

    Returns:
        The maxima `(G, D)`, the weighted means `(G, D)`, and over all points the mean `(D,)` and
        the second moment `(D,)` of y.
    """
    maxima, weighted, mean, second = _with_gradients(
        clouds,
        weight,
        center,
        found.y,
        found.indices,
        threshold,
        slope,
        moments,
        found.maxima,
        weighted_means,
        found.means.mean(0),
        found.second_moment,
    )
    return maxima, weighted, mean, second


def _tiles(clouds: Tensor) -> list[list[Tile]]:
    return split_clouds(clouds, size=_POINTS, whole_clouds=False)


def _num_parts(num_points: int) -> int:
    """Return how many tiles a cloud is in."""
    return -(-num_points // _POINTS)


def _centered(tile: Tensor, center: Tensor) -> Tensor:
    """Return the rows of a tile less the center, `(m, C)`."""
    centered = workspace().centered.take(tile, *tile.shape)
    return torch.sub(tile, center, out=centered).flatten(0, 1)


def _products_forward(
    clouds: Tensor, weight: Tensor, center: Tensor, moments: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    num_clouds, num_points, _ = clouds.shape
    y = clouds.new_empty(num_clouds, num_points, len(weight))
    chunks = _tiles(clouds)
    # Of each part of a cloud: then no bit depends on the threads.
    maxima = clouds.new_empty(num_clouds, _num_parts(num_points), len(weight))
    indices = torch.empty_like(maxima, dtype=torch.int64)
    sums = torch.empty_like(maxima)
    squares = PartialSums(workspace().squares, len(chunks), y, len(weight))

    def worker(numbers: Iterator[int]) -> None:
        for number in numbers:
            for tile in chunks[number]:
                rows = tile.rows(y)
                torch.mm(_centered(tile.of(clouds), center), weight.t(), out=rows)
                points, part = tile.of(y), (tile.clouds, tile.start // _POINTS)
                torch.sum(points, 1, out=sums[part])
                if moments:
                    squared = workspace().of_products.take(y, *rows.shape)
                    squares[number].add_(torch.mul(rows, rows, out=squared).sum(0))
                maxima[part], where = _first_max(points)
                indices[part] = where + tile.start

    run_chunks(worker, len(chunks))
    best, part = maxima.max(1)
    where = indices.gather(1, part[:, None])[:, 0]
    count = num_clouds * num_points
    return y, best, where, sums.sum(1) / num_points, squares.total() / count


def _first_max(points: Tensor) -> tuple[Tensor, Tensor]:
    """Return the maxima over the points of `(g, n, D)`, and the first point of each, `(g, D)`.

    A CPU's max with index looks at one number at a time, amax at a vector of them.
    """
    num_points = points.shape[1]
    best = points.amax(1)
    # The first of those that are equal to it has the most points after it.
    remaining = torch.arange(num_points, 0, -1, dtype=points.dtype)
    equal = workspace().of_products.take(points, *points.shape)
    torch.eq(points, best[:, None], out=equal)
    most = equal.mul_(remaining[:, None]).amax(1)
    return best, (num_points - most.long()).clamp_(max=num_points - 1)  # NaN equals nothing


def _means_above_forward(y: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
    num_clouds, num_points, out_channels = y.shape
    chunks = _tiles(y)
    sums = y.new_empty(2, num_clouds, _num_parts(num_points), out_channels)

    def worker(numbers: Iterator[int]) -> None:
        for number in numbers:
            for tile in chunks[number]:
                points, part = tile.of(y), (tile.clouds, tile.start // _POINTS)
                above = workspace().of_products.take(y, *points.shape)
                torch.gt(points, threshold, out=above)
                torch.sum(above, 1, out=sums[1][part])
                torch.sum(above.mul_(points), 1, out=sums[0][part])

    run_chunks(worker, len(chunks))
    mean, fraction = sums.sum(2) / num_points
    return mean.clone(), fraction.clone()


def _attach_forward(
    clouds: Tensor,
    weight: Tensor,
    center: Tensor,
    y: Tensor,
    indices: Tensor,
    threshold: Tensor,
    slope: float,
    moments: bool,
    maxima: Tensor,
    weighted_means: Tensor,
    mean: Tensor,
    second_moment: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return maxima.clone(), weighted_means.clone(), mean.clone(), second_moment.clone()


def _attach_setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.slope, ctx.moments = inputs[6:8]
    ctx.save_for_backward(*inputs[:6])


def _attach_backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
    clouds, weight, center, y, indices, threshold = ctx.saved_tensors
    if torch.is_grad_enabled():  # somebody will differentiate the gradients again
        factor = torch.full_like(y, ctx.slope).masked_fill(y > threshold, 1.0)

        def formula(clouds: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            y = (clouds - center) @ weight.t()
            maxima = y.gather(1, indices[:, None])[:, 0]
            return maxima, (factor * y).mean(1), y.mean((0, 1)), y.square().mean((0, 1))

        return (*double_backward(formula, (clouds, weight), gradients), *[None] * 10)
    needs_clouds = ctx.needs_input_grad[0]
    of_clouds, of_weight = _gradient(
        clouds,
        weight,
        center,
        y,
        indices,
        threshold,
        ctx.slope,
        ctx.moments,
        *gradients,
        needs_clouds,
    )
    return (of_clouds if needs_clouds else None, of_weight, *[None] * 10)


def _gradient_forward(
    clouds: Tensor,
    weight: Tensor,
    center: Tensor,
    y: Tensor,
    indices: Tensor,
    threshold: Tensor,
    slope: float,
    moments: bool,
    of_maxima: Tensor,
    of_means: Tensor,
    of_mean: Tensor,
    of_second: Tensor,
    needs_clouds: bool,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of the clouds and of the weight.

    A product gets `of_means f / N + of_mean / M + 2 y of_second / M`, and those of the maxima
    `of_maxima` as well.
    """
    num_clouds, num_points, _ = clouds.shape
    count = num_clouds * num_points
    below, step = of_means * (slope / num_points), of_means * ((1 - slope) / num_points)
    twice = of_second * (2 / count)
    if moments:
        below = below + of_mean / count
    of_clouds = clouds.new_empty(clouds.shape if needs_clouds else (0,))
    chunks = _tiles(clouds)
    of_weight = PartialSums(workspace().weight_sums, len(chunks), weight, *weight.shape)

    def worker(numbers: Iterator[int]) -> None:
        for number in numbers:
            for tile in chunks[number]:
                own, points = tile.clouds, tile.of(y)
                of_y = workspace().of_products.take(y, *points.shape)
                torch.gt(points, threshold, out=of_y)
                torch.addcmul(below[own, None], of_y, step[own, None], out=of_y)
                if moments:
                    of_y.addcmul_(points, twice)
                winners = indices[own, None] - tile.start
                inside = winners.clamp(0, points.shape[1] - 1)
                of_y.scatter_add_(1, inside, of_maxima[own, None] * (inside == winners))
                rows = of_y.flatten(0, 1)
                of_weight[number].addmm_(rows.t(), _centered(tile.of(clouds), center))
                if needs_clouds:
                    torch.mm(rows, weight, out=tile.rows(of_clouds))

    run_chunks(worker, len(chunks))
    return of_clouds, of_weight.total()


def _products_fake(
    clouds: Tensor, weight: Tensor, center: Tensor, moments: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    num_clouds, num_points, _ = clouds.shape
    width = weight.shape[0]
    maxima = clouds.new_empty(num_clouds, width)
    return (
        clouds.new_empty(num_clouds, num_points, width),
        maxima,
        torch.empty_like(maxima, dtype=torch.int64),
        torch.empty_like(maxima),
        clouds.new_empty(width),
    )


def _means_above_fake(y: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
    return y.new_empty(y.shape[0], y.shape[2]), y.new_empty(y.shape[0], y.shape[2])


def _gradient_fake(clouds: Tensor, weight: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    needs_clouds = arguments[-1]
    return clouds.new_empty(clouds.shape if needs_clouds else (0,)), weight.new_empty(weight.shape)


_products = custom_op("max_mean_products", _products_forward, _products_fake)
_means_above = custom_op("means_above", _means_above_forward, _means_above_fake)
_gradient = custom_op("max_mean_backward", _gradient_forward, _gradient_fake)
_with_gradients = custom_op(
    "max_mean",
    _attach_forward,
    lambda *inputs: tuple(torch.empty_like(output) for output in inputs[-4:]),
    _attach_setup,
    _attach_backward,
)
