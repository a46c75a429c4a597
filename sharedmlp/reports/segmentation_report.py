"""What a person gets to see after a test of a segmentation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sharedmlp.reports.classification import write_text
from sharedmlp.reports.iou import IGNORED
from sharedmlp.reports.segmentation import format_iou_table, write_iou_metrics, write_iou_table
from sharedmlp.reports.worst_clouds import LabelledCloud
from sharedmlp.viz import (
    UNLABELLED,
    ColoredCloud,
    Coloring,
    Screen,
    class_colors,
    plot_clouds,
    plot_confusion,
    save_figure,
    screens_page,
)

_WRONG = (0.84, 0.12, 0.12)


def report_segmentation(
    confusion: Tensor,
    worst: Sequence[LabelledCloud],
    class_names: Sequence[str],
    *,
    metrics: Mapping[str, float],
    category_iou: Mapping[str, float],
    name_cloud: Callable[[int], str],
    up_axis: str,
    folder: Path | None,
    ckpt_path: str | None,
) -> dict[str, Path]:
    """Print the table of a test, and write the metrics, the table and pictures.

    Args:
        confusion: Counts (num_classes, num_classes) of points, a row a true class.
        worst: The clouds to draw.
        class_names: The names of the classes, in the order of the labels.
        metrics: What was measured, by name without the stage.
        category_iou: The mean intersection over union of each category of shapes, if any.
        name_cloud: Returns the name of a cloud by its index.
        up_axis: The axis that points up in the clouds.
        folder: Where metrics, the table and the pictures go; None writes nothing.
        ckpt_path: The checkpoint that was tested.

    Returns:
        What was written: for each file its description and path.
    """
    totals = {name: value for name, value in metrics.items() if name != "loss"}
    print(f"\n{format_iou_table(confusion, class_names, totals)}\n")
    if folder is None:
        return {}
    written = {
        "test metrics": folder / "test_metrics.json",
        "test by class": folder / "test_classes.csv",
        "confusion matrix": folder / "confusion_matrix.png",
    }
    write_iou_metrics(
        written["test metrics"], confusion, class_names, metrics, category_iou, ckpt_path
    )
    write_iou_table(written["test by class"], confusion, class_names)
    save_figure(plot_confusion(confusion, class_names, unit="points"), written["confusion matrix"])
    if worst:
        written["worst clouds"] = folder / "worst_clouds.png"
        written["worst clouds, to turn"] = folder / "worst_clouds.html"
        _draw_clouds(worst, class_names, name_cloud, up_axis, written["worst clouds"])
        screens = [_make_screen(cloud, class_names, name_cloud(cloud.position)) for cloud in worst]
        write_text(written["worst clouds, to turn"], screens_page(screens, up_axis=up_axis))
    return written


def _draw_clouds(
    worst: Sequence[LabelledCloud],
    class_names: Sequence[str],
    name_cloud: Callable[[int], str],
    up_axis: str,
    path: Path,
) -> None:
    """Draw truth, prediction and errors of each cloud side by side."""
    palette = np.concatenate([class_colors(len(class_names)), [UNLABELLED]])
    panels, titles, colors, seen = [], [], [], set()
    for cloud in worst:
        labels, predictions = cloud.labels.numpy(), cloud.predictions.numpy()
        wrong = (labels != predictions) & (labels != IGNORED)
        panels += [cloud.points.float().numpy()[:, :3]] * 3
        titles += [
            f"{name_cloud(cloud.position)}\ntrue",
            f"predicted, mean IoU {cloud.iou:.0%}",
            f"wrong: {wrong.sum() / max((labels != IGNORED).sum(), 1):.0%} of the points",
        ]
        colors += [palette[labels], palette[predictions]]
        colors += [np.where(wrong[:, None], _WRONG, UNLABELLED)]
        seen |= set(labels.tolist()) | set(predictions.tolist())
    legend = {class_names[label]: palette[label] for label in sorted(seen - {IGNORED})}
    if IGNORED in seen:
        legend["no label"] = palette[IGNORED]
    legend["wrong"] = np.array(_WRONG)
    # All in one picture have one scale, and shapes may differ: each is as large as the others.
    scaled = [_fit(points) for points in panels]
    save_figure(
        plot_clouds(scaled, titles, colors=colors, legend=legend, columns=3, up_axis=up_axis), path
    )


def _fit(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return points within the unit sphere around the middle of their box."""
    centered = points - (points.min(0) + points.max(0)) / 2
    scaled: NDArray[np.float32] = centered / (np.linalg.norm(centered, axis=1).max() or 1.0)
    return scaled


def _make_screen(cloud: LabelledCloud, class_names: Sequence[str], name: str) -> Screen:
    labels, predictions = cloud.labels.numpy(), cloud.predictions.numpy()
    names = [*class_names, "no label"]
    unlabelled = len(class_names)
    errors = np.where(labels == IGNORED, 2, (labels != predictions).astype(np.int64))
    true = np.where(labels == IGNORED, unlabelled, labels)
    colorings = [
        Coloring("true", true, names, background=[unlabelled]),
        Coloring("predicted", predictions, names, background=[unlabelled]),
        Coloring("error", errors, ["right", "wrong", "no label"], background=[0, 2]),
    ]
    points = cloud.points.float().numpy()[:, :3]
    return Screen(f"{name}\nmean IoU {cloud.iou:.0%}", [ColoredCloud(points, "", colorings)])
