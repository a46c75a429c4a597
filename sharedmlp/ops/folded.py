"""A whole shared MLP at once, with the max over points or without, for evaluation.

With constant statistics batch norm is an affine map and folds into the layer's weight and bias.
Each tile of points then goes through all layers while it is in the cache; only the last outputs,
or their maxima, leave it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from sharedmlp.ops.cpu.threads import run_jobs, thread_buffer
from sharedmlp.ops.cpu.tiles import split_clouds, split_rows, tile_points
from sharedmlp.ops.custom_op import custom_op
from sharedmlp.ops.fused import result_dtype_of
from sharedmlp.ops.layer import Activation, PointwiseTensors, fold


def folded_max(layers: Sequence[PointwiseTensors], clouds: Tensor) -> Tensor:
    """Apply layers whose plan is "fold" and take the max over the points, without gradients.

    Args:
        layers: The layers; the activation of the last is monotone.
        clouds: `(G, N, C)`, in any strides.

    Returns:
        The maxima `(G, D)`, in the dtype that an active autocast asks for.
    """
    result_dtype = result_dtype_of(layers[-1].weight)
    with torch.autocast(clouds.device.type, enabled=False):
        pooled: Tensor = _folded_max(clouds.to(layers[-1].weight.dtype), *_arguments(layers))
        return pooled.to(result_dtype)


def folded_mlp(layers: Sequence[PointwiseTensors], rows: Tensor) -> Tensor:
    """Apply layers whose plan is "fold", `(M, C) -> (M, D)`, without gradients."""
    result_dtype = result_dtype_of(layers[-1].weight)
    with torch.autocast(rows.device.type, enabled=False):
        y: Tensor = _folded_mlp(rows.to(layers[-1].weight.dtype), *_arguments(layers))
        return y.to(result_dtype)


def _arguments(
    layers: Sequence[PointwiseTensors],
) -> tuple[list[Tensor], list[Tensor], str, list[float]]:
    """Return the layers as a custom op takes them."""
    folded = [fold(layer) for layer in layers]
    names = " ".join(layer.activation.name for layer in layers)
    parameters = [layer.activation.parameter for layer in layers]
    return [weight for weight, _ in folded], [bias for _, bias in folded], names, parameters


def _max_forward(
    clouds: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    activations: str,
    parameters: Sequence[float],
) -> Tensor:
    layers = _layers(weights, biases, activations, parameters)
    *hidden, (last_weight, last_bias, activation) = layers
    jobs = split_clouds(clouds, tile_points(clouds) // 2)  # the products then fit a smaller cache
    out_channels = len(last_weight)
    maxima = clouds.new_full((len(clouds), out_channels), -torch.inf)

    def worker(numbers: Iterator[int]) -> None:
        for number in numbers:
            for tile in jobs[number]:
                own = slice(tile.first, tile.last)
                points = tile.of(clouds)
                x = _apply(hidden, points.reshape(-1, points.shape[-1]))
                size = out_channels * len(x)
                products = thread_buffer("products", size, x).view(out_channels, -1)
                torch.mm(last_weight, x.t(), out=products)
                best = products.view(out_channels, len(points), -1).amax(-1).t()
                maxima[own] = torch.maximum(maxima[own], best)

    run_jobs(worker, len(jobs))
    return activation(maxima.add_(last_bias))


def _mlp_forward(
    rows: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    activations: str,
    parameters: Sequence[float],
) -> Tensor:
    layers = _layers(weights, biases, activations, parameters)
    jobs = split_rows(rows)
    result = rows.new_empty(len(rows), len(weights[-1]))

    def worker(numbers: Iterator[int]) -> None:
        for number in numbers:
            for own in jobs[number]:
                result[own] = _apply(layers, rows[own])

    run_jobs(worker, len(jobs))
    return result


_Layers = list[tuple[Tensor, Tensor, Activation]]


def _layers(
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    activations: str,
    parameters: Sequence[float],
) -> _Layers:
    kinds = [Activation(*kind) for kind in zip(activations.split(), parameters, strict=True)]
    return list(zip(weights, biases, kinds, strict=True))


def _apply(layers: _Layers, x: Tensor) -> Tensor:
    for weight, bias, activation in layers:
        x = activation(torch.addmm(bias, x, weight.t()))
    return x


_folded_max = custom_op(
    "folded_max",
    _max_forward,
    lambda clouds, weights, *_: clouds.new_empty(clouds.shape[0], weights[-1].shape[0]),
)
_folded_mlp = custom_op(
    "folded_mlp",
    _mlp_forward,
    lambda rows, weights, *_: rows.new_empty(rows.shape[0], weights[-1].shape[0]),
)
