"""Row numbers in order."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def stable_order(rows: Tensor, num_rows: int) -> Tensor:
    """Return the order `(e,)` int64 that sorts row numbers `(e,)`, equal ones as they come.

    Args:
        rows: int64, from 0 to `num_rows - 1`, on a CPU.
        num_rows: How many rows there are.
    """
    keys = rows.numpy()
    # NumPy sorts 16 bits by radix, in a tenth of the time.
    order = np.argsort(keys.astype(np.uint16) if num_rows <= 2**16 else keys, kind="stable")
    return torch.from_numpy(order)
