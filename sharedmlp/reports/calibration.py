"""Probabilities that mean what they say: a temperature fitted on validation clouds.

Logits are divided by one number before the softmax (Guo et al. 2017, "On Calibration of Modern
Neural Networks", section 4.2), which leaves every prediction as it is. Below 1 it makes a network
surer, such as one trained with label smoothing; above 1 less sure.

The loss at a temperature is a sum over clouds. So the sums at a fixed grid of temperatures are all
that is kept of a validation epoch: no logits, and processes add theirs up. Deviation from the
paper: a prior holds the temperature of few clouds near 1; without it, that of a small validation
set without a mistake would go to zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

# The temperatures of the grid: 0.1 to 10.
_LOG_TEMPERATURES = torch.linspace(-math.log(10), math.log(10), 61, dtype=torch.float64)
_STEP = float(_LOG_TEMPERATURES[1] - _LOG_TEMPERATURES[0])
# Of the normal prior of the logarithm of the temperature.
_PRIOR_STD = 1.0


class CalibrationSums:
    """What is known of the probabilities of a classifier, added up over clouds.

    Attributes:
        values: The sums `(2 * G + 2,)`, float32 on the device of the logits: of the cross entropy
            at each temperature of the grid, of the largest probability at each, of the correct
            predictions, and of the clouds. Sums of several processes may be added.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.values = torch.zeros(2 * len(_LOG_TEMPERATURES) + 2, device=device)

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add clouds, by their logits `(B, num_classes)` and labels `(B,)`."""
        logits = logits.detach().float()
        temperatures = _LOG_TEMPERATURES.exp().to(logits)
        log_shares = (logits[:, None] / temperatures[:, None]).log_softmax(dim=2)  # (B, G, classes)
        losses = -log_shares.gather(2, labels[:, None, None].expand(-1, len(temperatures), 1))
        hits = (logits.argmax(dim=1) == labels).sum()
        counts = torch.stack([hits, torch.full_like(hits, len(labels))])
        confidences = log_shares.amax(dim=2).exp()
        self.values += torch.cat([losses.sum(0).squeeze(1), confidences.sum(0), counts])

    def summary(self) -> dict[str, Any]:
        """Return the metadata of a network that these sums imply, of plain values.

        Returns:
            `temperature`; and `validation`, a dict of the number of `clouds`, the share of correct
            predictions `accuracy`, and the mean largest probability `confidence` at that
            temperature. Empty without clouds, or if a logit was not finite.
        """
        values = self.values.double().cpu()
        size = len(_LOG_TEMPERATURES)
        losses, confidences, (hits, clouds) = torch.split(values, [size, size, 2])
        if not clouds or not values.isfinite().all():
            return {}
        place = _lowest(losses + 0.5 * (_LOG_TEMPERATURES / _PRIOR_STD) ** 2)
        left = min(int(place), len(_LOG_TEMPERATURES) - 2)
        confidence = torch.lerp(confidences[left], confidences[left + 1], place - left) / clouds
        return {
            "temperature": math.exp(float(_LOG_TEMPERATURES[0]) + _STEP * place),
            "validation": {
                "clouds": int(clouds),
                "accuracy": float(hits / clouds),
                "confidence": float(confidence),
            },
        }


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature at which the cross entropy of clouds is least.

    Args:
        logits: `(B, num_classes)`.
        labels: `(B,)`.

    Returns:
        A number between 0.1 and 10; 1 if it cannot be told.
    """
    sums = CalibrationSums(logits.device)
    sums.update(logits, labels)
    return float(sums.summary().get("temperature", 1.0))


def calibrated_probabilities(logits: Tensor, metadata: Mapping[str, Any]) -> Tensor:
    """Return the probabilities of logits at the temperature of a network.

    Args:
        logits: `(..., num_classes)`.
        metadata: Of the network; without a `temperature` it is 1.
    """
    temperature: float = metadata.get("temperature", 1.0)
    return (logits / temperature).softmax(dim=-1)


def calibration_error(probabilities: Tensor, labels: Tensor, num_bins: int = 15) -> float:
    """Return the expected calibration error (Naeini et al. 2015; Guo et al. 2017, section 2).

    The predictions are put into bins of equal width by their probability; of each bin, the mean
    probability and the share of correct predictions differ, and this is the mean of the
    differences over all predictions.

    Args:
        probabilities: `(B, num_classes)`.
        labels: `(B,)`.
        num_bins: The number of bins between 0 and 1.
    """
    confidences, predictions = probabilities.double().max(dim=1)
    bins = (confidences * num_bins).ceil().long().clamp(1, num_bins)
    surplus = confidences - (predictions == labels).double()
    sums = torch.zeros(num_bins + 1, dtype=torch.float64, device=bins.device)
    return float(sums.index_add_(0, bins, surplus).abs().sum() / len(labels))


def _lowest(losses: Tensor) -> float:
    """Return where a function is least, in grid steps, by a parabola around its least value."""
    least = int(losses.argmin())
    if least in (0, len(losses) - 1):
        return float(least)
    before, here, after = losses[least - 1 : least + 2].tolist()
    curvature = before - 2 * here + after
    return least + (0.5 * (before - after) / curvature if curvature > 0 else 0.0)
