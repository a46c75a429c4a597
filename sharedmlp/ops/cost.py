"""From which size on the fused paths are faster than the plain one.

A fused path saves passes over memory and costs calls. The plain path slows down by a factor when
the tensors between its layers no longer fit what the C library keeps for reuse: above 32 MiB
glibc returns memory to the system at once, and each page of a new tensor is a page fault. Below
that a fused path gains only in products wide enough to hide its calls. The figures are those of
`sharedmlp benchmark --small` (docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

MIB = 2**20
# Numbers of a weight from which on a product hides the calls around it.
_WIDE = 2**16


def fusion_pays(
    channels: Sequence[int],
    rows: int,
    num_clouds: int | None,
    dtype: torch.dtype,
    device: torch.device,
    *,
    folded: bool,
) -> bool:
    """Whether layers are faster fused than plain.

    Args:
        channels: Widths from the input to the output.
        rows: How many points there are in all.
        num_clouds: Over how many clouds the max is taken; None if none is.
        dtype: Of the weights.
        device: Where they are; on other devices than a CPU this was not measured, and says yes.
        folded: Whether it is the path without gradients.
    """
    if device.type != "cpu":
        return True
    widest, is_wide = _widths(channels)
    size = rows * widest * dtype.itemsize
    if is_wide and num_clouds is not None:
        if not folded:
            return size >= 16 * MIB
        if num_clouds > 1:  # one cloud is one chunk
            return size >= 8 * MIB
    return size > 32 * MIB if folded else size >= 32 * MIB


def may_pay(
    channels: Sequence[int],
    rows: int,
    num_clouds: int | None,
    dtype: torch.dtype,
    device: torch.device,
) -> bool:
    """Whether `fusion_pays` may say yes: asked for every input, so it takes a microsecond."""
    widest, is_wide = _widths(channels)
    least = 8 if is_wide and num_clouds is not None else 32
    return rows * widest * dtype.itemsize >= least * MIB or device.type != "cpu"


def _widths(channels: Sequence[int]) -> tuple[int, bool]:
    """Return the widest output, and whether a product hides the calls around it."""
    widest = largest = 0
    before = channels[0]
    for width in channels[1:]:  # without a generator: small inputs wait for this
        widest = max(widest, width)
        largest = max(largest, before * width)
        before = width
    return widest, largest >= _WIDE
