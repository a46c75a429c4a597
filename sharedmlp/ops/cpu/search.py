"""The largest of the products of one tile, and which point it belongs to."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sharedmlp.ops.cpu.workspace import workspace

# A CPU's max with index looks at one number at a time, amax at a vector of them: so amax leaves
# one candidate for each of this many columns modulo it, and max looks at those.
_GROUP = 64


def best_points(weight: Tensor, centered: Tensor, num_clouds: int) -> tuple[Tensor, Tensor]:
    """Return the largest product of each cloud and channel and its point, `(g, D)`.

    NaN counts as the largest, and the first of several wins, as in `torch.max`; among products of
    a lower precision, where ties are the rule, any of them.

    Args:
        weight: `(D, C)`.
        centered: `(g * n, C)`, the points of g clouds.
        num_clouds: g.
    """
    out_channels, count = len(weight), len(centered)
    if num_clouds > 1 and weight.dtype == centered.dtype and centered.device.type == "cpu":
        found = _best_of_several(weight, centered, num_clouds)
        if found is not None:
            return found
    points = centered.to(weight.dtype).t()
    buffer = workspace().products
    if num_clouds > 1 or centered.device.type != "cpu":
        products = buffer.take(points, out_channels, count)
        torch.mm(weight, points, out=products)
        best, where = products.view(out_channels, num_clouds, -1).max(-1)
        return best.t(), where.t()
    padded = -(-count // _GROUP) * _GROUP
    products = buffer.take(points, out_channels, padded)
    products[:, count:] = -torch.inf
    torch.mm(weight, points, out=products[:, :count])
    groups = products.view(out_channels, -1, _GROUP)
    candidates = groups.amax(1)
    best, column = candidates.max(1)
    # The first of several that tie, or the first NaN, need not be in the first column with one.
    several = (candidates == best[:, None]).sum() != out_channels
    if bool(several) and (weight.dtype == centered.dtype or bool(best.isnan().any())):
        best, where = products[:, :count].max(1)
        return best[None], where[None]
    members = groups.gather(2, column[:, None, None].expand(-1, groups.shape[1], 1))
    return best[None], (members[..., 0].argmax(1) * _GROUP + column)[None]


def _best_of_several(
    weight: Tensor, centered: Tensor, num_clouds: int
) -> tuple[Tensor, Tensor] | None:
    """Do what `best_points` does for several clouds; None if a product is NaN.

    The products of a point lie together, so that all passes run over vectors of channels. The first
    point is that with the largest mark, of the points that equal the maximum.
    """
    num_points = len(centered) // num_clouds
    products = workspace().products.take(centered, num_clouds, num_points, len(weight))
    torch.mm(centered, weight.t(), out=products.flatten(0, 1))
    best = products.amax(1, keepdim=True)
    if math.isnan(best.sum().item()):  # also if it is infinities that cancel
        return None
    marks = torch.arange(num_points, 0, -1, dtype=products.dtype)
    products.eq_(best).mul_(marks[:, None])
    return best[:, 0], products.amax(1).neg_().add_(num_points).long()


def is_better(values: Tensor, earlier: Tensor) -> Tensor:
    """Return where values of a later tile win: if larger, or the first NaN."""
    return (values > earlier) | (values.isnan() & ~earlier.isnan())


def products_at(rows: Tensor, where: Tensor, weight: Tensor) -> Tensor:
    """Return `W_d . row` for the rows `(M, C)` at `where (g, D)`."""
    return (rows[where.flatten()].view(len(where), *weight.shape) * weight).sum(-1)
