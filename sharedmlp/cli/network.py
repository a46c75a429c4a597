"""What the commands share that run a network on single files."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from sharedmlp.cli.arguments import CommandParser
from sharedmlp.models import PointCloudModel, create_model, load_pretrained
from sharedmlp.models.registry import models_of


def make_file_parser(command: str, description: str) -> argparse.ArgumentParser:
    """Return the parser of a command that runs a network on single files."""
    parser = CommandParser(command, description=description)
    parser.add_argument("paths", type=Path, nargs="+", metavar="FILE_OR_FOLDER")
    parser.add_argument(
        "--ckpt_path",
        type=Path,
        help="what `sharedmlp fit` wrote, or `sharedmlp export --format safetensors`, or a folder "
        "of save_pretrained; by default the network that is part of this package (modelnet40), "
        "which knows the 40 classes of ModelNet40",
    )
    parser.add_argument(
        "--up_axis",
        choices=["x", "y", "z"],
        help="the axis that points up in the files; that of the training data by default; in glTF "
        "files it is y, whatever is given",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the points drawn from a file")
    return parser


def load_network(parser: argparse.ArgumentParser, path: Path | None) -> PointCloudModel:
    """Return a network with the names of its classes; without a path, the one of this package."""
    if path is None:
        return create_model("pointnet_vanilla", pretrained="modelnet40")
    with exit_on_error(parser):
        # Critical points are exact ones.
        model = load_pretrained(str(path), search_precision="float32")
    if any(known.task != "classification" for known in models_of(model)):
        parser.error(
            f"{path} is a network with a class for every point, and this command is about classes "
            "of whole clouds: give it a classifier; `sharedmlp test --config FILE --ckpt_path "
            f"{path}` answers, measures and draws the points of a test split"
        )
    if "class_names" not in model.metadata:
        parser.error(
            f"{path} does not name its classes: set model.metadata['class_names'] before exporting"
        )
    if "scale" not in model.metadata:
        print(
            f"{path} does not say that its training data was centered and scaled: the coordinates "
            "of the files are taken as they are",
            file=sys.stderr,
        )
    return model


@contextmanager
def exit_on_error(parser: argparse.ArgumentParser) -> Iterator[None]:
    """Exit with a message if an argument turns out to be wrong."""
    try:
        yield
    except ValueError as error:
        parser.error(str(error))


def longest_name(files: Sequence[Path]) -> int:
    """Return the length of the longest name."""
    return max(len(str(file)) for file in files)


def format_answer(
    path: Path,
    probabilities: Tensor,
    model: PointCloudModel,
    width: int,
    degrees: float | None = None,
) -> str:
    """Return a line with the three largest probabilities, aligned with those of other files.

    Args:
        path: The file.
        probabilities: `(num_classes,)`.
        model: The network.
        width: The length of the longest name of a file.
        degrees: By how much the cloud was turned; None if it was seen in one turn alone.
    """
    class_names = model.metadata["class_names"]
    name_width = max(map(len, class_names))
    # The name of a file may be no valid text, but what is printed has to be.
    name = os.fsencode(path).decode(errors="replace")
    best = probabilities.topk(min(3, len(class_names)))
    answers = [
        f"{class_names[label]:<{name_width}} {probability:6.1%}"
        for probability, label in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]
    turned = [] if degrees is None else [f"turned {degrees:.0f}°"]
    return "   ".join([f"{name:<{width}}", *answers, *turned])


def exit_if_failed(failures: Sequence[str], files: Sequence[Path]) -> None:
    """List the files that could not be read, and exit with 1 if there are any."""
    if failures:
        head = f"{len(failures)} of {len(files)} files could not be read:"
        sys.exit("\n  ".join([head, *failures]))
