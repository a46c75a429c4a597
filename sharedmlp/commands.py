"""The subcommands that train nothing: ``sharedmlp prepare | export``."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from sharedmlp.data import prepare_mesh_tree
from sharedmlp.export import FORMATS, export_model
from sharedmlp.train import load_trained


def prepare(args: Sequence[str]) -> None:
    """Checks and samples every mesh of a tree: ``sharedmlp prepare ROOT``.

    Args:
        args: The arguments behind ``prepare``.
    """
    parser = argparse.ArgumentParser(
        prog="sharedmlp prepare",
        description="Check and sample the meshes of <root>/<class>/{train,test}/ into a cache. "
        "Training does this too; here, bad files can be made fatal.",
    )
    parser.add_argument("root", type=Path)
    parser.add_argument("--pool_size", type=int, default=2048, help="points sampled from a mesh")
    parser.add_argument("--normals", action="store_true", help="sample normals too")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num_workers", type=int, help="processes; all cores by default")
    parser.add_argument("--cache_dir", type=Path, help="in ROOT by default")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a file is bad")
    options = parser.parse_args(args)
    failures: list[str] = []
    for split in ("train", "test"):
        with warnings.catch_warnings():
            # Listed below, once.
            warnings.filterwarnings("ignore", ".*cannot be used and are left out.*")
            pool = prepare_mesh_tree(
                options.root,
                split,
                pool_size=options.pool_size,
                normals=options.normals,
                seed=options.seed,
                num_workers=options.num_workers,
                cache_dir=options.cache_dir,
            )
        print(f"{split}: {len(pool)} clouds in {len(pool.class_names)} classes")
        failures += pool.failures
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
    try:
        model = load_trained(options.ckpt_path)
    except ValueError as error:
        parser.error(str(error))
    print(export_model(model, output, options.format))
    print(f"{options.format}  {output}")


COMMANDS = {"prepare": prepare, "export": export}
