"""`sharedmlp predict`: what is in files."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sharedmlp.cli.network import (
    exit_if_failed,
    exit_on_error,
    format_answer,
    load_network,
    longest_name,
    make_file_parser,
)
from sharedmlp.data import MeshReadError, find_cloud_files
from sharedmlp.inference.predict import FileAnswer, classify_files
from sharedmlp.models.pretrained import weights_file
from sharedmlp.models.saved import network_name
from sharedmlp.reports.likeness import (
    AnswerCheck,
    compare_up_axes,
    describe_network,
)
from sharedmlp.reports.prediction_table import (
    PredictionTable,
    answer_cells,
    answer_columns,
)
from sharedmlp.utils.files import file_sha256


def run(args: Sequence[str]) -> None:
    """Classify files: `sharedmlp predict --ckpt_path FILE FILE_OR_FOLDER ...`.

    Exits with 1, after the last file, if any of them could not be read.

    Args:
        args: The arguments after `predict`.
    """
    parser = make_file_parser(
        "predict",
        "Name what is in meshes (OFF, OBJ, PLY, STL, glTF) or point clouds (PLY, PCD, LAS, NPY, "
        "text, ...), with the three largest probabilities. What a folder holds besides is counted. "
        "Files that cannot be read are listed at the end, and then the exit status is 1.",
    )
    parser.epilog = (
        "With --config or --data, `sharedmlp predict` is about the test split of that data instead."
    )
    parser.add_argument("--output", type=Path, help="a CSV file for all probabilities")
    parser.add_argument(
        "--rotations",
        type=int,
        default=1,
        metavar="N",
        help="answer with the most confident of N turns about the up axis, such as 12: for objects "
        "that stand upright and face any way. A little less accurate on those that face as the "
        "training data do, and N times as slow",
    )
    options = parser.parse_args(args)
    if options.rotations < 1:
        parser.error(f"--rotations is at least 1, each cloud as it is, got {options.rotations}")
    files = find_cloud_files(options.paths)
    for folder in options.paths:
        _print_left_out(folder, files)
    model = load_network(parser, options.ckpt_path)
    class_names, width = model.metadata["class_names"], longest_name(files)
    weights = options.ckpt_path.name if options.ckpt_path else "this package"
    told = describe_network(network_name(model), weights, model.metadata)
    told += [f"note: {line}" for line in compare_up_axes(files, model.metadata, options.up_axis)]
    print(*told, sep="\n", file=sys.stderr)
    check = AnswerCheck(model.metadata, rotations=options.rotations)
    table = None
    if options.output:
        source = {
            "checkpoint": options.ckpt_path and file_sha256(weights_file(str(options.ckpt_path))),
            "seed": options.seed,
            "up_axis": options.up_axis,
            "rotations": options.rotations,
        }
        with exit_on_error(parser):
            columns = ["file", *answer_columns(class_names, options.rotations)]
            table = PredictionTable(options.output, columns, files, source)
    done = table.done if table else 0
    left = files[done:]
    answers = classify_files(
        model, left, seed=options.seed, up_axis=options.up_axis, rotations=options.rotations
    )
    failures: list[str] = []
    with exit_on_error(parser), _resumable(table), _progress(answers, done, files) as bar:
        for path, answer in bar:
            if isinstance(answer, MeshReadError):
                if table:
                    table.append(str(answer))
                else:
                    failures.append(str(answer))
                continue
            degrees = answer.degrees if options.rotations > 1 else None
            check.add(answer.probabilities, answer.num_points)
            if table:
                table.append(answer_cells(answer.probabilities, class_names, degrees))
            say = bar.write if sys.stderr.isatty() else print
            say(format_answer(path, answer.probabilities, model, width, degrees))
        if table:
            failures = table.finish()
    for line in check.warnings():
        print(f"warning: {line}", file=sys.stderr)
    if options.output and len(failures) < len(files):
        print(f"predictions  {options.output}")
    exit_if_failed(failures, files)


def _print_left_out(folder: Path, files: Sequence[Path]) -> None:
    """Count the files of a folder that are not classified, by their suffix."""
    taken = set(files)
    others = Counter(
        path.suffix.lower() or "no suffix"
        for path in sorted(folder.rglob("*"))
        if path not in taken
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if others:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common())
        print(f"{folder}: {others.total()} left out: {kinds}", file=sys.stderr)


@contextmanager
def _resumable(table: PredictionTable | None) -> Iterator[None]:
    """Exit with 130 if the user interrupts, and print how to continue."""
    try:
        yield
    except KeyboardInterrupt:
        if table:
            table.exit_interrupted("to continue, run the same command")
        print("\ninterrupted; with --output, it could be continued", file=sys.stderr)
        sys.exit(130)
    finally:
        if table:
            table.close()


def _progress(
    answers: Iterator[tuple[Path, FileAnswer | MeshReadError]], done: int, files: Sequence[Path]
) -> Any:
    """Show how many files are done: on a terminal below the answers, else now and then."""
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
