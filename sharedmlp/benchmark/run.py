"""The rounds of a benchmark, in which the processes of the variants take turns."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from itertools import product
from pathlib import Path
from typing import Any

import torch

from sharedmlp.benchmark.machine import Ceiling, describe_machine
from sharedmlp.benchmark.processes import (
    ALLOCATORS,
    NotInstalledError,
    Process,
    ProcessError,
    start_worker,
)
from sharedmlp.benchmark.report import add_statistics
from sharedmlp.benchmark.table import choose_variants, load_variants
from sharedmlp.benchmark.variants import Variant

_log = logging.getLogger(__name__)


def run_benchmark(
    *,
    network: str = "pointnet",
    num_points: Sequence[int] = (1024,),
    num_neighbors: Sequence[int] | None = None,
    batch_size: int = 32,
    num_classes: int = 40,
    threads: int = 2,
    rounds: int = 10,
    steps: int = 3,
    device: str = "cpu",
    variants: Sequence[str] | None = None,
    variants_from: str | Path | None = None,
    search_precision: str = "float32",
    allocators: Sequence[str] = ("default",),
    contention: Callable[[], AbstractContextManager[object]] | None = None,
) -> dict[str, Any]:
    """Measure training steps, evaluations and memory of a network's variants side by side.

    A training step is the forward pass, cross entropy (for PointNet and 0.001 times the
    orthogonality penalty), the backward pass and Adam; an evaluation is the forward pass in eval
    mode without gradients. In each round every process in turn runs both, each once for the caches
    and then `steps` times; its time in that round is the mean of those. Memory is the peak of its
    training steps, before it evaluates, above what it held after its imports.

    Args:
        network: Whose variants: "pointnet", "dgcnn", "pointnet2_ssg" or "pointnet2_msg".
        num_points: Points of a cloud; each size is a comparison of its own.
        num_neighbors: Of DGCNN, likewise; None for the 20 of the paper.
        batch_size: Clouds.
        num_classes: Number of classes.
        threads: Threads of each process.
        rounds: How often every process has its turn.
        steps: Timed steps of a turn.
        device: "cpu" or "cuda".
        variants: Names in `VARIANTS` or in the file; None means all but the bfloat16 search. The
            reference, the network as the field writes it, is always measured.
        variants_from: A Python file that defines further `VARIANTS`, such as networks of your own
            (`load_variants`); None for no file.
        search_precision: "bfloat16" adds the fused network that searches its maxima in it.
        allocators: How memory is allocated, "default" or "keep": each is a comparison of its own,
            one after the other, and stands beside the other in the table.
        contention: Starts another process that keeps all cores busy with matrix products while the
            variants are measured, and ends it on exit; None leaves the machine alone.

    Returns:
        Everything measured and derived, as plain values ready for JSON.

    Raises:
        ValueError: If an argument is not one of the above.
    """
    table = load_variants(variants_from)
    names = choose_variants(variants, table, search_precision, network)
    settings: dict[str, Any] = {
        "network": network,
        "num_points": list(num_points),
        "num_neighbors": None if num_neighbors is None else list(num_neighbors),
        "batch_size": batch_size,
        "num_classes": num_classes,
        "threads": threads,
        "rounds": rounds,
        "steps": steps,
        "device": device,
        "allocators": list(allocators),
        "contended": contention is not None,
    }
    _check(settings)
    results: dict[str, Any] = {
        "settings": settings,
        "machine": describe_machine(device),
        "sizes": [],
    }
    several: Sequence[int | None] = num_neighbors or [None]
    for size, neighbors, allocator in product(num_points, several, allocators):
        one = {**settings, "num_points": size, "num_neighbors": neighbors, "allocator": allocator}
        one["variants_from"] = None if variants_from is None else str(variants_from)
        results["sizes"].append(_compare({name: table[name] for name in names}, one, contention))
    return results


def _compare(
    variants: Mapping[str, Variant],
    settings: dict[str, Any],
    contention: Callable[[], AbstractContextManager[object]] | None,
) -> dict[str, Any]:
    """Measure all variants at one size."""
    rounds, steps = settings["rounds"], settings["steps"]
    keys = ("batch_size", "num_points", "num_classes", "threads", "device")
    shared = {key: settings[key] for key in (*keys, "allocator", "variants_from")}
    if settings["num_neighbors"] is not None:
        shared["num_neighbors"] = settings["num_neighbors"]
    entries = {name: _entry(variant, shared) for name, variant in variants.items()}
    ceiling: dict[str, Any] = {"seconds": []}
    with ExitStack() as stack:
        limit = stack.enter_context(start_worker({**shared, "variant": "ceiling"}))
        if contention is not None:
            # Threads that wait for each other at every small product would be no ceiling.
            samples = [_mean(limit.ask(mode="ceiling", steps=steps)) for _ in range(rounds)]
            ceiling["seconds"] = samples
            stack.enter_context(contention())
        processes: dict[str, Process] = {}
        for name, entry in entries.items():
            where = f"N={settings['num_points']}, {settings['allocator']} allocator"
            _log.info("%s: starting %s", where, name)
            try:
                processes[name] = stack.enter_context(start_worker({**shared, "variant": name}))
                # The first training steps of the process: they compile, and they show the peak.
                peak = processes[name].ask(mode="train", steps=2)["peak_bytes"]
                processes[name].ask(mode="eval", steps=1)
                entry["peak_bytes"] = peak
            except ProcessError as error:
                _give_up(entry, error)
        for number in range(rounds):
            _log.info("N=%d: round %d of %d", settings["num_points"], number + 1, rounds)
            if contention is None:
                ceiling["seconds"].append(_mean(limit.ask(mode="ceiling", steps=steps)))
            # There and back, so that no variant always follows the same other one.
            for name in entries if number % 2 == 0 else reversed(entries):
                entry = entries[name]
                if entry["status"] != "measured":
                    continue
                try:
                    for mode in ("train", "eval"):
                        seconds = _mean(processes[name].ask(mode=mode, steps=steps))
                        entry[mode]["seconds"].append(seconds)
                except ProcessError as error:
                    _give_up(entry, error)
    result = {
        "num_points": settings["num_points"],
        "num_neighbors": settings["num_neighbors"],
        "batch_size": settings["batch_size"],
        "allocator": settings["allocator"],
        "ceiling": {**ceiling, "operations": Ceiling(settings["device"]).operations},
        "variants": entries,
    }
    add_statistics(result, settings["network"])
    return result


def _entry(variant: Variant, shared: dict[str, Any]) -> dict[str, Any]:
    """Return what is known of a variant before it runs."""
    counts = variant.multiply_adds(
        shared["batch_size"], shared["num_points"], shared["num_classes"]
    )
    return {
        "label": variant.label,
        "kind": variant.kind,
        "note": variant.note,
        "status": "measured",
        "peak_bytes": None,
        **{mode: {"seconds": [], "multiply_adds": counts[mode]} for mode in counts},
    }


def _give_up(entry: dict[str, Any], error: ProcessError) -> None:
    """Take a variant out of the rest; a part of its samples would not pair with the others'."""
    missing = isinstance(error, NotInstalledError)
    entry["status"] = "not installed" if missing else "failed"
    entry["reason"] = str(error)
    entry["train"]["seconds"], entry["eval"]["seconds"] = [], []
    _log.warning("%s: %s: %s", entry["label"], entry["status"], error)


