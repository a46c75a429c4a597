"""Layers with batch norm folded in, with the max over points or without, for evaluation.

Each tile of points goes through all layers while it is in the cache; only the last outputs, or
their maxima and means, leave it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from sharedmlp.ops.cpu.row_tiles import CloudTiles, RowTiles
from sharedmlp.ops.cpu.threads import run_chunks
from sharedmlp.ops.cpu.tiles import Tile, split_clouds, split_rows, tile_points
from sharedmlp.ops.cpu.workspace import workspace
from sharedmlp.ops.custom_op import custom_op
from sharedmlp.ops.interface import FoldedLayer
from sharedmlp.ops.layer import Activation


def folded_max(clouds: Tensor, layers: Sequence[FoldedLayer]) -> Tensor:
    """See `Implementation.folded_max`."""
    pooled: Tensor = _folded_max(clouds, *flatten_layers(layers))
    return pooled


def folded_max_mean(clouds: Tensor, layers: Sequence[FoldedLayer]) -> Tensor:
    """Apply layers and take the maxima and the means, `(G, N, C) -> (G, 2D)`."""
    pooled: Tensor = _folded_max_mean(clouds, *flatten_layers(layers))
    return pooled


def folded_mlp(rows: Tensor, layers: Sequence[FoldedLayer]) -> Tensor:
    """See `Implementation.folded_mlp`."""
    y: Tensor = _folded_mlp(rows, *flatten_layers(layers))
    return y


def flatten_layers(
    layers: Sequence[FoldedLayer],
) -> tuple[list[Tensor], list[Tensor], str, list[float]]:
    """Return the layers as a custom op takes them."""
    return (
        [layer.weight for layer in layers],
        [layer.bias for layer in layers],
        " ".join(layer.activation.name for layer in layers),
        [layer.activation.parameter for layer in layers],
    )


def unflatten_layers(
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    activations: str,
    parameters: Sequence[float],
) -> list[FoldedLayer]:
    """Return the layers again."""
    kinds = [Activation(*kind) for kind in zip(activations.split(), parameters, strict=True)]
    return [FoldedLayer(*parts) for parts in zip(weights, biases, kinds, strict=True)]


def _max_forward(
    clouds: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    activations: str,
    parameters: Sequence[float],
) -> Tensor:
    # The products then fit a smaller cache.
    tiles = CloudTiles(clouds, (), tile_points(clouds) // 2)
    return max_of_tiles(tiles, unflatten_layers(weights, biases, activations, parameters))


def max_of_tiles(tiles: RowTiles, layers: Sequence[FoldedLayer]) -> Tensor:
    """Do what `Implementation.folded_max` does, for rows in tiles."""
    *hidden, last = layers
    out_channels = len(last.weight)
    maxima = last.weight.new_full((tiles.num_groups, out_channels), -torch.inf)

    def worker(numbers: Iterator[int]) -> None:
        for number in numbers:
            for tile in tiles.chunks[number]:
                rows = tiles.rows(tile)
                rows = _apply(hidden, rows.reshape(-1, rows.shape[-1]))
                maxima[tile.clouds] = torch.maximum(maxima[tile.clouds], _largest(rows, tile, last))

    run_chunks(worker, len(tiles.chunks))
    return last.activation(maxima.add_(last.bias))


def _largest(rows: Tensor, tile: Tile, last: FoldedLayer) -> Tensor:
    """Return the largest products of a tile's rows `(m, C)`, `(g, D)`."""
    out_channels = len(last.weight)
    if len(tile.lengths) == 1:
        products = workspace().products.take(rows, out_channels, len(rows))
        return torch.mm(last.weight, rows.t(), out=products).amax(-1)[None]
    # Of small clouds the maxima are taken over vectors of channels.
    products = workspace().products.take(rows, len(rows), out_channels)
    torch.mm(rows, last.weight.t(), out=products)
    return products.view(len(tile.lengths), -1, out_channels).amax(1)


def _max_mean_forward(
    clouds: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    activations: str,
    parameters: Sequence[float],
) -> Tensor:
    *hidden, last = unflatten_layers(weights, biases, activations, parameters)
    num_clouds, num_points, _ = clouds.shape
    size = tile_points(clouds) // 2
    chunks = split_clouds(clouds, size=size, whole_clouds=False)
    # Of each part of a cloud, so that a large one is not a thread's alone.
    maxima = clouds.new_empty(num_clouds, -(-num_points // size), len(last.weight))
    sums = torch.empty_like(maxima)

    def worker(numbers: Iterator[int]) -> None:
        for number in numbers:
            for tile in chunks[number]:
                rows = _apply(hidden, tile.of(clouds).reshape(-1, clouds.shape[-1]))
                y = workspace().of_products.take(rows, len(rows), len(last.weight))
                y = last.activation(torch.addmm(last.bias, rows, last.weight.t(), out=y))
                points, part = y.view(len(tile.lengths), -1, y.shape[1]), tile.start // size
                torch.amax(points, 1, out=maxima[tile.clouds, part])
                torch.sum(points, 1, out=sums[tile.clouds, part])

    run_chunks(worker, len(chunks))
    return torch.cat([maxima.amax(1), sums.sum(1) / num_points], 1)


def _mlp_forward(
    rows: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    activations: str,
    parameters: Sequence[float],
) -> Tensor:
    layers = unflatten_layers(weights, biases, activations, parameters)
    chunks = split_rows(rows)
    y = rows.new_empty(len(rows), len(weights[-1]))

    def worker(numbers: Iterator[int]) -> None:
        for number in numbers:
            for tile in chunks[number]:
                y[tile] = _apply(layers, rows[tile])

    run_chunks(worker, len(chunks))
    return y


def _apply(layers: Sequence[FoldedLayer], rows: Tensor) -> Tensor:
    for layer in layers:
        rows = layer(rows)
    return rows


_folded_max = custom_op(
    "folded_max",
    _max_forward,
    lambda clouds, weights, *_: clouds.new_empty(clouds.shape[0], weights[-1].shape[0]),
)
_folded_max_mean = custom_op(
    "folded_max_mean",
    _max_mean_forward,
    lambda clouds, weights, *_: clouds.new_empty(clouds.shape[0], 2 * weights[-1].shape[0]),
)
_folded_mlp = custom_op(
    "folded_mlp",
    _mlp_forward,
    lambda rows, weights, *_: rows.new_empty(rows.shape[0], weights[-1].shape[0]),
)
