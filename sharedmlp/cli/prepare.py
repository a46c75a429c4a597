"""`sharedmlp prepare`: from the files of a data set to its cache."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from sharedmlp.data import (
    MODELNETS,
    TERMS,
    fetch_modelnet,
    is_modelnet40_normals,
    prepare_mesh_tree,
    prepare_modelnet40_normals,
)


def run(args: Sequence[str]) -> None:
    """Check and sample every file of a data set: `sharedmlp prepare SOURCE`.

    Args:
        args: The arguments after `prepare`.
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
    prepare_split = (
        prepare_modelnet40_normals if is_modelnet40_normals(folder) else prepare_mesh_tree
    )
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
