"""Fit the temperature of the weights that come with the package, and measure what it changes.

    python scripts/calibrate_weights.py FOLDER            # measures
    python scripts/calibrate_weights.py FOLDER --write    # and writes it into the file of weights
    python scripts/calibrate_weights.py FOLDER --rotations 12

FOLDER holds ModelNet40 in the HDF5 layout, with z up. Of it, the clouds that validation carves out
of the training split are looked at, with the seed of the training: never a test split. The error on
clouds that the temperature was not fitted on is measured on halves, each with the temperature of
the other. With --rotations, also the accuracy on the clouds as they are and turned at random about
the up axis, by the most confident of so many turns.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor

import sharedmlp.models
from sharedmlp.data import rotate_about_up
from sharedmlp.models import PointCloudModel, load_safetensors, save_safetensors
from sharedmlp.reports.answers import classify_clouds
from sharedmlp.reports.calibration import (
    CalibrationSums,
    calibrated_probabilities,
    calibration_error,
    fit_temperature,
)
from sharedmlp.train import HDF5DataModule

_WEIGHTS = Path(sharedmlp.models.__file__).parent / "weights"
_FILE = _WEIGHTS / "pointnet_vanilla_modelnet40.safetensors"
_HALVES = 5  # so many times, by the seeds from 0


def main() -> None:
    """Measure, and write if that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", metavar="FOLDER")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--rotations", type=int, default=1, metavar="N")
    options = parser.parse_args()
    data = HDF5DataModule(options.folder, rotate=False)
    data.setup("fit")
    batches = list(data.val_dataloader())
    points, labels = (torch.cat([batch[name] for batch in batches]) for name in ("points", "label"))
    model = load_safetensors(_FILE, search_precision="float32")
    with torch.inference_mode():
        logits = torch.cat([model(part) for part in torch.split(points, 32)])
        found = _calibrate(logits, labels)
        if options.rotations > 1:
            _compare_rotations(model, points, labels, found["temperature"], options.rotations)
    if options.write:
        kept = load_safetensors(_FILE)  # with its own search precision
        trained_on = {"data": "ModelNet40", "clouds": len(data.datasets["train"])}
        kept.metadata |= {"trained_on": trained_on, **found}
        save_safetensors(kept, _FILE)
        print(f"weights  {_FILE}")


def _calibrate(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Print the calibration errors, and return the metadata."""
    sums = CalibrationSums()
    sums.update(logits, labels)
    found = sums.summary()
    print(found)
    for temperature in (1.0, found["temperature"]):
        error = _error(logits, labels, temperature)
        print(f"temperature {temperature:.3f}: expected calibration error {error:.3f}")
    before, after, exact = [], [], []
    for seed in range(_HALVES):
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(labels), generator=generator)
        halves = order[: len(order) // 2], order[len(order) // 2 :]
        for fitted, other in (halves, halves[::-1]):
            temperature = fit_temperature(logits[fitted], labels[fitted])
            before.append(_error(logits[other], labels[other], 1.0))
            after.append(_error(logits[other], labels[other], temperature))
            shares = (logits[other] / temperature).softmax(dim=1)
            drawn = torch.multinomial(shares, 1, generator=generator)[:, 0]
            exact.append(_error(logits[other], drawn, temperature))
    told = {"1": before, "of the other half": after, "exact, labels drawn by it": exact}
    for name, errors in told.items():
        mean = sum(errors) / len(errors)
        print(
            f"{len(errors)} halves, temperature {name}: {mean:.3f} "
            f"({min(errors):.3f} to {max(errors):.3f})"
        )
    return found


def _error(logits: Tensor, labels: Tensor, temperature: float) -> float:
    probabilities = calibrated_probabilities(logits, {"temperature": temperature})
    return calibration_error(probabilities, labels)


def _compare_rotations(
    model: PointCloudModel, points: Tensor, labels: Tensor, temperature: float, rotations: int
) -> None:
    """Print accuracy, mean confidence and calibration error of one turn and of several."""
    angles = 2 * math.pi * torch.rand(len(points), generator=torch.Generator().manual_seed(0))
    clouds = {"as they are": points, "turned": rotate_about_up(points, angles, "z")}
    for name, some in clouds.items():
        for count in (1, rotations):
            parts = [
                classify_clouds(model, part, {"temperature": temperature}, rotations=count)
                for part in torch.split(some, 32)
            ]
            probabilities = torch.cat([part.probabilities for part in parts])
            accuracy = (probabilities.argmax(1) == labels).double().mean()
            print(
                f"{name}, rotations {count}: accuracy {accuracy:.1%}, mean confidence "
                f"{probabilities.amax(1).mean():.1%}, calibration error "
                f"{calibration_error(probabilities, labels):.3f}"
            )


if __name__ == "__main__":
    main()
