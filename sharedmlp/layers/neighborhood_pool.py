"""A shared MLP on pairs of centers and neighbors, and the max over the neighbors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sharedmlp.layers.max_pool import SharedMLPMaxPool
from sharedmlp.layers.pointwise import (
    PointwiseLayer,
    layer_tensors,
    share_statistics,
    unknown_parts,
)
from sharedmlp.ops import cost, torch_internals
from sharedmlp.ops.fused import run_max, run_max_of
from sharedmlp.ops.gate import result_dtype_of, tensor_reasons, visible_reasons
from sharedmlp.ops.groups import Groups, normalize_groups
from sharedmlp.ops.layer import PointwiseTensors
from sharedmlp.ops.neighborhoods import (
    PairTensors,
    neighborhood_max,
    neighborhood_reasons,
    neighborhood_rows,
)
from sharedmlp.ops.plan import Plan, make_plan


class NeighborhoodPool(SharedMLPMaxPool):
    """A `SharedMLPMaxPool` over the neighbors, whose first layer can run on points.

    Called as any `SharedMLPMaxPool`, it takes the features of all pairs `(B, Q, K, C)`. If these
    are linear in both ends of a pair, `pool_points` gives the same without making them.
    """

    def pool_points(
        self,
        split: Callable[[PointwiseTensors], PairTensors],
        sources: Tensor,
        centers: Tensor,
        neighbors: Tensor,
        *,
        return_indices: bool,
    ) -> tuple[Tensor, Tensor | None] | None:
        """Apply the MLP to all pairs and take the max over the neighbors.

        Ask `points_reasons` before.

        Args:
            split: Splits the first layer into its ends.
            sources: `(B, N, Cs)`.
            centers: `(B, Q, Ct)`.
            neighbors: `(B, Q, K)` int64, rows of the sources within each cloud.
            return_indices: Whether to tell which neighbors won.

        Returns:
            The maxima `(B, Q, D)`, and the positions among the neighbors that won or None. None,
            with nothing changed, if a number in the first layer is not finite.
        """
        first, *rest = self._pointwise()
        pairs = split(layer_tensors(first))
        if not rest:
            return neighborhood_max(
                pairs, sources, centers, neighbors, return_indices=return_indices
            )
        rows = neighborhood_rows(pairs, sources, centers, neighbors)
        if rows is None:
            return None
        clouds = rows.flatten(0, 1)
        plan = self._plan_rest(rest, neighbors, return_indices)
        values, positions = self._pool_rest(rest, plan, clouds, return_indices)
        shape = (*neighbors.shape[:2], self.out_channels)
        return values.view(shape), None if positions is None else positions.view(shape)

    def pool_groups(
        self, groups: Groups, features: Tensor | None, *, return_indices: bool
    ) -> tuple[Tensor, Tensor | None] | None:
        """Apply the MLP to coordinates relative to centers, followed by features of the points.

        Ask `points_reasons` before; there is more than one layer.

        Args:
            groups: The coordinates and the neighbors.
            features: `(B, N, C)`, of the points; None for coordinates alone.
            return_indices: Whether to tell which neighbors won.

        Returns:
            As `pool_points`.
        """
        first, *rest = self._pointwise()
        plan = self._plan_rest(rest, groups.neighbors, return_indices)
        device = groups.relative.device.type
        with torch.autocast(device, enabled=False):
            rows = normalize_groups(layer_tensors(first), groups, features)
            if rows is None:
                return None
            found = None
            if plan.path != "plain" and len(plan.layers) == len(rest):
                found = run_max_of(plan, rows, self._search_dtype)
            clouds = rows.rows() if found is None else None
        if found is None:
            assert clouds is not None
            found = self._pool_rest(rest, plan, clouds, return_indices)
        values, positions = found
        shape = (*groups.neighbors.shape[:2], self.out_channels)
        values = values.view(shape).to(result_dtype_of(layer_tensors(rest[-1]).weight))
        return values, None if positions is None else positions.view(shape)

    def points_reasons(self, sources: Tensor, centers: Tensor, *, must: bool) -> list[str]:
        """Say why the first layer cannot run on these points; empty if it can.

        Args:
            sources: The points on one end.
            centers: The points on the other.
            must: As in `visible_reasons`.
        """
        reasons = visible_reasons(sources, [self], must=must) + tensor_reasons(centers)
        return list(dict.fromkeys(reasons)) or self.structural_reasons()

    def structural_reasons(self) -> list[str]:
        """Say why the first layer cannot run on any points; empty if it can."""
        first, *rest = self._pointwise()
        reasons = [reason for layer in (first, *rest) for reason in unknown_parts(layer)]
        return reasons or neighborhood_reasons(layer_tensors(first), before_max=not rest)

    def points_pay(self, neighbors: Tensor, itemsize: int) -> bool:
        """Whether running the first layer on points is faster, for numbers of so many bytes."""
        # A comparison would become a bound of the exported sizes; plain operations are recorded.
        if torch_internals.is_exporting():
            return False
        # Processes that share statistics have to take the same path, whatever each one's size is.
        if share_statistics(self.layers):
            return True
        widths = self.channels[1:]
        least = 8 if len(widths) == 1 else 32  # measured; of several, only the first gains
        return neighbors.numel() * max(widths) * itemsize >= least * cost.MIB

    def _plan_rest(
        self, layers: list[PointwiseLayer], neighbors: Tensor, return_indices: bool
    ) -> Plan:
        """Decide how layers after the first, and the max, run on all pairs."""
        return self._check_plan(
            make_plan(
                [layer_tensors(layer) for layer in layers],
                neighbors.numel(),
                neighbors.shape[0] * neighbors.shape[1],
                needs_indices=return_indices,
                search_dtype=self._search_dtype,
                must=self.fused is True,
            )
        )

    def _pool_rest(
        self,
        layers: list[PointwiseLayer],
        plan: Plan,
        clouds: Tensor,
        return_indices: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Apply layers to `(G, K, H)` and take the max over K."""
        y = self._layout.enter(clouds, -1)
        if plan.path != "plain":
            first = len(layers) - len(plan.layers)
            for layer in layers[:first]:
                y = layer(y)
            layers = layers[first:]
            clouds = self._layout.clouds(y, clouds.shape[1])
            found = run_max(plan, clouds, self._search_dtype)
            if found is not None:
                return found
        for layer in layers:
            y = layer(y)
        return self._layout.max_over_points(y, clouds.shape[1])
