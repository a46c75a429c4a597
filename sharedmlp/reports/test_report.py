"""What a person gets to see after a test of a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from sharedmlp.data import PointCloudDataset
from sharedmlp.reports.classification import (
    format_table,
    write_test_metrics,
    write_test_table,
    write_text,
)
from sharedmlp.viz import clouds_page, plot_clouds, plot_confusion, save_figure

# The number of misclassified clouds that are drawn.
_MOST_MISTAKES = 30
_MISTAKES_IN_A_ROW = 6


def report_test(
    confusion: Tensor,
    mistakes: Sequence[Sequence[int]],
    dataset: PointCloudDataset,
    class_names: Sequence[str],
    *,
    up_axis: str,
    folder: Path | None,
    ckpt_path: str | None,
) -> dict[str, Path]:
    """Print the table of a test, and write the metrics, the table and pictures.

    Args:
        confusion: Counts (num_classes, num_classes), a row a true class.
        mistakes: `[index, label, prediction]` of each misclassified cloud.
        dataset: The clouds that the indices are of.
        class_names: The names of the classes, in the order of the labels.
        up_axis: The axis that points up in the clouds.
        folder: Where metrics, the table and the pictures go; None writes nothing.
        ckpt_path: The checkpoint that was tested.

    Returns:
        What was written: for each file its description and path.
    """
    print(f"\n{format_table(confusion, class_names)}\n")
    if folder is None:
        return {}
    metrics, table = folder / "test_metrics.json", folder / "test_classes.csv"
    picture = folder / "confusion_matrix.png"
    write_test_metrics(metrics, confusion, class_names, ckpt_path)
    write_test_table(table, confusion, class_names)
    save_figure(plot_confusion(confusion, class_names), picture)
    written = {"test metrics": metrics, "test by class": table, "confusion matrix": picture}
    return {**written, **_draw_mistakes(mistakes, dataset, class_names, up_axis, folder)}


def _draw_mistakes(
    mistakes: Sequence[Sequence[int]],
    dataset: PointCloudDataset,
    class_names: Sequence[str],
    up_axis: str,
    folder: Path,
) -> dict[str, Path]:
    """Draw misclassified clouds, spread over all of them, and return the files."""
    if not mistakes:
        return {}
    mistakes = sorted(mistakes, key=list)
    step = max(1.0, len(mistakes) / _MOST_MISTAKES)
    some = [mistakes[int(step * n)] for n in range(min(len(mistakes), _MOST_MISTAKES))]
    clouds = [dataset[index]["points"] for index, _, _ in some]
    titles = [
        f"predicted {class_names[prediction]}\ntrue {class_names[label]}\n"
        f"{Path(dataset.pool.names[index]).name}"
        for index, label, prediction in some
    ]
    options: dict[str, Any] = {"columns": min(_MISTAKES_IN_A_ROW, len(some)), "up_axis": up_axis}
    picture, page = folder / "misclassified.png", folder / "misclassified.html"
    save_figure(plot_clouds(clouds, titles, **options), picture)
    write_text(page, clouds_page(clouds, titles, **options))
    which = "misclassified"
    if len(some) < len(mistakes):
        which = f"{len(some)} of {len(mistakes)} {which}"
    return {which: picture, f"{which}, to turn": page}
