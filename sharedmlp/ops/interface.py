"""What an implementation of the ops offers, and how it says that it declines.

An implementation for another device is a folder with an object of this kind in it, and one line in
`sharedmlp.ops.implementations`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from sharedmlp.ops.layer import Activation, PointwiseTensors


class Workload(NamedTuple):
    """What an implementation is asked to run.

    Attributes:
        path: "fold" or "fuse", as in `sharedmlp.ops.plan.Plan`.
        layers: The layers that would run in it.
        rows: How many points there are in all.
        num_clouds: Over how many clouds the max is taken; None if none is.
    """

    path: Literal["fold", "fuse"]
    layers: Sequence[PointwiseTensors]
    rows: int
    num_clouds: int | None


class FoldedLinear(NamedTuple):
    """A hidden layer with batch norm folded in: `relu((x - center) @ weight.T + bias)`.

    Attributes:
        center: `(C,)`; a constant.
        weight: `(D, C)`.
        bias: `(D,)`.
    """

    center: Tensor
    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Take `(..., C)` to `(..., D)`, by plain operations."""
        return torch.relu((x - self.center) @ self.weight.t() + self.bias)


class FoldedLayer(NamedTuple):
    """A layer with constant batch norm folded in: `activation(x @ weight.T + bias)`.

    Attributes:
        weight: `(D, C)`.
        bias: `(D,)`.
        activation: The activation.
    """

    weight: Tensor
    bias: Tensor
    activation: Activation

    def __call__(self, x: Tensor) -> Tensor:
        """Take `(M, C)` to `(M, D)`."""
        return self.activation(torch.addmm(self.bias, x, self.weight.t()))


class LinearArgmax(NamedTuple):
    """What `Implementation.linear_argmax` finds in G clouds of M rows in all.

    Attributes:
        values: `(G, D)`, `W_d . (x_n - center)` at the argmax (without the sign).
        indices: `(G, D)` int64, the number of the point in its cloud. If a sign is zero all points
            tie, and the first is the argmax.
        mean: `(C,)`, the mean of `x - center`; zeros without `moments`.
        second_moment: `(C, C)`, the mean of `(x - center) (x - center)^T`, likewise.
    """

    values: Tensor
    indices: Tensor
    mean: Tensor
    second_moment: Tensor


class Implementation(Protocol):
    """The ops of one kind of device, as functions of tensors.

    All of them take what autograd tracks and are differentiable, but for the folded ones. Clouds
    come in any strides. Autocast is off.
    """

    @property
    def name(self) -> str:
        """What it is called, as in reasons."""

    def not_supported_reasons(self, workload: Workload) -> list[str]:
        """Say in words why it declines a workload; empty if it takes it."""

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
        """Find where `sign * W (x - center)` is largest in each cloud, and the moments of x.

        Differentiable in clouds, weight and layer.

        Args:
            clouds: `(G, N, C)`, or `(G, N, C')` before the layer.
            weight: `(D, C)`.
            sign: `(D,)`, 1, -1 or 0; a constant.
            center: `(C,)`; a constant. Near the mean it saves the moments from cancellation.
            moments: Whether to compute the moments.
            search_dtype: Precision of the products that are compared. If it is not that of the
                clouds, the value at the argmax is computed again in theirs.
            layer: Applied to the clouds first, C' to C channels.
            lengths: If given, `clouds (1, M, C)` holds clouds of these lengths one after another,
                the longest first, none of them empty.
        """

    def moments(self, rows: Tensor, center: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean `(C,)` and second moment `(C, C)` of `rows (M, C)` less a center."""

    def linear_bn_relu(
        self, rows: Tensor, layer: FoldedLinear, center: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Apply a layer, `(M, C) -> (M, D)`, and return that and its moments around a center.

        Without a center the moments are anything.
        """

    def folded_max(self, clouds: Tensor, layers: Sequence[FoldedLayer]) -> Tensor:
        """Apply layers, the last activation monotone, and take the max: `(G, N, C) -> (G, D)`."""

    def folded_mlp(self, rows: Tensor, layers: Sequence[FoldedLayer]) -> Tensor:
        """Apply layers, `(M, C) -> (M, D)`."""
