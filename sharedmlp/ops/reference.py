"""The ops by plain operations of torch.

They are the fallback on devices without an implementation, what a double backward differentiates,
and the oracle that other implementations are tested against.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sharedmlp.ops.interface import FoldedLayer, FoldedLinear, LinearArgmax, Workload


class Reference:
    """Every op on every device, without its own gradients: see `Implementation`."""

    name = "reference"

    def not_supported_reasons(self, workload: Workload) -> list[str]:
        """Decline what the modules themselves do in fewer passes."""
        if workload.path == "fuse" and (len(workload.layers) > 1 or workload.num_clouds is None):
            return [f"hidden layers on {workload.layers[0].weight.device.type} run fastest plainly"]
        return []

    def linear_argmax(
        self,
        clouds: Tensor,
        weight: Tensor,
        sign: Tensor,
        center: Tensor,
        *,
        moments: bool,
        search_dtype: torch.dtype,
        layer: FoldedLinear | None = None,
        lengths: Sequence[int] = (),
    ) -> LinearArgmax:
        """Make all products, and look for the largest."""
        rows = (clouds if layer is None else layer(clouds)) - center
        with torch.no_grad():
            products = (rows.to(search_dtype) @ (weight * sign[:, None]).to(search_dtype).t()).to(
                rows.dtype
            )
            if lengths:
                parts = torch.split(products[0], list(lengths))
                indices = torch.stack([part.max(0).indices for part in parts])
            else:
                indices = products.max(1).indices
        values, mean, second = linear_at(clouds, weight, layer, center, indices, lengths)
        if not moments:
            mean, second = torch.zeros_like(mean), torch.zeros_like(second)
        return LinearArgmax(values, indices, mean, second)

    def moments(self, rows: Tensor, center: Tensor) -> tuple[Tensor, Tensor]:
        """Center first, so that nothing cancels."""
        return moments(rows, center)

    def linear_bn_relu(
        self, rows: Tensor, layer: FoldedLinear, center: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Take one operation after another."""
        y = layer(rows)
        around = y.new_zeros(y.shape[1]) if center is None else center
        return (y, *moments(y, around))

    def folded_max(self, clouds: Tensor, layers: Sequence[FoldedLayer]) -> Tensor:
        """Make the last output of every point."""
        y = self.folded_mlp(clouds.reshape(-1, clouds.shape[-1]), layers)
        return y.view(*clouds.shape[:2], -1).amax(1)

    def folded_mlp(self, rows: Tensor, layers: Sequence[FoldedLayer]) -> Tensor:
        """Take one layer after another."""
        for layer in layers:
            rows = layer(rows)
        return rows


def moments(rows: Tensor, center: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean `(C,)` and second moment `(C, C)` of `rows (M, C)` less a center."""
    centered = rows - center
    return centered.mean(0), centered.t() @ centered / len(rows)


def linear_at(
    clouds: Tensor,
    weight: Tensor,
    layer: FoldedLinear | None,
    center: Tensor,
    indices: Tensor,
    lengths: Sequence[int] = (),
) -> tuple[Tensor, Tensor, Tensor]:
    """Return `W_d . (x - center)` at given points `(G, D)`, and the moments of all points.

    The arguments are those of `Implementation.linear_argmax`.
    """
    rows = (clouds if layer is None else layer(clouds)).reshape(-1, len(center))
    where = indices + first_rows(clouds, lengths)[:, None]
    values = ((rows[where] - center) * weight).sum(-1)
    return (values, *moments(rows, center))


def first_rows(clouds: Tensor, lengths: Sequence[int] = ()) -> Tensor:
    """Return `(G,)` int64, the first row of each cloud among the rows of all of them."""
    if not lengths:
        num_clouds, num_points, _ = clouds.shape
        return torch.arange(num_clouds, device=clouds.device) * num_points
    counts = torch.tensor(lengths, device=clouds.device)
    return counts.cumsum(0) - counts


def double_backward(
    formula: Callable[..., tuple[Tensor, ...]],
    inputs: tuple[Tensor | None, ...],
    gradients: tuple[Tensor, ...],
) -> list[Tensor | None]:
    """Return the gradients of a formula's inputs such that they can be differentiated again."""
    # Aliases, as one input may come from another: its gradient must not count that one's too.
    inputs = tuple(None if t is None else t.view_as(t) for t in inputs)
    wanted = [t for t in inputs if t is not None and t.requires_grad]
    found = iter(
        torch.autograd.grad(
            formula(*inputs), wanted, gradients, create_graph=True, allow_unused=True
        )
    )
    return [next(found) if t is not None and t.requires_grad else None for t in inputs]
