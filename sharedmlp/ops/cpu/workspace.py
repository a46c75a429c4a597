"""Memory that a thread keeps from one call to the next, a field for each use of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from threading import local

import torch
from torch import Tensor


class Buffer:
    """Memory of undefined content for one use, as large as the largest tensor so far.

    On a CPU it is kept for the next call: a fresh tensor costs the system a page fault each 4 KiB.
    """

    def __init__(self) -> None:
        self._memory: dict[tuple[torch.dtype, bool], Tensor] = {}

    def take(self, like: Tensor, *shape: int) -> Tensor:
        """Return a tensor of this shape, of the dtype and on the device of another.

        Whatever was taken from this buffer before is overwritten.
        """
        if like.device.type != "cpu":
            return like.new_empty(shape)
        size = prod(shape)
        key = (like.dtype, torch.is_inference_mode_enabled())
        memory = self._memory.get(key)
        if memory is None or len(memory) < size:
            memory = self._memory[key] = like.new_empty(size)
        return memory[:size].view(shape)


@dataclass
class Workspace:
    """The buffers of one thread.

    Attributes:
        inputs: Rows of a tile, less the center of the hidden layer, `(m, C')`.
        outputs: What the hidden layer makes of them, `(m, C)`.
        centered: Rows of a tile less the center of the moments, `(m, C)`.
        gradients: Gradients of the rows of a tile, `(m, C)`.
        products: Products of a weight with the rows of a tile, `(D, m)`.
        of_products: What is made of each of them, or their gradients, `(m, D)`.
        first_moments: A sum a chunk, `(chunks, C)`; like all sums, of the thread that calls.
        second_moments: `(chunks, C, C)`.
        squares: Sums of squared products, `(chunks, D)`.
        weight_sums: Gradients of the weight before the max, `(chunks, D, C)`.
        hidden_weight_sums: Gradients of the hidden layer's weight, `(chunks, C, C')`.
        hidden_bias_sums: Gradients of its bias, `(chunks, C)`.
        gathered: Rows of one neighbor of each center of a tile, `(q, D)`.
        best: The largest neighbors of each center of a tile so far, `(q, D)`.
        positions: At which position the largest was found, as floating-point numbers, `(q, D)`.
        pair_gradients: Gradients of the pairs of a tile's centers, `(q, K, D)`.
        end_sums: The sums of the two ends of some rows, `(m, D)`.
        rows: Rows of a tile of groups, `(m, D)`.
        row_gradients: Their gradients, `(m, D)`.
        group_weight_sums: Gradients of the weight of the relative coordinates, `(chunks, P, D)`.
        group_bias_sums: Gradients of what is the same for all points, `(chunks, D)`.
    """

    inputs: Buffer = field(default_factory=Buffer)
    outputs: Buffer = field(default_factory=Buffer)
    centered: Buffer = field(default_factory=Buffer)
    gradients: Buffer = field(default_factory=Buffer)
    products: Buffer = field(default_factory=Buffer)
    of_products: Buffer = field(default_factory=Buffer)
    first_moments: Buffer = field(default_factory=Buffer)
    second_moments: Buffer = field(default_factory=Buffer)
    squares: Buffer = field(default_factory=Buffer)
    weight_sums: Buffer = field(default_factory=Buffer)
    hidden_weight_sums: Buffer = field(default_factory=Buffer)
    hidden_bias_sums: Buffer = field(default_factory=Buffer)
    gathered: Buffer = field(default_factory=Buffer)
    best: Buffer = field(default_factory=Buffer)
    positions: Buffer = field(default_factory=Buffer)
    pair_gradients: Buffer = field(default_factory=Buffer)
    end_sums: Buffer = field(default_factory=Buffer)
    rows: Buffer = field(default_factory=Buffer)
    row_gradients: Buffer = field(default_factory=Buffer)
    group_weight_sums: Buffer = field(default_factory=Buffer)
    group_bias_sums: Buffer = field(default_factory=Buffer)


class _OfThread(local):
    def __init__(self) -> None:  # called once in each thread
        self.workspace = Workspace()


_of_thread = _OfThread()


def workspace() -> Workspace:
    """Return the calling thread's own."""
    return _of_thread.workspace
