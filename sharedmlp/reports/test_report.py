"""What a person gets to see after a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sharedmlp.reports.classification import (
    format_table,
    write_test_metrics,
    write_test_table,
    write_text,
)
from sharedmlp.train import ClassificationTask, PointCloudDataModule
from sharedmlp.viz import clouds_page, plot_clouds, plot_confusion, save_figure

# Misclassified clouds that are drawn.
_MOST_MISTAKES = 30
_MISTAKES_IN_A_ROW = 6


def report_test(
    task: ClassificationTask,
    data: PointCloudDataModule,
    folder: Path | None,
    ckpt_path: str | None,
) -> dict[str, Path]:
    """Prints the table of the test that has just run, and writes the rest.

    To be called in every process of a distributed test; the first one reports.

    Args:
        task: What was tested.
        data: What it was tested on.
        folder: Where metrics, the table and the pictures go; None writes nothing.
        ckpt_path: The checkpoint that was tested.

    Returns:
        What was written: for each file its description and path.
    """
    # This talks to the other processes.
    confusion = task.test_confusion.compute().cpu()
    if not task.trainer.is_global_zero:
        return {}
    print(f"\n{format_table(confusion, task.class_names)}\n")
    if folder is None:
        return {}
    metrics, table = folder / "test_metrics.json", folder / "test_classes.csv"
    picture = folder / "confusion_matrix.png"
    write_test_metrics(metrics, confusion, task.class_names, ckpt_path)
    write_test_table(table, confusion, task.class_names)
    save_figure(plot_confusion(confusion, task.class_names), picture)
    written = {"test metrics": metrics, "test by class": table, "confusion matrix": picture}
    return {**written, **_draw_mistakes(task, data, folder)}


def _draw_mistakes(
    task: ClassificationTask, data: PointCloudDataModule, folder: Path
) -> dict[str, Path]:
    """Draws misclassified clouds, spread over all of them, and returns where."""
    mistakes = sorted(task.test_mistakes)
    if not mistakes:
        return {}
    dataset, class_names = data.datasets["test"], task.class_names
    step = max(1.0, len(mistakes) / _MOST_MISTAKES)
    some = [mistakes[int(step * n)] for n in range(min(len(mistakes), _MOST_MISTAKES))]
    clouds = [dataset[index]["points"] for index, _, _ in some]
    titles = [
        f"predicted {class_names[prediction]}\ntrue {class_names[label]}\n"
        f"{Path(dataset.pool.names[index]).name}"
        for index, label, prediction in some
    ]
    options: dict[str, Any] = {
        "columns": min(_MISTAKES_IN_A_ROW, len(some)),
        "up_axis": data.preprocessing["up_axis"],
    }
    picture, page = folder / "misclassified.png", folder / "misclassified.html"
    save_figure(plot_clouds(clouds, titles, **options), picture)
    write_text(page, clouds_page(clouds, titles, **options))
    which = "misclassified"
    if len(some) < len(mistakes):
        which = f"{len(some)} of {len(mistakes)} {which}"
    return {which: picture, f"{which}, to turn": page}
