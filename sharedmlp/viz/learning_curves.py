"""What a training logged after each epoch, as a picture."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from sharedmlp.viz.labels import label_style

_COLUMNS = 3
_PANEL = (4.2, 3.0)  # inches
_MARGIN = {"left": 0.65, "right": 0.15, "bottom": 0.5, "top": 0.35}  # inches, of a panel
# The first panels, and the last one; all others come between, in the order of the columns.
_FIRST = ("loss", "overall_accuracy", "mean_class_accuracy")
_LAST = "learning_rate"
_STAGES = {"train": "C0", "val": "C1"}


def plot_learning_curves(rows: Sequence[Mapping[str, float]]) -> Figure:
    """Draw what was logged after each epoch: a panel a metric, with a line for each stage.

    `train/NAME` and `val/NAME` (or `train_NAME` and `val_NAME`) share a panel; any other column has
    one of its own.

    Args:
        rows: Of each epoch its number as "epoch", from 0, and the values by name; a value may be
            missing.

    Raises:
        ValueError: If nothing was logged.
    """
    panels = _group(rows)
    if not panels:
        raise ValueError("expected rows with a metric beside the epoch, got none")
    columns = min(_COLUMNS, len(panels))
    width, height = _PANEL[0] * columns, _PANEL[1] * -(-len(panels) // columns)
    figure = Figure(figsize=(width, height))
    for number, (name, lines) in enumerate(panels.items()):
        row, column = divmod(number, columns)
        left, top = column * _PANEL[0], height - row * _PANEL[1]
        axes = figure.add_axes(
            (
                (left + _MARGIN["left"]) / width,
                (top - _PANEL[1] + _MARGIN["bottom"]) / height,
                (_PANEL[0] - _MARGIN["left"] - _MARGIN["right"]) / width,
                (_PANEL[1] - _MARGIN["bottom"] - _MARGIN["top"]) / height,
            )
        )
        for stage, key in sorted(lines.items()):
            points = [(row["epoch"] + 1, row[key]) for row in rows if key in row]
            # A marker for the few epochs that make no line.
            marker = "o" if len(points) < 30 else None
            color = _STAGES.get(stage, "C2")
            axes.plot(*zip(*points, strict=True), color=color, marker=marker, ms=3, label=stage)
        if any(lines):
            axes.legend(fontsize=8)
        label = name.replace("_", " ")
        axes.set_title(label, fontsize=10, **label_style([label]))
        axes.set_xlabel("epoch", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if name.endswith("accuracy"):
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.grid(alpha=0.3)
    return figure


def _group(rows: Sequence[Mapping[str, float]]) -> dict[str, dict[str, str]]:
    """Return the panels in their order: of each its lines, a column by stage ("" for none)."""
    keys = dict.fromkeys(key for row in rows for key in row if key not in ("epoch", "step"))
    panels: dict[str, dict[str, str]] = {}
    for key in keys:
        # What is logged by steps and epochs has two columns, and the mean of the epoch is drawn.
        if key.endswith("_step") and key.removesuffix("_step") + "_epoch" in keys:
            continue
        stage, name = _split(key.removesuffix("_epoch"))
        panels.setdefault(name, {})[stage] = key
    order = {name: place for place, name in enumerate([*_FIRST, *panels, _LAST])}
    order |= {name: place for place, name in enumerate(_FIRST)}
    return {name: panels[name] for name in sorted(panels, key=order.__getitem__)}


def _split(key: str) -> tuple[str, str]:
    found = re.fullmatch(r"(train|val)[/_](.+)", key)
    return (found[1], found[2]) if found else ("", key)
