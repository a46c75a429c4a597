"""Feature propagation: from the centers of a set abstraction back to the points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sharedmlp.layers.arguments import refuse_channel_dim
from sharedmlp.layers.shared_mlp import SharedMLP
from sharedmlp.ops.gather_rows import gather_rows
from sharedmlp.ops.neighbors import interpolation_weights


class FeaturePropagation(nn.Module):
    """Interpolate the features of centers at the points, and apply a shared MLP there.

    The features of the three nearest centers are averaged, weighted by the inverse of their squared
    distances. The shared MLP reads them and then the features that the point itself has.

    Source: Qi et al. 2017b, "PointNet++", section 3.4, equation 2. As in the authors' code, the
    weights have no gradient, and of fewer than three centers all are used. Deviation: no bias
    before a batch norm, which would subtract it again.

    Gradients reach both features, never the coordinates. `torch.export` and ONNX take the layer,
    `torch.jit.trace` does not.

    Shape:
        `points (B, N, D)`, `centers (B, Q, D)`, `center_features (B, Q, E)` and
        `features (B, N, C)` to `(B, N, out_channels)`.

    Args:
        channels: Widths of the shared MLP, of which the first is E + C, or E if the points have no
            features.
        **options: Further arguments of the `SharedMLP`, such as `backend`, `norm` and `fused`, but
            not `channel_dim`.

    Raises:
        ValueError: If an argument, or the shape of an input, is not one of the above, if a
            coordinate is not finite, if a cloud has no centers, or as `SharedMLP`.
    """

    def __init__(self, channels: Sequence[int], **options: Any) -> None:
        super().__init__()
        refuse_channel_dim("FeaturePropagation", options)
        self.mlp = SharedMLP(channels, **options)

    @property
    def in_channels(self) -> int:
        """Features of a center and of a point together."""
        return self.mlp.in_channels

    @property
    def out_channels(self) -> int:
        """Features of a point after the layer."""
        return self.mlp.out_channels

    def forward(
        self,
        points: Tensor,
        centers: Tensor,
        center_features: Tensor,
        features: Tensor | None = None,
    ) -> Tensor:
        """Return the new features of the points `(B, N, out_channels)`.

        Args:
            points: Where features are wanted, `(B, N, D)`.
            centers: Where they are known, `(B, Q, D)`.
            center_features: Of the centers, `(B, Q, E)`.
            features: Those that the points have before, `(B, N, C)`, or None.
        """
        self._check_inputs(points, centers, center_features, features)
        nearest, weights = interpolation_weights(points, centers)
        y = (gather_rows(center_features, nearest) * weights[..., None]).sum(2)
        if features is not None:
            y = torch.cat([y, features], -1)
        return self.mlp(y)  # type: ignore[no-any-return]

    def _check_inputs(
        self, points: Tensor, centers: Tensor, center_features: Tensor, features: Tensor | None
    ) -> None:
        pairs = [(centers, center_features), (points, points if features is None else features)]
        shapes = [tuple(x.shape) for pair in pairs for x in pair]
        got = (
            f"points {tuple(points.shape)}, centers {tuple(centers.shape)}, center_features "
            f"{tuple(center_features.shape)} and features "
            f"{None if features is None else tuple(features.shape)}"
        )
        if any(len(shape) != 3 for shape in shapes) or any(
            coordinates.shape[:2] != known.shape[:2] for coordinates, known in pairs
        ):
            raise ValueError(
                "FeaturePropagation expected points (B, N, D), centers (B, Q, D), center_features "
                f"(B, Q, E) and features (B, N, C), got {got}: add a batch dimension with "
                "unsqueeze(0), or swap points and channels with transpose(1, 2)"
            )
        width = center_features.shape[2] + (0 if features is None else features.shape[2])
        if width != self.in_channels:
            raise ValueError(
                f"FeaturePropagation expected {self.in_channels} features of center and point "
                f"together, got {width} in {got}: make the first of channels {width}, or pass the "
                "features that are missing"
            )
