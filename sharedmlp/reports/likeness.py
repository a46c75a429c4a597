"""Which network answers, and whether the clouds look like those that it was trained on.

Whatever a cloud is, a classifier names one of its classes. What can be told without a label is
told here, a line each. The extents of a cloud are not looked at: scaled into the unit sphere, a
room is a box like many an object. That a network is unsure of all of them is seen.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from sharedmlp.data import file_up_axis

# So many classes are named, and of more only the number.
_MOST_NAMED = 12
# A mean confidence is far below that of validation if it is so much lower, and further by twice its
# standard error at most: clouds like those of validation are rarely, whatever their number.
_LOWER = 0.1
# Half of the points cost the network of this package 1% of accuracy, a quarter 3%, an eighth 11%.
_FEW_POINTS = 0.5


def describe_network(name: str, source: str, metadata: Mapping[str, Any]) -> list[str]:
    """Return two lines: which network answers and its data, and its classes and accuracy.

    Args:
        name: Of the network, such as "pointnet".
        source: Where its weights are from, such as the name of a file.
        metadata: Of the network; what it does not say is left out.
    """
    trained = metadata.get("trained_on", {})
    data = [
        *([f"{trained['clouds']:,} clouds"] if "clouds" in trained else []),
        *([f"of {trained['data']}"] if "data" in trained else []),
    ]
    clouds = [
        *([f"{metadata['num_points']:,} points"] if "num_points" in metadata else []),
        *([f"with {', '.join(metadata['features'])}"] if metadata.get("features") else []),
        f"{metadata['up_axis']} up" if "up_axis" in metadata else "up axis unknown",
    ]
    lines = [f"{name} of {source}, trained on {' '.join(data or ['clouds'])} ({', '.join(clouds)})"]
    names = metadata["class_names"]
    told = f"{len(names)} classes"
    if len(names) <= _MOST_NAMED:
        told += f": {', '.join(names)}"
    if "validation" in metadata:
        seen = metadata["validation"]
        told += f"; {seen['accuracy']:.1%} of {seen['clouds']:,} validation clouds right"
    return [*lines, f"  {told}"]


def compare_up_axes(
    files: Sequence[Path], metadata: Mapping[str, Any], up_axis: str | None
) -> list[str]:
    """Return what is to be said of the up axes of files, before they are read.

    Args:
        files: The files.
        metadata: Of the network.
        up_axis: That of the files, as the user says; None if they do not.
    """
    target = metadata.get("up_axis")
    known = [axis for axis in map(file_up_axis, files) if axis is not None]
    unknown = len(files) - len(known)
    if target is None:
        return [
            "the network does not know which axis was up in training: nothing is turned, and it "
            "may be wrong about files that have another axis up"
        ]
    lines = []
    if unknown and up_axis is None:
        other = "z, as in scans" if target == "y" else "y, as in most downloaded meshes"
        lines.append(
            f"{unknown} of {len(files)} files do not say which axis is up: {target} is taken, as "
            f"in training; add --up_axis {other[0]} if it is {other}"
        )
    turned = Counter(axis for axis in known if axis != (up_axis or target))
    lines += [
        f"{count} of {len(files)} files have {axis} up by their format"
        + (f", whatever --up_axis {up_axis} says" if up_axis else f": turned to {target} up")
        for axis, count in turned.items()
    ]
    return lines


class AnswerCheck:
    """Compare the answers to clouds with those in validation, added up cloud by cloud.

    Args:
        metadata: Of the network.
        rotations: In how many turns each cloud was seen.
    """

    def __init__(self, metadata: Mapping[str, Any], *, rotations: int = 1) -> None:
        self.metadata = metadata
        self.rotations = rotations
        self.clouds = 0
        self._confidence = 0.0
        self._few: list[int] = []

    def add(self, probabilities: Tensor, num_points: int) -> None:
        """Add the answer `(num_classes,)` to a cloud of so many points."""
        self.clouds += 1
        self._confidence += float(probabilities.max())
        if num_points < _FEW_POINTS * self.metadata.get("num_points", 0):
            self._few.append(num_points)

    def warnings(self) -> list[str]:
        """Return what makes the clouds unlike those of training, a line each."""
        lines = []
        if self._few:
            fewest = min(self._few)
            lines.append(
                f"{len(self._few)} of {self.clouds} clouds have less than half of the network's "
                f"{self.metadata['num_points']:,} points (the smallest {fewest:,}): it is less "
                "accurate on them"
            )
        expected = self.metadata.get("validation", {}).get("confidence")
        if not self.clouds or expected is None:
            return lines
        mean = self._confidence / self.clouds
        # Of numbers in [0, 1] with this mean, none vary more.
        error = math.sqrt(expected * (1 - expected) / self.clouds)
        if mean < expected - _LOWER - 2 * error:
            remedies = ["--up_axis", *([] if self.rotations > 1 else ["--rotations 12"])]
            lines.append(
                f"mean confidence {mean:.0%}, on validation clouds {expected:.0%}: these look "
                "unlike the training data (upright, one whole object of a known class each?); try "
                f"{' or '.join(remedies)}"
            )
        return lines
