"""`sharedmlp prepare`: from the files of a data set to its cache, and what is in it."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from sharedmlp.cli.arguments import CommandParser
from sharedmlp.cli.data_summary import Summary, draw_classes, print_summary
from sharedmlp.data import (
    FEATURE_CHANNELS,
    MODELNETS,
    SPLITS,
    TERMS,
    DataError,
    PointCloudStore,
    check_classes,
    fetch_modelnet,
    is_hdf5_set,
    is_modelnet40_normals,
    prepare_mesh_tree,
    prepare_modelnet40_normals,
    read_hdf5,
    read_hdf5_class_names,
    recognize_layout,
    summarize_left_out,
)
from sharedmlp.data.build import find_cache_folder
from sharedmlp.data.folder_scan import Split
from sharedmlp.utils.suggest import did_you_mean


def run(args: Sequence[str]) -> None:
    """Check and sample every file of a data set: `sharedmlp prepare SOURCE`.

    Args:
        args: The arguments after `prepare`.
    """
    parser = _make_parser()
    options = parser.parse_args(args)
    if options.normals and "normals" not in options.features:
        options.features.insert(0, "normals")
    source = Path(options.source)
    if options.source in MODELNETS:
        print(TERMS)
        root = options.root or Path("data")
        source = fetch_modelnet(options.source, root, archive=options.archive)
    elif not source.exists() and (meant := did_you_mean(options.source, MODELNETS)):
        parser.error(f"{options.source}: no such folder{meant}")
    elif options.root or options.archive:
        parser.error(f"--root and --archive go with {' or '.join(MODELNETS)}, not with a folder")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        stores, summary = _open_splits(source, options)
    # What is left out, or not as expected, is part of the summary.
    told = ("left out", "are used as they can be")
    messages = dict.fromkeys(str(w.message) for w in caught)  # of several splits, once
    notes = [message for message in messages if not any(t in message for t in told)]
    cache = find_cache_folder(summary.folder, options.cache_dir)
    picture = draw_classes(stores, cache / "classes.png", summary.up_axis)
    print_summary(stores, summary._replace(notes=notes, picture=picture))
    if options.source in MODELNETS:
        print(f"meshes      {source}")
    failures = [failure for pool in stores.values() for failure in pool.failures]
    if failures:
        print(f"{len(failures)} files could not be used:", *failures, sep="\n  ", file=sys.stderr)
        if options.strict:
            sys.exit(1)


def _make_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        "prepare",
        description="Check the files of a set, put their points into a cache and print what is in "
        "it. Training does the first two too; here, ModelNet can be fetched first, and bad files "
        "can be made fatal.",
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a folder of meshes or point clouds, <class>/{train,val,test}/<file>, "
        "{train,val,test}/<class>/<file> or <class>/<file>; a CSV file with the columns path, "
        "label and split; a set in HDF5 files, or one in the layout of "
        "modelnet40_normal_resampled; or modelnet10 or modelnet40, which are fetched",
    )
    parser.add_argument("--root", type=Path, help="where what is fetched goes; data by default")
    parser.add_argument("--archive", type=Path, help="the zip file, instead of a download")
    parser.add_argument(
        "--pool_size",
        type=int,
        help="points kept of a file: 2048, or 10000 of modelnet40_normal_resampled, by default",
    )
    parser.add_argument(
        "--features",
        nargs="+",
        default=[],
        choices=list(FEATURE_CHANNELS),
        help="what to keep besides coordinates",
    )
    parser.add_argument("--normals", action="store_true", help="the same as --features normals")
    parser.add_argument(
        "--up_axis",
        choices=["x", "y", "z"],
        help="the axis that points up; z by default, y in modelnet40_normal_resampled. glTF files "
        "have y up by their specification and are turned to it",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num_workers", type=int, help="processes; all cores by default")
    parser.add_argument("--cache_dir", type=Path, help="in the folder by default")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a file is bad")
    return parser


def _open_splits(
    source: Path, options: argparse.Namespace
) -> tuple[dict[str, PointCloudStore], Summary]:
    """Open the splits of a set that are there, and say how it lies on the disk."""
    settings = {} if options.pool_size is None else {"pool_size": options.pool_size}
    settings |= {
        "seed": options.seed,
        "num_workers": options.num_workers,
        "cache_dir": options.cache_dir,
    }
    splits: list[Split]
    features = tuple(options.features)
    if is_modelnet40_normals(source):
        if set(features) - {"normals"}:
            raise DataError(f"{source}: its clouds have normals alone, got {list(features)}")
        open_split: Callable[..., PointCloudStore] = partial(
            prepare_modelnet40_normals, source, normals=bool(features), **settings
        )
        name, splits = "modelnet40_normal_resampled", ["train", "test"]
        summary = Summary(source, name, options.up_axis or "y", features)
    elif is_hdf5_set(source):
        check_classes(source, read_hdf5_class_names(source))
        open_split = partial(read_hdf5, source, features=features)
        splits = [s for s in SPLITS if (source / f"{s}_files.txt").is_file()]
        summary = Summary(source, "HDF5 files, shape_names.txt", options.up_axis or "z", features)
    else:
        layout = recognize_layout(source, seed=options.seed)
        check_classes(source, layout.class_names)
        up_axis = options.up_axis or "z"
        open_split = partial(
            prepare_mesh_tree, source, features=features, up_axis=up_axis, **settings
        )
        splits = [split for split in SPLITS if layout.of_split(split)]
        summary = Summary(
            layout.root,
            layout.name,
            up_axis,
            features,
            files=[file.name for file in layout.files],
            left_out=summarize_left_out(layout.left_out),
        )
    return {split: open_split(split=split) for split in splits}, summary
