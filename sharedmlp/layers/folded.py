"""A whole shared MLP and the max over points at once, for evaluation.

With constant statistics batch norm is an affine map and folds into the layer's weight and bias.
Each tile of points then goes through all layers while it is in the cache; only the maxima leave it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sharedmlp.layers.fused import has_hooks, is_plain_linear
from sharedmlp.layers.shared_mlp import PointwiseLayer
from sharedmlp.layers.threads import run_jobs, thread_buffer
from sharedmlp.layers.winners import deal_clouds, tile_columns


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


@torch.compiler.disable  # type: ignore[untyped-decorator]  # compiled code runs it eagerly
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
    num_clouds, num_points, _ = clouds.shape
    columns = tile_columns(clouds)
    jobs = deal_clouds(clouds)
    out_channels = len(last_weight)
    maxima = clouds.new_full((num_clouds, out_channels), -torch.inf)

    def worker(numbers: Iterator[int]) -> None:
        for number in numbers:
            for first, last in jobs[number]:
                for point in range(0, num_points, columns):
                    tile = clouds[first:last, point : point + columns]
                    x = tile.reshape(-1, tile.shape[-1])
                    for (weight, bias), activation in zip(hidden, activations, strict=False):
                        x = activation(torch.addmm(bias, x, weight.t()))
                    size = out_channels * len(x)
                    products = thread_buffer("products", size, x).view(out_channels, -1)
                    torch.mm(last_weight, x.t(), out=products)
                    best = products.view(out_channels, last - first, -1).amax(-1).t()
                    maxima[first:last] = torch.maximum(maxima[first:last], best)

    run_jobs(worker, len(jobs))
    pooled: Tensor = activations[-1](maxima + last_bias)
    return pooled
