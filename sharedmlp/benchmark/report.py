"""From samples to medians, ratios, tables and files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sharedmlp.benchmark.processes import ALLOCATORS
from sharedmlp.benchmark.table import REFERENCES
from sharedmlp.utils.files import atomic_write

_MIB = 2**20
_TITLES = {
    "pointnet": "PointNet",
    "dgcnn": "DGCNN",
    "pointnet2_ssg": "PointNet++ (one scale)",
    "pointnet2_msg": "PointNet++ (several scales)",
}
_CEILING = (
    "Of ceiling: 2 operations a multiply-add, counted in a plain network as its products with "
    "weights and transforms, forward times 3 for training; in a fused training step each "
    "128 to 1024 layer counts MCD + 2MC² + 2BCD + 2DC² (M = BN) where a plain one has 3MCD."
)


def spread(samples: Sequence[float]) -> dict[str, float]:
    """Return the median and the 10th and 90th percentile of samples."""
    low, median, high = (float(value) for value in np.percentile(samples, [10, 50, 90]))
    return {"median": median, "low": low, "high": high}


def speedup(reference: Sequence[float], samples: Sequence[float]) -> dict[str, float]:
    """Return how many times as fast as the reference it was.

    Args:
        reference: Seconds of the reference, one a round.
        samples: Seconds of the other in the same rounds.

    Returns:
        As "median" the ratio of the medians, which is that of the printed times; as "low" and
        "high" the 10th and 90th percentile of the ratios within the rounds.
    """
    within = spread([other / own for other, own in zip(reference, samples, strict=True)])
    medians = spread(reference)["median"] / spread(samples)["median"]
    return {**within, "median": medians}


def add_statistics(size: dict[str, Any], network: str = "pointnet") -> None:
    """Add medians, ratios and fractions of the ceiling to the samples of one size.

    Args:
        size: An entry of results["sizes"]; changed in place.
        network: Whose variants they are.
    """
    ceiling = size["ceiling"]
    ceiling.update(spread(ceiling["seconds"]))
    ceiling["gflops"] = ceiling["operations"] / ceiling["median"] / 1e9
    measured = _measured(size)
    reference = measured.get(REFERENCES[network])
    for entry in measured.values():
        for mode in ("train", "eval"):
            timed = entry[mode]
            timed.update(spread(timed["seconds"]))
            if timed["multiply_adds"] is not None:
                rate = 2 * timed["multiply_adds"] / timed["median"]
                timed["fraction_of_ceiling"] = rate / (ceiling["gflops"] * 1e9)
            if reference:
                timed["speedup"] = speedup(reference[mode]["seconds"], timed["seconds"])
        if reference:
            entry["peak_ratio"] = entry["peak_bytes"] / reference["peak_bytes"]
    plain = "linear" if network == "pointnet" else f"{network}_linear"
    size["fused_against"] = list(_fused_against(measured, plain))


def _fused_against(measured: Mapping[str, Any], plain: str) -> Iterable[dict[str, Any]]:
    """Yield how fast the fused networks are beside a plain one and the best compiled one."""
    for mode in ("train", "eval"):
        compiled = [name for name, entry in measured.items() if entry["kind"] == "compiled"]
        compiled.sort(key=lambda name: measured[name][mode]["median"])
        references = [name for name in [plain, *compiled[:1]] if name in measured]
        for name, entry in measured.items():
            for other in references if entry["kind"] == "fused" else ():
                yield {
                    "mode": mode,
                    "variant": name,
                    "reference": other,
                    "speedup": speedup(measured[other][mode]["seconds"], entry[mode]["seconds"]),
                }


def _key(size: Mapping[str, Any]) -> tuple[int, int | None]:
    """Return what tells a size from the others; those of two allocators are alike."""
    return size["num_points"], size.get("num_neighbors")


def _describe_size(size: Mapping[str, Any]) -> str:
    neighbors = size.get("num_neighbors")
    text = f"B={size['batch_size']}, N={size['num_points']}"
    return text if neighbors is None else f"{text}, k={neighbors}"


def _measured(size: Mapping[str, Any]) -> dict[str, Any]:
    entries = size["variants"].items()
    return {name: entry for name, entry in entries if entry["status"] == "measured"}


def format_results(results: Mapping[str, Any]) -> str:
    """Lay out the results of `run_benchmark` as Markdown."""
    parts = [_describe(results)]
    for key in dict.fromkeys(map(_key, results["sizes"])):
        sizes = [size for size in results["sizes"] if _key(size) == key]
        parts.append(_format_sizes(sizes, results["settings"]))
    return "\n\n".join([*parts, _legend(results)]) + "\n"


def format_summary(results: Mapping[str, Any], names: Sequence[str]) -> str:
    """Lay out some rows of the first size as the short table of the README.

    Args:
        results: Of `run_benchmark`, with one or two allocators.
        names: Which variants.
    """
    sizes = [size for size in results["sizes"] if _key(size) == _key(results["sizes"][0])]
    title = _TITLES[results["settings"]["network"]]
    head = [f"{title}, {_describe_size(sizes[0])}"]
    for size in sizes:
        kept = "" if size["allocator"] == "default" else " (memory kept)"
        head += [f"training step{kept}", "", f"evaluation{kept}", ""]
    lines = [_cells([*head, "peak memory", ""]), "|" + " --- |" * (len(head) + 2)]
    for name in names:
        cells = [sizes[0]["variants"][name]["label"]]
        for size in sizes:
            entry = size["variants"][name]
            for mode in ("train", "eval"):
                cells.append(f"{1e3 * entry[mode]['median']:.0f} ms")
                cells.append(f"{entry[mode]['speedup']['median']:.1f}x")
        entry = sizes[0]["variants"][name]
        cells += [f"{entry['peak_bytes'] / _MIB:.0f} MiB", f"{entry['peak_ratio']:.2f}"]
        lines.append(_cells(cells))
    return "\n".join(lines) + "\n"


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


def _format_sizes(sizes: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> str:
    """Lay out one number of points, with a group of columns for each allocator."""
    first = sizes[0]
    head = ["network"]
    for size in sizes:
        kept = "" if size["allocator"] == "default" else ", memory kept"
        for mode in ("training", "eval"):
            head += [f"{mode} ms{kept}", "times as fast", "of ceiling"]
        head += [f"peak MiB{kept}", "of the field's"]
    lines = [
        f"### {_describe_size(first)}, {settings['num_classes']} classes"
        + (", contended" if settings["contended"] else ""),
        "",
        _cells(head),
        "|" + " --- |" * len(head),
    ]
    for name, entry in first["variants"].items():
        lines.append(_cells([entry["label"], *(c for s in sizes for c in _row(s, name))]))
    rates = ", ".join(f"{size['ceiling']['gflops']:.1f}" for size in sizes)
    lines += [
        "",
        f"Ceiling, a float32 matrix product in the cache: {rates} GFLOP/s"
        + (" (before the other process started)." if settings["contended"] else "."),
    ]
    names = {"train": "training", "eval": "eval"}
    for size in sizes:
        kept = "" if size["allocator"] == "default" else ", memory kept"
        for item in size["fused_against"]:
            own, other = (size["variants"][item[key]]["label"] for key in ("variant", "reference"))
            lines.append(
                f"- {names[item['mode']]}{kept}: {own} is {item['speedup']['median']:.2f} times as "
                f"fast as {other}"
            )
    return "\n".join(lines)


def _cells(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _row(size: Mapping[str, Any], name: str) -> list[str]:
    """The cells of a variant in one group of columns."""
    entry = size["variants"][name]
    if entry["status"] != "measured":
        return [entry["status"], *[""] * 7]
    cells = []
    for mode in ("train", "eval"):
        timed = entry[mode]
        low, median, high = (1e3 * timed[key] for key in ("low", "median", "high"))
        cells.append(f"{median:.1f} ({low:.1f} to {high:.1f})")
        ratio = timed.get("speedup")
        cells.append(
            "-" if ratio is None else "{median:.2f} ({low:.2f} to {high:.2f})".format(**ratio)
        )
        cells.append(
            f"{timed['fraction_of_ceiling']:.0%}" if "fraction_of_ceiling" in timed else "-"
        )
    cells.append(f"{entry['peak_bytes'] / _MIB:.0f}")
    cells.append(f"{entry['peak_ratio']:.2f}" if "peak_ratio" in entry else "-")
    return cells


def _legend(results: Mapping[str, Any]) -> str:
    """Say what the columns mean and what has to be known of single rows."""
    entries = {name: entry for size in results["sizes"] for name, entry in size["variants"].items()}
    network = results["settings"]["network"]
    is_pointnet = network == "pointnet"
    reference = entries[REFERENCES[network]]["label"]
    penalty = " + 0.001 orthogonality penalty" if is_pointnet else ""
    memory = (
        "the most bytes of tensors on the GPU"
        if results["settings"]["device"] == "cuda"
        else "the most bytes that the process ever held, less what it held after its imports"
    )
    lines = [
        "Times are medians over the rounds (10th to 90th percentile); times as fast: the time of "
        f"{reference} by the row's own (10th to 90th percentile of the ratios within each round).",
        f"A training step is forward, cross entropy{penalty}, backward and "
        "Adam(fused=True), for every network.",
        *([_CEILING] if is_pointnet else []),
        f"Peak: training steps in a process of its own, {memory}.",
    ]
    if "keep" in results["settings"]["allocators"]:
        kept = " ".join(f"{key}={value}" for key, value in ALLOCATORS["keep"].items())
        lines.append(f"Memory kept: in processes with {kept}.")
    lines += [f"{entry['label']}: {entry['note']}." for entry in entries.values() if entry["note"]]
    for size in results["sizes"]:
        lines += [
            f"N={size['num_points']}, {size['allocator']} allocator, {entry['label']}: "
            f"{entry['status']} ({entry['reason']})."
            for entry in size["variants"].values()
            if entry["status"] != "measured"
        ]
    return "\n".join(f"- {line}" for line in lines)


def write_results(results: Mapping[str, Any], folder: str | Path) -> tuple[Path, Path]:
    """Write `benchmark.json` (complete) and `benchmark.md` (the tables), each atomically.

    Args:
        results: Of `run_benchmark`.
        folder: Where to; made if missing.

    Returns:
        The paths of the two files.
    """
    folder = Path(folder)
    texts = {"benchmark.json": json.dumps(results, indent=2) + "\n"}
    texts["benchmark.md"] = format_results(results)
    for name, text in texts.items():
        atomic_write(folder / name, text.encode())
    return folder / "benchmark.json", folder / "benchmark.md"
