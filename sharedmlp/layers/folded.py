"""A whole shared MLP at once, with the max over points or without, for evaluation.

With constant statistics batch norm is an affine map and folds into the layer's weight and bias.
Each tile of points then goes through all layers while it is in the cache; only the last outputs,
or their maxima, leave it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sharedmlp.layers.fused import has_hooks, is_plain_linear
from sharedmlp.layers.pointwise import PointwiseLayer
from sharedmlp.ops.eager import eagerly
from sharedmlp.ops.threads import run_jobs, thread_buffer
from sharedmlp.ops.tiles import split_clouds, split_rows, tile_points


def can_fold(layer: PointwiseLayer) -> bool:
    """Whether a layer is, as it is now, one affine map and an activation and nothing else."""
    norm = layer.norm
    constant = isinstance(norm, _BatchNorm) and not norm.training and norm.running_mean is not None
    return (
        is_plain_linear(layer.linear)
        and (norm is None or constant)
        and (layer.dropout is None or not layer.dropout.training)
        and not has_hooks(layer)
        and not torch.is_autocast_enabled(layer.linear.get_parameter("weight").device.type)
    )


def fold(layer: PointwiseLayer) -> tuple[Tensor, Tensor]:
    """Returns the weight ``(D, C)`` and bias ``(D,)`` of a layer with its batch norm folded in."""
    weight = layer.linear.get_parameter("weight").flatten(1)
    bias = cast("Tensor | None", layer.linear.bias)
    shift = torch.zeros_like(weight[:, 0]) if bias is None else bias
    norm = layer.norm
    if not isinstance(norm, _BatchNorm):
        return weight, shift
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = torch.rsqrt(norm.running_var + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = (shift - norm.running_mean) * scale
    return weight * scale[:, None], shift if norm.bias is None else shift + norm.bias


@eagerly
def folded_max_pool(layers: Sequence[PointwiseLayer], clouds: Tensor) -> Tensor:
    """Applies layers that :func:`can_fold` and takes the max over the points, without gradients.

    Args:
        layers: The layers; the activation of the last is monotone.
        clouds: ``(G, N, C)``, in any strides.

    Returns:
        The maxima ``(G, D)``.
    """
    *hidden, (last_weight, last_bias) = [fold(layer) for layer in layers]
    activations = [layer.activation or nn.Identity() for layer in layers]
    jobs = split_clouds(clouds, tile_points(clouds) // 2)  # the products then fit a smaller cache
    out_channels = len(last_weight)
    maxima = clouds.new_full((len(clouds), out_channels), -torch.inf)

    def worker(numbers: Iterator[int]) -> None:
        for number in numbers:
            for tile in jobs[number]:
                own = slice(tile.first, tile.last)
                points = tile.of(clouds)
                x = _apply(hidden, activations[:-1], points.reshape(-1, points.shape[-1]))
                size = out_channels * len(x)
                products = thread_buffer("products", size, x).view(out_channels, -1)
                torch.mm(last_weight, x.t(), out=products)
                best = products.view(out_channels, len(points), -1).amax(-1).t()
                maxima[own] = torch.maximum(maxima[own], best)

    run_jobs(worker, len(jobs))
    pooled: Tensor = activations[-1](maxima + last_bias)
    return pooled


@eagerly
def folded_mlp(layers: Sequence[PointwiseLayer], rows: Tensor) -> Tensor:
    """Applies layers that :func:`can_fold` on a CPU, ``(M, C) -> (M, D)``, without gradients."""
    folded = [fold(layer) for layer in layers]
    activations = [layer.activation or nn.Identity() for layer in layers]
    jobs = split_rows(rows)
    result = rows.new_empty(len(rows), len(folded[-1][0]))

    def worker(numbers: Iterator[int]) -> None:
        for number in numbers:
            for own in jobs[number]:
                result[own] = _apply(folded, activations, rows[own])

    run_jobs(worker, len(jobs))
    return result


def _apply(
    folded: Sequence[tuple[Tensor, Tensor]], activations: Sequence[nn.Module], x: Tensor
) -> Tensor:
    for (weight, bias), activation in zip(folded, activations, strict=True):
        x = activation(torch.addmm(bias, x, weight.t()))
    return x
