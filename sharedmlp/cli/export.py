"""`sharedmlp export`: from a checkpoint to a file for other programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sharedmlp.cli.arguments import CommandParser
from sharedmlp.cli.network import exit_on_error
from sharedmlp.export import FORMATS, export_model
from sharedmlp.models import load_pretrained


def run(args: Sequence[str]) -> None:
    """Write a trained network for other programs: `sharedmlp export --ckpt_path FILE ...`.

    Args:
        args: The arguments after `export`.
    """
    parser = CommandParser(
        "export",
        description="Write the network of a checkpoint to one file that other programs run, with "
        "class names and preprocessing in its metadata, and check that it computes the same.",
    )
    parser.add_argument(
        "--ckpt_path",
        type=Path,
        required=True,
        help="what `sharedmlp fit` wrote, a safetensors file, a folder of save_pretrained, or "
        "modelnet40, the network that is part of this package",
    )
    parser.add_argument("--format", choices=list(FORMATS), required=True)
    parser.add_argument("--output", type=Path, help="next to the checkpoint by default")
    options = parser.parse_args(args)
    output = options.output or options.ckpt_path.with_suffix(FORMATS[options.format].suffix)
    if output.resolve() == options.ckpt_path.resolve():
        parser.error(f"{output} is what is exported: name another file by --output")
    with exit_on_error(parser):
        model = load_pretrained(str(options.ckpt_path))
    print(export_model(model, output, options.format))
    print(f"{options.format}  {output}")
