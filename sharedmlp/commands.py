"""The subcommands that train nothing: ``sharedmlp prepare | export | predict | show``."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sharedmlp.data import (
    MODELNETS,
    TERMS,
    MeshReadError,
    fetch_modelnet,
    find_cloud_files,
    is_resampled,
    prepare_mesh_tree,
    prepare_resampled,
)
from sharedmlp.export import FORMATS, export_model
from sharedmlp.models import PointNet, create_model, load_safetensors
from sharedmlp.predict import predict_files, read_network_cloud
from sharedmlp.train import load_trained
from sharedmlp.train.predictions import (
    PredictionTable,
    answer_cells,
    answer_columns,
    fingerprint,
)
from sharedmlp.train.report import write_text
from sharedmlp.viz import clouds_page, find_critical_sets, plot_clouds, save_figure

# `show` draws three panels of each.
_MOST_SHOWN = 16


def prepare(args: Sequence[str]) -> None:
    """Checks and samples every file of a set: ``sharedmlp prepare SOURCE``.

    Args:
        args: The arguments behind ``prepare``.
    """
    parser = argparse.ArgumentParser(
        prog="sharedmlp prepare",
        description="Check the files of a set and put their points into a cache. Training does "
        "this too; here, ModelNet can be fetched first, and bad files can be made fatal.",
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a folder of meshes, <class>/{train,test}/<name>.off, or one in the layout of "
        "modelnet40_normal_resampled; or modelnet10 or modelnet40, which are fetched",
    )
    parser.add_argument("--root", type=Path, help="where what is fetched goes; data by default")
    parser.add_argument("--archive", type=Path, help="the zip file, instead of a download")
    parser.add_argument(
        "--pool_size",
        type=int,
        help="points kept of a file: 2048 of a mesh, 10000 of a file of points by default",
    )
    parser.add_argument("--normals", action="store_true", help="keep normals too")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num_workers", type=int, help="processes; all cores by default")
    parser.add_argument("--cache_dir", type=Path, help="in the folder by default")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a file is bad")
    options = parser.parse_args(args)
    folder = Path(options.source)
    if options.source in MODELNETS:
        print(TERMS)
        root = options.root or Path("data")
        folder = fetch_modelnet(options.source, root, archive=options.archive)
    elif options.root or options.archive:
        parser.error(f"--root and --archive go with {' or '.join(MODELNETS)}, not with a folder")
    prepare_split = prepare_resampled if is_resampled(folder) else prepare_mesh_tree
    settings = {} if options.pool_size is None else {"pool_size": options.pool_size}
    failures: list[str] = []
    for split in ("train", "test"):
        with warnings.catch_warnings():
            # Listed below, once.
            warnings.filterwarnings("ignore", ".*cannot be used and are left out.*")
            pool = prepare_split(
                folder,
                split,
                normals=options.normals,
                seed=options.seed,
                num_workers=options.num_workers,
                cache_dir=options.cache_dir,
                **settings,
            )
        print(f"{split}: {len(pool)} clouds in {len(pool.class_names)} classes")
        failures += pool.failures
    if options.source in MODELNETS:
        print(f"meshes  {folder}")
    if failures:
        print(f"{len(failures)} files could not be used:", *failures, sep="\n  ", file=sys.stderr)
        if options.strict:
            sys.exit(1)


def export(args: Sequence[str]) -> None:
    """Writes a trained network for other programs: ``sharedmlp export --ckpt_path FILE ...``.

    Args:
        args: The arguments behind ``export``.
    """
    parser = argparse.ArgumentParser(
        prog="sharedmlp export",
        description="Write the network of a checkpoint to one file that other programs run, with "
        "class names and preprocessing in its metadata, and check that it computes the same.",
    )
    parser.add_argument("--ckpt_path", type=Path, required=True)
    parser.add_argument("--format", choices=list(FORMATS), required=True)
    parser.add_argument("--output", type=Path, help="beside the checkpoint by default")
    options = parser.parse_args(args)
    output = options.output or options.ckpt_path.with_suffix(FORMATS[options.format].suffix)
    with _errors_of(parser):
        model = load_trained(options.ckpt_path)
    print(export_model(model, output, options.format))
    print(f"{options.format}  {output}")


def predict(args: Sequence[str]) -> None:
    """Names what is in files: ``sharedmlp predict --ckpt_path FILE FILE_OR_FOLDER ...``.

    Exits with 1, after the last file, if any of them could not be read.

    Args:
        args: The arguments behind ``predict``.
    """
    parser = _file_parser(
        "predict",
        "Name what is in meshes (OFF, OBJ, PLY, STL, glTF) or clouds (.npy, .txt, .xyz), with "
        "the three largest probabilities. Files that cannot be read are listed at the end, and "
        "then the exit status is 1.",
    )
    parser.epilog = (
        "With --config or --data, `sharedmlp predict` is about the test split of that data instead."
    )
    parser.add_argument("--output", type=Path, help="a CSV file for all probabilities")
    options = parser.parse_args(args)
    files = find_cloud_files(options.paths)
    model = _load_network(parser, options.ckpt_path)
    class_names, width = model.metadata["class_names"], _width(files)
    table = None
    if options.output:
        source = {
            "checkpoint": options.ckpt_path and fingerprint(options.ckpt_path),
            "seed": options.seed,
            "up_axis": options.up_axis,
        }
        with _errors_of(parser):
            columns = ["file", *answer_columns(class_names)]
            table = PredictionTable(options.output, columns, files, source)
    done = table.done if table else 0
    left = files[done:]
    answers = predict_files(model, left, seed=options.seed, up_axis=options.up_axis)
    failures: list[str] = []
    with _errors_of(parser), _resumable(table), _progress(answers, done, files) as bar:
        for path, answer in bar:
            bad = isinstance(answer, MeshReadError)
            if table:
                table.append(str(answer) if bad else answer_cells(answer, class_names))
            elif bad:
                failures.append(str(answer))
            if not bad:
                say = bar.write if sys.stderr.isatty() else print
                say(_format_answer(path, answer, model, width))
        if table:
            failures = table.finish()
    if options.output and len(failures) < len(files):
        print(f"predictions  {options.output}")
    _exit_with(failures, files)


def show(args: Sequence[str]) -> None:
    """Draws what a network looks at: ``sharedmlp show --ckpt_path FILE FILE ...``.

    Exits with 1 if any file could not be read.

    Args:
        args: The arguments behind ``show``.
    """
    parser = _file_parser(
        "show",
        "Draw clouds, their critical points (those that win a channel of the max) and their "
        "upper-bound shapes (all points that win none): whatever contains the one and lies within "
        "the other gets the same answer (Qi et al. 2017, section 5.3 and figure 7).",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("clouds.png"),
        help="a picture (.png) or a page to turn the clouds in (.html); clouds.png by default",
    )
    options = parser.parse_args(args)
    if options.output.suffix not in (".png", ".html"):
        parser.error(f"--output ends in .png or .html, got {options.output}")
    files = find_cloud_files(options.paths)
    if len(files) > _MOST_SHOWN:
        parser.error(f"{len(files)} files are too many to see: name at most {_MOST_SHOWN}")
    model = _load_network(parser, options.ckpt_path)
    clouds: list[Tensor] = []
    titles: list[str] = []
    failures: list[str] = []
    for path in files:
        with _errors_of(parser):
            try:
                points = read_network_cloud(model, path, seed=options.seed, up_axis=options.up_axis)
            except MeshReadError as error:
                failures.append(str(error))
                continue
            sets = find_critical_sets(model, points)
        with torch.no_grad():
            probabilities = model(points[None])[0].softmax(dim=0)
        print(_format_answer(path, probabilities, model, _width(files)))
        answer = model.metadata["class_names"][int(probabilities.argmax())]
        clouds += [points, *sets]
        titles += [
            f"{path.name}\n{answer} {float(probabilities.max()):.1%}",
            f"{len(sets.critical)} critical points\nof {len(points)}",
            "upper-bound shape\n",
        ]
    if clouds:
        up_axis = model.metadata.get("up_axis", "z")
        if options.output.suffix == ".png":
            save_figure(plot_clouds(clouds, titles, columns=3, up_axis=up_axis), options.output)
        else:
            write_text(options.output, clouds_page(clouds, titles, columns=3, up_axis=up_axis))
        print(f"clouds  {options.output}")
    _exit_with(failures, files)


def _file_parser(command: str, description: str) -> argparse.ArgumentParser:
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


def _load_network(parser: argparse.ArgumentParser, path: Path | None) -> PointNet:
    """Makes a network with names of its classes; the one of this package without a path."""
    if path is None:
        return create_model("pointnet_vanilla", pretrained="modelnet40")
    load = load_safetensors if path.suffix == ".safetensors" else load_trained
    with _errors_of(parser):
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
def _errors_of(parser: argparse.ArgumentParser) -> Iterator[None]:
    """Ends with a message where an argument turns out to be wrong."""
    try:
        yield
    except ValueError as error:
        parser.error(str(error))


@contextmanager
def _resumable(table: PredictionTable | None) -> Iterator[None]:
    """Ends with 130 where the user interrupts, and says how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        if table:
            table.exit_interrupted("the same command goes on")
        print("\ninterrupted; with --output, one can go on", file=sys.stderr)
        sys.exit(130)
    finally:
        if table:
            table.close()


