"""How layers are to run: folded, fused or plain. Decided here, for modules and for calls alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch

from sharedmlp.ops.cost import fusion_pays
from sharedmlp.ops.implementations import choose
from sharedmlp.ops.interface import Implementation, Workload
from sharedmlp.ops.layer import PointwiseTensors


class Plan(NamedTuple):
    """How layers are to run.

    Attributes:
        path: "fold": without gradients, batch norm folded in. "fuse": with the batch's statistics,
            or with the max. "plain": one operation after another.
        layers: The layers that run so, the last ones; those before them run plainly.
        reasons: Why it is "plain", in words; empty if it only does not pay.
        implementation: What runs them; None if it is "plain", or if only one can.
    """

    path: Literal["fold", "fuse", "plain"]
    layers: tuple[PointwiseTensors, ...] = ()
    reasons: tuple[str, ...] = ()
    implementation: Implementation | None = None


PLAIN = Plan("plain")


def make_plan(
    layers: Sequence[PointwiseTensors],
    rows: int,
    num_clouds: int | None,
    *,
    needs_indices: bool = False,
    search_dtype: torch.dtype | None = None,
    must: bool = False,
) -> Plan:
    """Decide how layers are to run.

    Args:
        layers: The layers, as they are now.
        rows: How many points there are in all.
        num_clouds: Over how many clouds the max is taken; None if none is.
        needs_indices: Whether somebody asks which points won.
        search_dtype: As in `run_max`.
        must: Whether to choose a path that does not pay, too.
    """
    *hidden, last = layers
    path: Literal["fold", "fuse"] = "fuse"
    reasons: list[str] = []
    candidates = [layers]
    free = not torch.is_grad_enabled() and not needs_indices and search_dtype is None
    if free and all(map(can_fold, layers)) and (num_clouds is None or last.activation.is_monotone):
        path = "fold"
    elif num_clouds is None:
        reasons = [reason for layer in layers for reason in hidden_reasons(layer)]
    else:
        reasons = max_reasons(last)
        whole = hidden and _uses_batch_statistics(last) and not any(map(hidden_reasons, hidden))
        candidates = [layers, [last]] if whole else [[last]]
    if reasons:
        return Plan("plain", (), tuple(dict.fromkeys(reasons)))
    for some in candidates:
        implementation, reasons = choose(Workload(path, some, rows, num_clouds))
        if implementation is not None:
            pays = must or _pays(some, rows, num_clouds, folded=path == "fold")
            return Plan(path, tuple(some), (), implementation) if pays else PLAIN
    return Plan("plain", (), tuple(reasons))


def _pays(
    layers: Sequence[PointwiseTensors], rows: int, num_clouds: int | None, *, folded: bool
) -> bool:
    # Processes that share statistics have to take the same path, whatever each one's size is.
    if any(layer.norm is not None and layer.norm.group is not None for layer in layers):
        return True
    first = layers[0].weight
    channels = (first.shape[1], *(layer.weight.shape[0] for layer in layers))
    return fusion_pays(channels, rows, num_clouds, first.dtype, first.device, folded=folded)


def dtype_reasons(layer: PointwiseTensors) -> list[str]:
    """Say why statistics of a layer would lose digits; empty if they would not."""
    if layer.weight.dtype in (torch.float32, torch.float64):
        return []
    return ["its weight is neither float32 nor float64: statistics would lose digits"]


def order_reasons(layer: PointwiseTensors) -> list[str]:
    """Say why a max cannot move before the activation of a layer; empty if it can."""
    if layer.activation.is_monotone:
        return []
    return [
        f"its activation {layer.activation.label} is not known to be monotone: the largest "
        "input need not give the largest output"
    ]


def max_reasons(layer: PointwiseTensors) -> list[str]:
    """Say why a layer cannot be fused with the max that follows it; empty if it can."""
    reasons = []
    out_channels, in_channels = layer.weight.shape
    if _uses_batch_statistics(layer) and out_channels <= in_channels:
        reasons.append(
            f"{out_channels} output channels are not more than {in_channels} input channels: "
            "the covariance would cost more than the layer"
        )
    reasons += dtype_reasons(layer) + order_reasons(layer)
    if layer.dropout:
        reasons.append("dropout stands between the layer and the max")
    return reasons


def hidden_reasons(layer: PointwiseTensors) -> list[str]:
    """Say why a layer cannot run in tiles before another one in training; empty if it can."""
    reasons = []
    out_channels, in_channels = layer.weight.shape
    if not _uses_batch_statistics(layer):
        reasons.append("a layer without a batch's statistics has nothing to fuse in training")
    elif out_channels < in_channels:
        reasons.append(
            f"{out_channels} output channels are fewer than {in_channels} input channels: the "
            "covariance would cost more than the layer"
        )
    if layer.activation.name != "relu":
        reasons.append(f"its activation is {layer.activation.label or 'none'}, not ReLU")
    if layer.dropout:
        reasons.append("dropout stands in it")
    if layer.weight.dtype not in (torch.float32, torch.float64):
        reasons.append("its weight is neither float32 nor float64")
    return reasons


def can_fold(layer: PointwiseTensors) -> bool:
    """Whether a layer is, as it is now, one affine map and an activation and nothing else."""
    return not (_uses_batch_statistics(layer) or layer.dropout)


def _uses_batch_statistics(layer: PointwiseTensors) -> bool:
    return layer.norm is not None and layer.norm.uses_batch_statistics
