"""The largest products of each cloud, and their gradients, from rows that are made in tiles.

What the rows come from differs: they lie in memory, or are made of the points around a center. The
search, the moments, the hidden layer in between and all their gradients are the same.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from sharedmlp.ops.cpu.linear_bn_relu import LinearBNReLUGradients, write_layer
from sharedmlp.ops.cpu.row_tiles import RowGradients, RowTiles
from sharedmlp.ops.cpu.search import best_points, is_better, products_at
from sharedmlp.ops.cpu.sort import stable_order
from sharedmlp.ops.cpu.sums import MomentSums, PartialSums
from sharedmlp.ops.cpu.threads import run_chunks
from sharedmlp.ops.cpu.tiles import Tile
from sharedmlp.ops.cpu.workspace import workspace
from sharedmlp.ops.interface import FoldedLinear

# Numbers gathered for the gradients at a time, so that they stay in the caches.
GATHERED = 2**19


def folded_linear(
    center: Tensor | None, weight: Tensor | None, bias: Tensor | None
) -> FoldedLinear | None:
    """Return the hidden layer, if there is one."""
    if center is None or weight is None or bias is None:
        return None
    return FoldedLinear(center, weight, bias)


def search_tiles(
    tiles: RowTiles,
    layer: FoldedLinear | None,
    weight: Tensor,
    sign: Tensor,
    center: Tensor,
    moments: bool,
    search_dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Do what `Implementation.linear_argmax` does, for rows in tiles."""
    out_channels, channels = weight.shape
    chunks = tiles.chunks
    values = weight.new_empty(tiles.num_groups, out_channels)
    indices = torch.empty_like(values, dtype=torch.int64)
    sums = MomentSums(len(chunks), weight, channels)
    signed_weight = weight * sign[:, None]
    search_weight = signed_weight.to(search_dtype)

    def worker(numbers: Iterator[int]) -> None:
        for number in numbers:
            for tile in chunks[number]:
                own = tile.clouds
                centered = _Rows(tiles.rows(tile), layer, center).centered
                if moments:
                    sums.add(number, centered)
                best, where = best_points(search_weight, tile.pad(centered), len(tile.lengths))
                where = tile.unpad(where)
                if search_dtype != weight.dtype:
                    rows = where + tile.first_rows(where.device)
                    best = products_at(centered, rows, signed_weight)
                if tile.start == 0:
                    values[own], indices[own] = best, where
                else:
                    better = is_better(best, values[own])
                    values[own] = torch.where(better, best, values[own])
                    indices[own] = torch.where(better, where + tile.start, indices[own])

    run_chunks(worker, len(chunks))
    # The value without the sign; if the sign is zero, that of the first point.
    values *= sign
    if bool((sign == 0).any()):
        first = tiles.first_rows()
        first = first if layer is None else layer(first)
        values = torch.where(sign == 0, (first - center) @ weight.t(), values)
    num_rows = sum(sum(tile.lengths) for chunk in chunks for tile in chunk)
    return values, indices, *sums.means(num_rows)


