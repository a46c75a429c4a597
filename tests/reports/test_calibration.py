"""The temperature of a classifier against plain formulas."""

import math
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from torchmetrics.functional.classification import multiclass_calibration_error

from sharedmlp.reports.calibration import (
    CalibrationSums,
    calibrated_probabilities,
    calibration_error,
    fit_temperature,
)


def make_logits(count=3000, num_classes=5, sharpness=1.0):
    """Logits whose probabilities mean what they say when they are divided by the sharpness."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(count, num_classes, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    return logits * sharpness, labels


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 4.0])
def test_the_cross_entropy_is_least_at_the_temperature(sharpness):
    logits, labels = make_logits(sharpness=sharpness)
    tried = [math.exp(step / 500) for step in range(-700, 1000, 4)]
    best = min(tried, key=lambda value: float(cross_entropy(logits.double() / value, labels)))
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(best, rel=0.01)
    assert found == pytest.approx(sharpness, rel=0.15)
    metadata = {"temperature": found}
    assert calibration_error(calibrated_probabilities(logits, metadata), labels) < 0.04
    if sharpness != 1.0:
        assert calibration_error(logits.softmax(1), labels) > 0.1


def test_batches_and_processes_add_up():
    logits, labels = make_logits()
    whole, parts, other = CalibrationSums(), CalibrationSums(), CalibrationSums()
    whole.update(logits, labels)
    for part, label in zip(logits[:300].split(70), labels[:300].split(70), strict=True):
        parts.update(part, label)
    other.update(logits[300:], labels[300:])
    parts.values += other.values
    expected, found = whole.summary(), parts.summary()
    assert found["temperature"] == pytest.approx(expected["temperature"], rel=1e-4)
    assert found["validation"] == pytest.approx(expected["validation"], rel=1e-4)


def test_accuracy_and_confidence_are_those_at_the_temperature():
    logits, labels = make_logits(sharpness=0.48)  # between two temperatures of the grid
    sums = CalibrationSums()
    sums.update(logits, labels)
    found: dict[str, Any] = sums.summary()
    probabilities = calibrated_probabilities(logits, found)
    assert torch.equal(probabilities.argmax(1), logits.argmax(1))
    right = (logits.argmax(1) == labels).double().mean()
    assert found["validation"]["clouds"] == 3000
    assert found["validation"]["accuracy"] == pytest.approx(float(right))
    mean = float(probabilities.amax(1).mean())
    assert found["validation"]["confidence"] == pytest.approx(mean, abs=1e-3)


@pytest.mark.parametrize("count", [1, 5, 200])
@pytest.mark.parametrize("right", [True, False])
def test_few_clouds_or_no_mistake_give_a_temperature_within_bounds(count, right):
    logits, _ = make_logits(count)
    labels = logits.argmax(1) if right else logits.argmin(1)
    found = fit_temperature(logits, labels)
    assert 0.1 - 1e-9 < found < 10 + 1e-9
    assert (found < 1) == right
    if count == 1:
        assert 1 / 5 < found < 5


def test_what_cannot_be_told_is_not_told():
    logits, labels = make_logits(10)
    assert fit_temperature(logits[:, :1], torch.zeros_like(labels)) == pytest.approx(1)
    for bad in (logits[:0], logits * math.nan, logits / 0):
        sums = CalibrationSums()
        sums.update(bad, labels[: len(bad)])
        assert sums.summary() == {}
        assert fit_temperature(bad, labels[: len(bad)]) == 1.0


def test_without_a_temperature_it_is_the_softmax():
    logits, _ = make_logits(10)
    assert torch.equal(calibrated_probabilities(logits, {}), logits.softmax(1))


def test_the_calibration_error_is_torchmetrics():
    logits, labels = make_logits(sharpness=3.0)
    for num_bins in (4, 15):
        expected = multiclass_calibration_error(logits.softmax(1), labels, 5, num_bins)
        found = calibration_error(logits.softmax(1), labels, num_bins)
        assert found == pytest.approx(float(expected), rel=1e-4)


def test_the_calibration_error_by_hand():
    """Two sure answers, one wrong, and two unsure ones, both wrong."""
    probabilities = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6]])
    found = calibration_error(probabilities, torch.tensor([0, 1, 0, 0]), num_bins=5)
    assert found == pytest.approx(0.5 * (0.9 - 0.5) + 0.5 * 0.6)
