"""Draw how time and memory of a network grow with its settings, from runs of `benchmark.py`.

sharedmlp benchmark --network dgcnn --num_points 256 1024 4096 --output runs/points ...
sharedmlp benchmark --network dgcnn --num_neighbors 5 10 20 40 --output runs/k ...
python scripts/draw_growth.py runs/points/benchmark.json runs/k/benchmark.json growth.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from sharedmlp.viz import plot_growth, save_figure


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and draw.

    Args:
        arguments: Those of the command line; None for the ones of the process.
    """
    parser = argparse.ArgumentParser(description="Draw how time and memory of a network grow.")
    parser.add_argument("results", type=Path, nargs="+", help="benchmark.json of runs")
    parser.add_argument("picture", type=Path, help="the PNG file to write")
    options = parser.parse_args(arguments)
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in options.results]
    save_figure(plot_growth(runs), options.picture)


if __name__ == "__main__":
    main()
