"""From which size on the fused layers pay: the default beside the plain path on small inputs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import cycle, islice, permutations, product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sharedmlp.benchmark.machine import describe_machine
from sharedmlp.benchmark.report import speedup, spread
from sharedmlp.layers import SharedMLPMaxPool

BATCH_SIZES = (1, 2, 8, 32)
NUM_POINTS = (16, 64, 256, 1024, 4096)
# A plain training step holds about this many tensors of its widest layer at once.
_TENSORS = 6
_LARGEST = 2**29  # a cell above it would take minutes, and is not small
_FEWEST = 12  # steps, each order twice


class Stack(NamedTuple):
    """A shared MLP before a max, as a network of the field has it.

    Attributes:
        channels: Its widths.
        neighbors: K of `(B, N, K, C)`, where N counts groups; None for `(B, N, C)`.
    """

    channels: tuple[int, ...]
    neighbors: int | None = None


STACKS: dict[str, Stack] = {
    "PointNet": Stack((64, 64, 128, 1024)),
    "T-Net": Stack((3, 64, 128, 1024)),
    "PointPillars": Stack((9, 64), 32),
    "PointNet++ group": Stack((6, 64, 64, 128), 32),
}


def measure_small(
    *,
    threads: Sequence[int] = (1, 2),
    batch_sizes: Sequence[int] = BATCH_SIZES,
    num_points: Sequence[int] = NUM_POINTS,
    backend: str = "linear",
    seconds: float = 0.3,
) -> dict[str, Any]:
    """Measure `fused="auto"` and `fused=True` beside `fused=False`, step by step in turns.

    Args:
        threads: Numbers of threads.
        batch_sizes: Clouds.
        num_points: Points of a cloud, or groups.
        backend: The backend of all of them.
        seconds: About how long the plain path of a cell runs in all; at least 12 steps are taken.

    Returns:
        Plain values, ready for JSON: the machine, the settings and a row a cell.
    """
    before = torch.get_num_threads()
    rows: list[dict[str, Any]] = []
    threads = sorted(threads, reverse=True)
    try:
        for count, name, batch, points in product(threads, STACKS, batch_sizes, num_points):
            torch.set_num_threads(count)
            rows += _measure_cell(name, batch, points, count, backend, seconds)
    finally:
        torch.set_num_threads(before)
    settings = {"backend": backend, "seconds": seconds}
    return {"machine": describe_machine("cpu"), "settings": settings, "rows": rows}


def _measure_cell(
    name: str, batch: int, points: int, threads: int, backend: str, seconds: float
) -> Iterator[dict[str, Any]]:
    channels, neighbors = STACKS[name]
    shape: tuple[int, ...] = (batch, points, channels[0])
    if neighbors is not None:
        shape = (batch, points, neighbors, channels[0])
    x = torch.randn(shape)
    if x.numel() // channels[0] * max(channels) * 4 * _TENSORS > _LARGEST:
        return
    for mode in ("train", "eval"):
        steps = {}
        for fused in (False, "auto", True):
            torch.manual_seed(0)
            module = SharedMLPMaxPool(channels, backend=backend, fused=fused)
            steps[str(fused)] = _step(module, x, mode == "train")
        taken = _take_turns(steps, seconds)
        yield {
            "stack": name,
            "batch_size": batch,
            "num_points": points,
            "threads": threads,
            "mode": mode,
            "plain": spread(taken["False"]),
            "auto": speedup(taken["False"], taken["auto"]),
            "fused": speedup(taken["False"], taken["True"]),
        }


def _step(module: SharedMLPMaxPool, x: Tensor, training: bool) -> Callable[[], object]:
    module.train(training)

    def train() -> None:
        module(x).sum().backward()

    def evaluate() -> None:
        with torch.no_grad():
            module(x)

    return train if training else evaluate


def _take_turns(
    steps: Mapping[str, Callable[[], object]], seconds: float
) -> dict[str, list[float]]:
    """Run the steps in turns and return the seconds of each.

    In every order equally often: a step finds the memory and the caches as the one before left
    them, and one that always followed itself would look faster.
    """
    first = [_timed(step) for step in steps.values()]  # for the caches
    if sum(first) < 10 * seconds:
        first = [_timed(step) for step in steps.values()]
    count = max(_FEWEST, min(240, int(seconds / max(first[0], 1e-6))))
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for order in islice(cycle(permutations(steps)), count):
        for name in order:
            taken[name].append(_timed(steps[name]))
    return taken


def _timed(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def format_small(results: Mapping[str, Any]) -> str:
    """Lay out the results of `measure_small` as Markdown."""
    machine = results["machine"]
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores; torch {machine['torch']}; backend "
        f"{results['settings']['backend']}; steps of the three take turns.",
        "",
        "| stack | B | N | mode | threads | plain ms | auto, as fast | fused, as fast |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in results["rows"]:
        cells = [row["stack"], row["batch_size"], row["num_points"], row["mode"], row["threads"]]
        plain = "{:.2f} ({:.2f} to {:.2f})".format(
            *(1e3 * row["plain"][key] for key in ("median", "low", "high"))
        )
        ratios = [
            "{median:.2f} ({low:.2f} to {high:.2f})".format(**row[key]) for key in ("auto", "fused")
        ]
        lines.append("| " + " | ".join(map(str, [*cells, plain, *ratios])) + " |")
    worst = min(row["auto"]["median"] for row in results["rows"])
    lines += ["", f"The default at its worst: {worst:.2f} times as fast as plain."]
    return "\n".join(lines) + "\n"
