"""`sharedmlp benchmark`: the variants of a network side by side, their speed and memory."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from sharedmlp.benchmark import (
    VARIANTS,
    format_results,
    format_small,
    measure_small,
    run_benchmark,
    write_results,
)
from sharedmlp.benchmark import peers as peer_variants
from sharedmlp.benchmark.contention import start_contention
from sharedmlp.cli.arguments import CommandParser
from sharedmlp.utils.cores import usable_cores

PEERS = peer_variants.VARIANTS


def run(args: Sequence[str]) -> None:
    """Measure the variants of a network, and write tables, JSON and a picture.

    Args:
        args: The arguments after `benchmark`.
    """
    parser = CommandParser(
        "benchmark",
        description="Compare the variants of a network: speed and memory as tables, JSON and a "
        "picture.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--network", default="pointnet", help="pointnet, dgcnn, pointnet2_ssg or pointnet2_msg"
    )
    parser.add_argument("--num_points", type=int, nargs="+", default=[256, 1024, 4096, 16384])
    parser.add_argument("--num_neighbors", type=int, nargs="+", help="of DGCNN; 20 if missing")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=3, help="timed steps of a turn")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument(
        "--variants", nargs="+", metavar="NAME", help=f"of {', '.join([*VARIANTS, *PEERS])}"
    )
    parser.add_argument("--peers", action="store_true", help="also public packages, if installed")
    parser.add_argument(
        "--search_precision", default="float32", help="bfloat16 adds the network that uses it"
    )
    parser.add_argument(
        "--allocator",
        nargs="+",
        default=["default"],
        dest="allocators",
        help="default, keep (glibc keeps freed memory), or both side by side",
    )
    parser.add_argument(
        "--contended", action="store_true", help="with another process on all cores"
    )
    parser.add_argument(
        "--small",
        action="store_true",
        help="instead, layers on small inputs, fused and not: from which size on fusion pays",
    )
    parser.add_argument("--output", type=Path, default=Path("runs/benchmark"), help="a folder")
    options = vars(parser.parse_args(args))
    output: Path = options.pop("output")
    peers, chosen = options.pop("peers"), options["variants"]
    if peers and chosen is not None:
        chosen += [name for name in PEERS if PEERS[name].network == options["network"]]
    if peers or set(chosen or ()) & set(PEERS):
        options["variants_from"] = peer_variants.__file__
    contended = options.pop("contended")
    options["contention"] = partial(start_contention, usable_cores()) if contended else None
    if options.pop("small"):
        text = format_small(measure_small())
        output.mkdir(parents=True, exist_ok=True)
        (output / "small.md").write_text(text, encoding="utf-8")
        print(text)
        return

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        results = run_benchmark(**options)
    except ValueError as error:
        parser.error(str(error))
    print(format_results(results))
    paths = list(write_results(results, output))
    try:
        from sharedmlp.viz import plot_benchmark, save_figure
    except ModuleNotFoundError as error:
        print(f"no picture: {error}; it needs: pip install 'sharedmlp[train]'")
    else:
        paths.append(output / "benchmark.png")
        save_figure(plot_benchmark(results), paths[-1])
    print("written: " + ", ".join(map(str, paths)))