def _progress(
    answers: Iterator[tuple[Path, Tensor | MeshReadError]], done: int, files: Sequence[Path]
) -> Any:  # noqa: ANN401 - tqdm has no types
    """Shows how many files are done: on a terminal below the answers, else now and then."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    if done:
        print(f"{done} of {len(files)} rows are there already: going on", file=sys.stderr)
    # A file that keeps the log should not keep every step of the bar, nor any of a short run.
    pauses = {} if sys.stderr.isatty() else {"delay": 10, "mininterval": 10}
    return tqdm(
        answers,
        desc="predicting",
        initial=done,
        total=len(files),
        unit="file",
        leave=False,
        **pauses,
    )


def _width(files: Sequence[Path]) -> int:
    """Returns the length of the longest name."""
    return max(len(str(file)) for file in files)


def _format_answer(path: Path, probabilities: Tensor, model: PointNet, width: int) -> str:
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


def _exit_with(failures: Sequence[str], files: Sequence[Path]) -> None:
    """Lists the files that could not be read, and ends with 1 if there are any."""
    if failures:
        head = f"{len(failures)} of {len(files)} files could not be read:"
        sys.exit("\n  ".join([head, *failures]))


COMMANDS = {"prepare": prepare, "export": export, "predict": predict, "show": show}
