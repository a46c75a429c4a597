"""What the subcommands share that run a network on single files."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from sharedmlp.models import PointCloudModel, create_model, load_safetensors
from sharedmlp.train import load_trained


def make_file_parser(command: str, description: str) -> argparse.ArgumentParser:
    """Makes the parser of a subcommand that runs a network on single files."""
    parser = argparse.ArgumentParser(prog=f"sharedmlp {command}", description=description)
    parser.add_argument("paths", type=Path, nargs="+", metavar="FILE_OR_FOLDER")
    parser.add_argument(
        "--ckpt_path",
        type=Path,
        help="what `sharedmlp fit` wrote, or `sharedmlp export --format safetensors`; by default "
        "the network that is part of this package, which knows the 40 classes of ModelNet40",
    )
    parser.add_argument(
        "--up_axis",
        choices=["x", "y", "z"],
        help="the axis that points up in the files; that of the training data by default",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the points drawn from a file")
    return parser


def load_network(parser: argparse.ArgumentParser, path: Path | None) -> PointCloudModel:
    """Makes a network with names of its classes; the one of this package without a path."""
    if path is None:
        return create_model("pointnet_vanilla", pretrained="modelnet40")
    load = load_safetensors if path.suffix == ".safetensors" else load_trained
    with errors_of(parser):
        model = load(path, search_precision="float32")  # critical points are exact ones
    if "class_names" not in model.metadata:
        parser.error(
            f"{path} does not name its classes: set model.metadata['class_names'] before exporting"
        )
    if "scale" not in model.metadata:
        print(
            f"{path} does not say that its training data was centred and scaled: the coordinates "
            "of the files are taken as they are",
            file=sys.stderr,
        )
    return model


@contextmanager
def errors_of(parser: argparse.ArgumentParser) -> Iterator[None]:
    """Ends with a message where an argument turns out to be wrong."""
    try:
        yield
    except ValueError as error:
        parser.error(str(error))


def longest_name(files: Sequence[Path]) -> int:
    """Returns the length of the longest name."""
    return max(len(str(file)) for file in files)


def format_answer(path: Path, probabilities: Tensor, model: PointCloudModel, width: int) -> str:
    """Lays out the three largest probabilities, below those of the other files."""
    class_names = model.metadata["class_names"]
    name_width = max(map(len, class_names))
    # Names of files need be no text, but what is printed has to be.
    name = os.fsencode(path).decode(errors="replace")
    best = probabilities.topk(min(3, len(class_names)))
    answers = [
        f"{class_names[label]:<{name_width}} {probability:6.1%}"
        for probability, label in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]
    return "   ".join([f"{name:<{width}}", *answers])


def exit_with(failures: Sequence[str], files: Sequence[Path]) -> None:
    """Lists the files that could not be read, and ends with 1 if there are any."""
    if failures:
        head = f"{len(failures)} of {len(files)} files could not be read:"
        sys.exit("\n  ".join([head, *failures]))