def _mean(answer: dict[str, Any]) -> float:
    return float(sum(answer["seconds"]) / len(answer["seconds"]))


def _check(settings: dict[str, Any]) -> None:
    """Say which setting is out of range."""
    least = {"batch_size": 2, "num_classes": 1, "threads": 1, "rounds": 1, "steps": 1}
    for key, low in least.items():
        if settings[key] < low:
            raise ValueError(f"expected {key} >= {low}, got {settings[key]}")
    if not settings["num_points"] or min(settings["num_points"]) < 1:
        raise ValueError(
            f"expected num_points to be sizes of at least 1, got {settings['num_points']}"
        )
    neighbors = settings["num_neighbors"]
    if neighbors is not None and (settings["network"] != "dgcnn" or min(neighbors, default=0) < 1):
        raise ValueError(
            f"num_neighbors are numbers of at least 1, for dgcnn alone, got {neighbors} for "
            f"{settings['network']}"
        )
    unknown = [name for name in settings["allocators"] if name not in ALLOCATORS]
    if unknown or not settings["allocators"]:
        raise ValueError(
            f"allocators are some of {', '.join(ALLOCATORS)}, got {settings['allocators']}"
        )
    if settings["device"] not in ("cpu", "cuda"):
        raise ValueError(f'device is "cpu" or "cuda", got {settings["device"]!r}')
    if settings["device"] == "cuda" and not torch.cuda.is_available():
        raise ValueError('device="cuda", but torch finds no GPU here: use device="cpu"')
