"""Farthest point sampling: over clouds at once, or in leaves of one large cloud."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sharedmlp.ops.neighbors.distances import squared_distances, sum_pairwise
from sharedmlp.ops.neighbors.leaves import MAX_DIMENSIONS, Leaves

# From this many points on, leaves are faster on a CPU than looking at every point every time.
_MIN_POINTS = 2**16


def search_farthest(clouds: list[Tensor], starts: list[int], num_samples: int) -> list[Tensor]:
    """Return the rows `(num_samples,)` of samples of each cloud `(n, C)`, the start first.

    A tie goes to the lowest row. If all points of a cloud coincide with samples, the start again.
    """
    result: list[Tensor] = [torch.empty(0)] * len(clouds)
    waiting = sorted(range(len(clouds)), key=lambda i: -len(clouds[i]))
    while waiting:
        # Clouds of similar sizes are padded to the largest of them, to at most twice the memory.
        largest = clouds[waiting[0]]
        group = [i for i in waiting if 2 * len(clouds[i]) >= len(largest)]
        waiting = waiting[len(group) :]
        if (
            len(largest) >= _MIN_POINTS
            and largest.shape[1] <= MAX_DIMENSIONS
            and not largest.is_cuda
        ):
            found = [farthest_in_leaves(clouds[i], starts[i], num_samples) for i in group]
        else:
            of_group = torch.tensor([starts[i] for i in group], device=largest.device)
            found = list(farthest([clouds[i] for i in group], of_group, num_samples))
        for i, rows in zip(group, found, strict=True):
            result[i] = rows
    return result


def farthest(clouds: list[Tensor], starts: Tensor, num_samples: int) -> Tensor:
    """Return the samples `(g, num_samples)` of g clouds `(n, C)`, their starts `(g,)` first."""
    planes = pad_sequence(clouds, batch_first=True).movedim(2, 0).contiguous()
    counts = torch.tensor([len(cloud) for cloud in clouds], device=planes.device)
    padding = torch.arange(planes.shape[2], device=planes.device) >= counts[:, None]
    remaining = torch.full_like(planes[0], torch.inf).masked_fill_(padding, -1)
    result = starts.new_empty((len(clouds), num_samples))
    difference = torch.empty_like(planes)
    current = starts
    for i in range(num_samples):
        result[:, i] = current
        where = current[None, :, None].expand(len(planes), -1, 1)
        torch.sub(planes, planes.gather(2, where), out=difference)
        torch.minimum(remaining, sum_pairwise(difference.square_(), 0), out=remaining)
        current = _first_largest(remaining)
        distance = remaining.gather(1, current[:, None])[:, 0]
        current = torch.where(distance > 0, current, starts)
    return result


def _first_largest(values: Tensor) -> Tensor:
    """Return where each row of `(g, n)` is largest, the first of equal ones."""
    if values.device.type != "cpu":
        return values.max(1).indices
    # numpy compares vectors of numbers, torch one number after another: a twentieth of the time.
    return torch.from_numpy(values.numpy().argmax(1))


def farthest_in_leaves(points: Tensor, start: int, num_samples: int) -> Tensor:
    """Do what `farthest` does for one cloud `(n, C)`, looking only at leaves that may change.

    A leaf whose box is not nearer to the new sample than all of its points are to earlier ones
    keeps its distances.
    """
    leaves = Leaves(points)
    # Of equal points only the lowest row can be a sample.
    distinct = [
        rows[:1] if torch.equal(low, high) else rows
        for rows, low, high in zip(leaves.rows, leaves.low, leaves.high, strict=True)
    ]
    rows = pad_sequence(distinct, batch_first=True, padding_value=-1)
    rows = torch.where(rows < 0, rows[:, :1], rows)
    members = points[rows]
    remaining = torch.full_like(members[..., 0], torch.inf)
    best = torch.full_like(remaining[:, 0], torch.inf)
    best_row = rows[:, 0].clone()
    result = rows.new_full((num_samples,), start)
    for i in range(1, num_samples):
        sample = points[result[i - 1]]
        touched = (leaves.distances(sample, sample) < best).nonzero()[:, 0]
        near = torch.minimum(remaining[touched], squared_distances(members[touched], sample))
        remaining[touched] = near
        values, where = near.max(1)
        best[touched] = values
        best_row[touched] = rows[touched, where]
        farthest_of_all = best.max()
        if not bool(farthest_of_all > 0):
            break
        result[i] = best_row[best == farthest_of_all].min()
    return result