def tile_gradients(
    tiles: RowTiles,
    of_rows: RowGradients,
    layer: FoldedLinear | None,
    weight: Tensor,
    center: Tensor,
    indices: Tensor,
    of_values: Tensor,
    offset: Tensor | None,
    matrix: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of the weight, and of the layer's weight and bias (empty without it).

    Each value sends `gradient * W_d` to its point and `gradient * (x - center)` to its row of the
    weight. The moments send `offset + matrix (x - center)` to every point.
    """
    chunks = tiles.chunks
    of_weight = PartialSums(workspace().weight_sums, len(chunks), weight, *weight.shape)
    of_layer = None if layer is None else LinearBNReLUGradients(len(chunks), layer.weight)

    def worker(numbers: Iterator[int]) -> None:
        for number in numbers:
            for tile in chunks[number]:
                made = tiles.rows(tile)
                rows = _Rows(made, layer, center)
                out = of_rows.out(tile)
                gradient = out
                if layer is not None:
                    gradient = workspace().gradients.take(weight, *rows.centered.shape)
                if gradient is not None:
                    if offset is None or matrix is None:
                        gradient.zero_()
                    else:
                        torch.addmm(offset, rows.centered, matrix, out=gradient)
                _add_found(
                    tile, indices, of_values, weight, rows.centered, of_weight[number], gradient
                )
                if layer is not None and of_layer is not None and gradient is not None:
                    of_layer.add(number, gradient, rows.outputs, rows.inputs)
                    if out is not None:
                        torch.mm(gradient, layer.weight, out=out)
                if out is not None:
                    of_rows.add(number, tile, out, made)

    run_chunks(worker, len(chunks))
    if of_layer is None:
        return of_weight.total(), weight.new_empty(0), weight.new_empty(0)
    return (of_weight.total(), *of_layer.totals())


def _add_found(
    tile: Tile,
    indices: Tensor,
    of_values: Tensor,
    weight: Tensor,
    centered: Tensor,
    of_weight: Tensor,
    gradient: Tensor | None,
) -> None:
    """Add what the values send to the weight, and to the points if they have a gradient."""
    if tile.is_whole and len(tile.lengths) > 1 and weight.device.type == "cpu":
        rows = (indices[tile.clouds] + tile.first_rows(indices.device)).t().contiguous()
        sent = of_values[tile.clouds].t().contiguous()
        of_weight.add_(_weighted_sums(centered, rows, sent))
        if gradient is not None:
            channels = torch.arange(len(weight))[:, None].expand_as(rows)
            gradient.add_(_sums_by_row(weight, channels, rows.flatten(), sent, len(gradient)))
        return
    for found, some, sent in _found_in(tile, indices, of_values, weight):
        points = centered.index_select(0, found).view(*sent.shape[:2], weight.shape[1])
        if len(points) == 1 and isinstance(some, slice):  # in one pass
            of_weight.addcmul_(points[0], sent[0])
        else:
            of_weight[some] += points.mul_(sent).sum(0)
        if gradient is not None:
            sent = weight[some] * sent
            gradient.index_add_(0, found, sent.flatten(0, 1))


def _weighted_sums(table: Tensor, rows: Tensor, factors: Tensor) -> Tensor:
    """Return the sums `(D, C)` of factors times the rows `(D, g)` of a table `(m, C)`.

    In one pass, without the gathered rows in memory.
    """
    return functional.embedding_bag(rows, table, mode="sum", per_sample_weights=factors)


def _sums_by_row(
    table: Tensor, chosen: Tensor, rows: Tensor, factors: Tensor, num_rows: int
) -> Tensor:
    """Return the sums `(num_rows, C)` over all entries of a row of factors times table rows.

    Args:
        table: `(D, C)`.
        chosen: The row of the table of each entry, of as many entries as `rows`.
        rows: `(e,)` int64, the row of the result for each entry.
        factors: As many.
        num_rows: How many rows the result has.
    """
    by_row = stable_order(rows, num_rows)
    counts = torch.bincount(rows, minlength=num_rows)
    return functional.embedding_bag(
        chosen.reshape(-1)[by_row],
        table,
        counts.cumsum(0).sub_(counts),
        mode="sum",
        per_sample_weights=factors.view(-1)[by_row],
    )


class _Rows:
    """The rows of a tile `(g, n, C)`, in the workspace: those of its last tile are gone.

    Attributes:
        inputs: What the layer's weight is multiplied by, `(g * n, C')`; unset without a layer.
        outputs: What the layer makes of them, `(g * n, C)`; unset without a layer.
        centered: The outputs, or the rows themselves, less the center.
    """

    def __init__(self, tile: Tensor, layer: FoldedLinear | None, center: Tensor) -> None:
        own, count = workspace(), tile.shape[0] * tile.shape[1]
        self.centered = own.centered.take(tile, count, len(center))
        if layer is None:
            torch.sub(tile, center, out=self.centered.view(tile.shape))
            return
        self.inputs = own.inputs.take(tile, count, tile.shape[-1])
        self.outputs = own.outputs.take(tile, count, len(center))
        write_layer(layer, tile.reshape(count, -1), self.inputs, self.outputs)
        torch.sub(self.outputs, center, out=self.centered)


def _found_in(
    tile: Tile, indices: Tensor, of_values: Tensor, weight: Tensor
) -> Iterator[tuple[Tensor, slice | Tensor, Tensor]]:
    """Yield the points found among a tile's: of g clouds at a time, w in each.

    Yields:
        Their rows in the tile `(g * w,)`, their channels (w of them), and the gradients of their
        values `(g, w, 1)`.
    """
    if tile.is_whole:
        rows = indices[tile.clouds] + tile.first_rows(indices.device)
        gradients = of_values[tile.clouds, :, None]
        step = max(1, GATHERED // weight.numel())
        for i in range(0, len(rows), step):
            yield rows[i : i + step].flatten(), slice(None), gradients[i : i + step]
        return
    cloud = tile.clouds.start
    rows = indices[cloud] - tile.start
    (channels,) = ((rows >= 0) & (rows < tile.lengths[0])).nonzero(as_tuple=True)
    yield rows[channels], channels, of_values[cloud, channels][None, :, None]
