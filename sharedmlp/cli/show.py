"""`sharedmlp show`: what a network looks at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from sharedmlp.cli.network import (
    exit_if_failed,
    exit_on_error,
    format_answer,
    load_network,
    longest_name,
    make_file_parser,
)
from sharedmlp.data import MeshReadError, find_cloud_files
from sharedmlp.inference.predict import read_network_cloud
from sharedmlp.reports.calibration import calibrated_probabilities
from sharedmlp.reports.classification import write_text

_MOST_DRAWN = 16  # of a picture, which has three panels of each file
# A page has a screen of each file. Of more than these, without the upper-bound shapes and the
# neighborhoods of all points: they take most of the time, and 50 to 100 KB each.
_MOST_DETAILED = 32


def run(args: Sequence[str]) -> None:
    """Draw what a network looks at: `sharedmlp show --ckpt_path FILE FILE ...`.

    Exits with 1 if any file could not be read.

    Args:
        args: The arguments after `show`.
    """
    parser = make_file_parser(
        "show",
        "Draw clouds and what a network looks at in them. PointNet: the critical points (those "
        "that win a channel of the max) and the upper-bound shape (all points that win none); "
        "whatever contains the one and lies within the other gets the same answer (Qi et al. 2017, "
        "section 5.3 and figure 7). PointNet++: the centers of the first level, and the ball "
        "around one of them. DGCNN: how near the others are to a point, in space and in the "
        "features of a layer; bright is near (Wang et al. 2019, figure 4).",
    )
    parser.add_argument(
        "--point",
        type=int,
        metavar="ROW",
        help="PointNet++ and DGCNN: the point whose neighborhood is drawn, from 0; by default the "
        "one that is farthest from the middle of the cloud",
    )
    parser.add_argument(
        "--layer",
        type=int,
        help="DGCNN: the layer whose features are compared, from 1; the last by default",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("clouds.png"),
        help="a picture (.png) of at most 16 files, or a page to turn the clouds of any number of "
        "files in (.html); clouds.png by default",
    )
    options = parser.parse_args(args)
    from sharedmlp.viz import (
        Screen,
        View,
        find_screen,
        find_views,
        plot_clouds,
        save_figure,
        screens_page,
    )

    if options.output.suffix not in (".png", ".html"):
        parser.error(f"--output ends in .png or .html, got {options.output}")
    files = find_cloud_files(options.paths)
    is_picture = options.output.suffix == ".png"
    if is_picture and len(files) > _MOST_DRAWN:
        parser.error(
            f"{len(files)} files are too many for a picture: name at most {_MOST_DRAWN}, or write "
            "a page with --output clouds.html"
        )
    model = load_network(parser, options.ckpt_path)
    views: list[View] = []
    screens: list[Screen] = []
    failures: list[str] = []
    for path in files:
        with exit_on_error(parser):
            try:
                points = read_network_cloud(model, path, seed=options.seed, up_axis=options.up_axis)
            except MeshReadError as error:
                failures.append(str(error))
                continue
            with torch.no_grad():
                probabilities = calibrated_probabilities(model(points[None])[0], model.metadata)
            answer = model.metadata["class_names"][int(probabilities.argmax())]
            title = f"{path.name}\n{answer} {float(probabilities.max()):.1%}"
            choice = {"point": options.point, "layer": options.layer}
            if is_picture:
                views += [View(title, points), *find_views(model, points, **choice)]
            else:
                detailed = len(files) <= _MOST_DETAILED
                screens.append(find_screen(model, points, title, **choice, details=detailed))
        print(format_answer(path, probabilities, model, longest_name(files)))
    up_axis = model.metadata.get("up_axis", "z")
    if views:
        figure = plot_clouds(
            [view.points for view in views],
            [view.title for view in views],
            values=[view.values for view in views],
            marked=[view.marked for view in views],
            columns=3,
            up_axis=up_axis,
        )
        save_figure(figure, options.output)
    if screens:
        write_text(options.output, screens_page(screens, up_axis=up_axis))
    if views or screens:
        print(f"clouds  {options.output}")
    exit_if_failed(failures, files)
