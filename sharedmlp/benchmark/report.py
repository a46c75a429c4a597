"""From samples to medians, ratios, tables and files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sharedmlp.benchmark.variants import REFERENCE

_MIB = 2**20


def spread(samples: Sequence[float]) -> dict[str, float]:
    """Returns the median and the 10th and 90th percentile of samples."""
    low, median, high = (float(value) for value in np.percentile(samples, [10, 50, 90]))
    return {"median": median, "low": low, "high": high}


def speedup(reference: Sequence[float], samples: Sequence[float]) -> dict[str, float]:
    """Returns the spread over rounds of how many times as fast as the reference it was.

    Args:
        reference: Seconds of the reference, one a round.
        samples: Seconds of the other in the same rounds.
    """
    return spread([other / own for other, own in zip(reference, samples, strict=True)])


def add_statistics(size: dict[str, Any]) -> None:
    """Adds medians, ratios and fractions of the ceiling to the samples of one size.

    Args:
        size: An entry of ``results["sizes"]``; changed in place.
    """
    ceiling = size["ceiling"]
    ceiling.update(spread(ceiling["seconds"]))
    ceiling["gflops"] = ceiling["operations"] / ceiling["median"] / 1e9
    measured = _measured(size)
    reference = measured.get(REFERENCE)
    for entry in measured.values():
        for mode in ("train", "eval"):
            timed = entry[mode]
            timed.update(spread(timed["seconds"]))
            rate = 2 * timed["multiply_adds"] / timed["median"]
            timed["fraction_of_ceiling"] = rate / (ceiling["gflops"] * 1e9)
            if reference:
                timed["speedup"] = speedup(reference[mode]["seconds"], timed["seconds"])
        if reference:
            entry["peak_ratio"] = entry["peak_bytes"] / reference["peak_bytes"]
    size["fused_against"] = list(_fused_against(measured))


def _fused_against(measured: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """Yields how fast the fused networks are beside plain linear and the best compiled one."""
    for mode in ("train", "eval"):
        compiled = [name for name, entry in measured.items() if entry["kind"] == "compiled"]
        compiled.sort(key=lambda name: measured[name][mode]["median"])
        references = [name for name in ["linear", *compiled[:1]] if name in measured]
        for name, entry in measured.items():
            for other in references if entry["kind"] == "fused" else ():
                yield {
                    "mode": mode,
                    "variant": name,
                    "reference": other,
                    "speedup": speedup(measured[other][mode]["seconds"], entry[mode]["seconds"]),
                }


def _measured(size: Mapping[str, Any]) -> dict[str, Any]:
    entries = size["variants"].items()
    return {name: entry for name, entry in entries if entry["status"] == "measured"}


def format_results(results: Mapping[str, Any]) -> str:
    """Lays out the results of :func:`run_benchmark` as Markdown."""
    parts = [_describe(results)]
    parts += [_format_size(size, results["settings"]) for size in results["sizes"]]
    return "\n\n".join([*parts, _legend(results)]) + "\n"


def _describe(results: Mapping[str, Any]) -> str:
    machine, settings = results["machine"], results["settings"]
    load = ", ".join(f"{value:.2f}" for value in machine["load_average"])
    busy = f"; a further process kept all {machine['cores']} cores busy with matrix products"
    return (
        f"{machine['cpu']}, {machine['cores']} cores ({machine['cpu_capability']}), "
        f"GPU: {machine['gpu'] or 'none used'}, {machine['memory_gib']} GiB; "
        f"torch {machine['torch']}, BLAS {machine['blas']}, Python {machine['python']}; "
        f"{settings['threads']} threads, float32, device {settings['device']}; "
        f"{settings['rounds']} rounds of {settings['steps']} steps; "
        f"load average at the start {load}" + (busy if settings["contended"] else "")
    )


def _format_size(size: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    ceiling = size["ceiling"]
    lines = [
        f"### B={size['batch_size']}, N={size['num_points']}, {settings['num_classes']} classes"
        + (", contended" if settings["contended"] else ""),
        "",
        "| network | training ms | times as fast | of ceiling | eval ms | times as fast "
        "| of ceiling | peak MiB | of Conv1d's |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        *(_row(entry) for entry in size["variants"].values()),
        "",
        f"Ceiling, a float32 matrix product in the cache: {ceiling['gflops']:.1f} GFLOP/s"
        + (" (before the other process started)." if settings["contended"] else "."),
    ]
    names = {"train": "training", "eval": "eval"}
    for item in size["fused_against"]:
        own, other = (size["variants"][item[key]]["label"] for key in ("variant", "reference"))
        lines.append(
            f"- {names[item['mode']]}: {own} is {item['speedup']['median']:.2f} times as fast as "
            f"{other}"
        )
    return "\n".join(lines)


def _row(entry: Mapping[str, Any]) -> str:
    if entry["status"] != "measured":
        return f"| {entry['label']} | {entry['status']} |" + " |" * 7
    cells = [entry["label"]]
    for mode in ("train", "eval"):
        timed = entry[mode]
        low, median, high = (1e3 * timed[key] for key in ("low", "median", "high"))
        cells.append(f"{median:.1f} ({low:.1f} to {high:.1f})")
        cells.append(f"{timed['speedup']['median']:.2f}" if "speedup" in timed else "-")
        cells.append(f"{timed['fraction_of_ceiling']:.0%}")
    cells.append(f"{entry['peak_bytes'] / _MIB:.0f}")
    cells.append(f"{entry['peak_ratio']:.2f}" if "peak_ratio" in entry else "-")
    return "| " + " | ".join(cells) + " |"


def _legend(results: Mapping[str, Any]) -> str:
    """Says what the columns mean and what has to be known of single rows."""
    entries = {name: entry for size in results["sizes"] for name, entry in size["variants"].items()}
    kinds = {entry["optimizer"] for entry in entries.values()}
    memory = (
        "the most bytes of tensors on the GPU"
        if results["settings"]["device"] == "cuda"
        else "the most bytes that the process ever held, less what it held after its imports"
    )
    lines = [
        "Times are medians over the rounds (10th to 90th percentile); times as fast: the median of "
        "the ratios to Conv1d as the field writes it, taken within each round.",
        "A training step is forward, cross entropy + 0.001 orthogonality penalty, backward and "
        "Adam: torch's default Adam"
        + (", Adam(fused=True) for the fused networks." if len(kinds) > 1 else "."),
        "Of ceiling: 2 operations a multiply-add, counted in a plain network as its products with "
        "weights and transforms, forward times 3 for training; in a fused training step each "
        "128 to 1024 layer counts MCD + 2MC² + 2BCD + 2DC² (M = BN) where a plain one has 3MCD.",
        f"Peak: training steps in a process of its own, {memory}.",
    ]
    lines += [f"{entry['label']}: {entry['note']}." for entry in entries.values() if entry["note"]]
    for size in results["sizes"]:
        lines += [
            f"N={size['num_points']}, {entry['label']}: {entry['status']} ({entry['reason']})."
            for entry in size["variants"].values()
            if entry["status"] != "measured"
        ]
    return "\n".join(f"- {line}" for line in lines)


def write_results(results: Mapping[str, Any], folder: str | Path) -> tuple[Path, Path]:
    """Writes ``benchmark.json`` (complete) and ``benchmark.md`` (the tables), each whole.

    Args:
        results: Of :func:`run_benchmark`.
        folder: Where to; made if missing.

    Returns:
        The paths of the two files.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"benchmark.json": json.dumps(results, indent=2) + "\n"}
    texts["benchmark.md"] = format_results(results)
    for name, text in texts.items():
        partial = folder / f"{name}.partial"
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, folder / name)  # noqa: PTH105
    return folder / "benchmark.json", folder / "benchmark.md"
