"""Memory for large tensors that the system hands out in huge pages."""

from __future__ import annotations

from math import prod

import numpy as np
import torch
from torch import Tensor

# torch's own alignment, a line of the caches.
_ALIGNMENT = 64


def empty_large(like: Tensor, *shape: int) -> Tensor:
    """Return a tensor of undefined content, of the dtype and on the device of another.

    A fresh tensor costs a page fault each 4 KiB, in all as long as writing it several times. NumPy
    asks Linux for pages of 2 MiB where an array has at least two of them (`madvise`), which torch
    does not.
    """
    if like.device.type != "cpu":
        return like.new_empty(shape)
    size = prod(shape) * like.element_size()
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return torch.from_numpy(memory[start : start + size]).view(like.dtype).view(shape)
