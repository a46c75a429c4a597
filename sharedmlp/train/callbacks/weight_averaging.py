"""Averaged weights that are of use from the first epoch on."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor


class EMAWithWarmup(WeightAveraging):
    """Validate, test and keep an exponential moving average of the weights.

    The decay of step n is the smaller one of `decay` and (1 + n) / (10 + n), as of TensorFlow's
    `ExponentialMovingAverage` with `num_updates`: the average is over about the last tenth of the
    steps, at most over the last 1 / (1 - decay). With Lightning's `EMAWeightAveraging` the weights
    of the very first step are in the average for hundreds of steps, and validation says for epochs
    how bad those are.

    Running statistics are averaged like the weights; counters are not.

    Args:
        decay: The share of the average that a step keeps, once there were enough steps.
        **options: Arguments of `WeightAveraging`.

    Raises:
        ValueError: If `decay` is not in [0, 1).
    """

    def __init__(self, decay: float = 0.99, **options: Any) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"decay is a share in [0, 1), got {decay}")
        self.decay = decay
        super().__init__(avg_fn=self._average, **options)

    def _average(self, average: Tensor, current: Tensor, num_averaged: Tensor | int) -> Tensor:
        if not average.is_floating_point():  # counters, which a rounded average would stop
            return current
        # Without reading the counter from the device.
        share = (9.0 / (10.0 + torch.as_tensor(num_averaged))).clamp(min=1.0 - self.decay)
        # Lightning copies the network before a trainer of another precision converts it.
        return average.to(current).lerp(current, share.to(current))
