"""Charts: a confusion matrix, a benchmark, training runs; and figures as files."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread
from numpy.typing import ArrayLike, NDArray

from sharedmlp.utils.files import atomic_path
from sharedmlp.viz.labels import axis_names, label_style, text_width

_DPI = 150
_FEW_CLASSES = 16  # up to which the cells of a confusion matrix are large


def plot_confusion(
    confusion: ArrayLike, class_names: Sequence[str], *, unit: str = "clouds"
) -> Figure:
    """Draw a confusion matrix, colored by the share of each true class.

    A cell holds that share in percent and the number of clouds, and nothing without any.

    Args:
        confusion: `(num_classes, num_classes)` counts, a row a true class, a column a predicted
            one.
        class_names: Names of the classes, in the order of the rows.
        unit: What is counted, such as points.

    Raises:
        ValueError: If the matrix is not square with one row a name.
    """
    counts = np.asarray(confusion)
    num_classes = len(class_names)
    if counts.shape != (num_classes, num_classes):
        raise ValueError(
            f"expected a confusion matrix of shape ({num_classes}, {num_classes}) for "
            f"{num_classes} class names, got shape {counts.shape}"
        )
    totals = counts.sum(axis=1)
    shares = counts / np.maximum(totals, 1)[:, None]
    few = num_classes <= _FEW_CLASSES
    # What the picture is made for: to be read whole if there are few classes, else by zooming in.
    cell, size = (0.62, 9) if few else (0.42, 5.5)
    side = cell * num_classes
    names = axis_names(class_names)
    style = label_style(names)
    # By hand, in inches: the layout engines take seconds for a matrix of 40 classes.
    rows = [f"{name} ({_short_count(total)})" for name, total in zip(names, totals, strict=True)]
    left, bottom = (0.5 + 0.085 * max(map(text_width, texts)) for texts in (rows, names))
    width, height = max(left + side + 0.3, 5.0), bottom + side + 0.8
    figure = Figure(figsize=(width, height))
    place = ((left + width - side - 0.3) / 2 / width, bottom / height, side / width, side / height)
    axes = figure.add_axes(place)
    axes.imshow(shares, vmin=0.0, vmax=1.0, cmap="Blues")
    label_size = 9 if few else 8
    axes.set_xticks(range(num_classes), names, rotation=90, fontsize=label_size, **style)
    axes.set_yticks(range(num_classes), rows, fontsize=label_size, **style)
    axes.set_xlabel("predicted")
    axes.set_ylabel(f"true ({unit})")
    figure.suptitle(_confusion_title(counts, unit), y=1 - 0.25 / height, va="center", fontsize=11)
    for row, column in np.argwhere(counts > 0):
        share = shares[row, column]
        axes.text(
            column,
            row,
            f"{_percent(share)}\n({_short_count(counts[row, column])})",
            ha="center",
            va="center",
            fontsize=size,
            color="white" if share > 0.5 else "black",
        )
    return figure


def _confusion_title(counts: NDArray[Any], unit: str) -> str:
    total, totals = counts.sum(), counts.sum(axis=1)
    if not total:
        return f"confusion matrix of no {unit}"
    known = totals > 0
    mean_class = (counts.diagonal()[known] / totals[known]).mean()
    return (
        f"confusion matrix of {total} {unit}\noverall accuracy {counts.trace() / total:.1%}, "
        f"mean class accuracy {mean_class:.1%}"
    )


def _short_count(count: int) -> str:
    """Return a count of at most five digits, or in thousands or millions."""
    for limit, divisor, suffix in ((10**5, 1, ""), (10**8, 10**3, "k")):
        if count < limit:
            return f"{count // divisor}{suffix}"
    return f"{count // 10**6}M"


def _percent(share: float) -> str:
    """Return a share without decimals, but none of a few clouds of many as 0% or 100%."""
    if 0 < share < 0.005:
        return "<1%"
    return ">99%" if 0.995 <= share < 1 else f"{share:.0%}"


def plot_benchmark(results: Mapping[str, Any]) -> Figure:
    """Draw a benchmark: a row of axes a size and allocator, with times and peak memory.

    A bar is the median, its line reaches from the 10th to the 90th percentile, and the number
    beside it is how many times as fast as the reference that variant was, or which part of its
    memory it took. Fused networks have a color of their own and bold names.

    Args:
        results: Of `sharedmlp.benchmark.run_benchmark`.
    """
    sizes = results["sizes"]
    bars = max(len(size["variants"]) for size in sizes)
    figure = Figure(figsize=(14, len(sizes) * (1.2 + 0.3 * bars)), layout="constrained")
    for row, size in enumerate(sizes):
        entries = [e for e in size["variants"].values() if e["status"] == "measured"]
        for column, mode in enumerate(("train", "eval", "memory")):
            axes = figure.add_subplot(len(sizes), 3, 3 * row + column + 1)
            _draw_bars(axes, entries, mode)
            if column == 0:
                for label, entry in zip(axes.get_yticklabels(), entries, strict=True):
                    label.set_fontweight("bold" if entry["kind"] == "fused" else "normal")
            else:
                axes.set_yticklabels([])
            name = {"train": "training step, ms", "eval": "evaluation, ms"}.get(mode, "peak, MiB")
            kept = "" if size["allocator"] == "default" else ", memory kept"
            axes.set_xlabel(f"{name} (B={size['batch_size']}, N={size['num_points']}{kept})")
    return figure


def _draw_bars(axes: Axes, entries: Sequence[Mapping[str, Any]], mode: str) -> None:
    """Draw one bar a variant: its times, or the memory that it took."""
    colors = ["tab:orange" if entry["kind"] == "fused" else "tab:blue" for entry in entries]
    places = range(len(entries))
    if mode == "memory":
        ends = np.array([entry["peak_bytes"] / 2**20 for entry in entries])
        texts = [f" {e['peak_ratio']:.2f}" if "peak_ratio" in e else "" for e in entries]
        axes.barh(places, ends, color=colors)
    else:
        low, median, ends = (
            np.array([1e3 * entry[mode][key] for entry in entries])
            for key in ("low", "median", "high")
        )
        error = np.stack([median - low, ends - median])
        axes.barh(places, median, xerr=error, color=colors, ecolor="gray", capsize=2)
        ratios = [entry[mode].get("speedup") for entry in entries]
        texts = [f" {ratio['median']:.2f}x" if ratio else "" for ratio in ratios]
    for place, end, text in zip(places, ends, texts, strict=True):
        axes.text(end, place, text, va="center", fontsize=8)
    axes.set_yticks(places, [entry["label"] for entry in entries])
    axes.invert_yaxis()
    axes.margins(x=0.15)


def plot_growth(runs: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw how time and peak memory grow with a setting: a row of axes a run, a line a variant.

    Both axes are logarithmic; a vertical line reaches from the 10th to the 90th percentile.

    Args:
        runs: Of `sharedmlp.benchmark.run_benchmark`, each at several numbers of points, or of
            neighbors, with one allocator.
    """
    figure = Figure(figsize=(13, 3.8 * len(runs)), layout="constrained")
    for row, results in enumerate(runs):
        sizes = results["sizes"]
        several_points = len({size["num_points"] for size in sizes}) > 1
        setting = "num_points" if several_points else "num_neighbors"
        first = sizes[0]
        fixed = f"B={first['batch_size']}"
        fixed += "" if several_points else f", N={first['num_points']}"
        for column, mode in enumerate(("train", "eval", "memory")):
            axes = figure.add_subplot(len(runs), 3, 3 * row + column + 1)
            for name in first["variants"]:
                _draw_growth(axes, sizes, name, mode, setting)
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.set_xticks([s[setting] for s in sizes], [str(s[setting]) for s in sizes])
            axes.set_xlabel({"num_points": "points N", "num_neighbors": "neighbors k"}[setting])
            name = {"train": "training step, s", "eval": "evaluation, s"}.get(mode, "peak, MiB")
            axes.set_ylabel(f"{name} ({fixed})")
            axes.grid(alpha=0.3, which="both")
            if column == 0:
                axes.legend(fontsize=8)
    return figure


def _draw_growth(
    axes: Axes, sizes: Sequence[Mapping[str, Any]], name: str, mode: str, setting: str
) -> None:
    """Draw the line of one variant through the sizes at which it was measured."""
    measured = [size for size in sizes if size["variants"][name]["status"] == "measured"]
    places = [size[setting] for size in measured]
    entries = [size["variants"][name] for size in measured]
    entry = sizes[0]["variants"][name]
    color = "tab:orange" if entry["kind"] == "fused" else None
    if mode == "memory":
        axes.plot(
            places,
            [e["peak_bytes"] / 2**20 for e in entries],
            "o-",
            color=color,
            label=entry["label"],
        )
        return
    low, median, high = (
        np.array([e[mode][key] for e in entries]) for key in ("low", "median", "high")
    )
    axes.errorbar(
        places, median, (median - low, high - median), fmt="o-", color=color, label=entry["label"]
    )


def plot_runs(runs: Mapping[str, Sequence[ArrayLike]], label: str) -> Figure:
    """Draw what training runs measured after each epoch, a color a group of runs.

    Args:
        runs: Of each group, the values of each of its runs, `(epochs,)`.
        label: What the values are.
    """
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    for number, (name, group) in enumerate(runs.items()):
        for run, values in enumerate(group):
            series = np.asarray(values)
            axes.plot(
                np.arange(1, len(series) + 1),
                series,
                color=f"C{number}",
                linewidth=1.2,
                label=name if run == 0 else None,
            )
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as a PNG file, whole or not at all.

    Args:
        figure: What to write.
        path: The file to write or replace.
    """
    with atomic_path(Path(path)) as partial, warnings.catch_warnings():
        # Of a character that no installed font has: a box stands for it.
        warnings.filterwarnings("ignore", ".*missing from font.*")
        figure.savefig(partial, format="png", dpi=_DPI)


def read_picture(path: str | Path) -> NDArray[np.uint8]:
    """Return the pixels of a PNG file, (height, width, 3 or 4), from 0 to 255."""
    return (255 * imread(path)).round().astype(np.uint8)
