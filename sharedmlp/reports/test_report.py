"""What a person gets to see after a test of a classifier."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from sharedmlp.data import PointCloudDataset
from sharedmlp.reports.classification import (
    format_table,
    write_test_metrics,
    write_test_table,
    write_text,
)
from sharedmlp.viz import clouds_page, plot_clouds, plot_confusion, save_figure

# The number of misclassified clouds that are drawn, each beside an example.
_MOST_MISTAKES = 24
_PAIRS_IN_A_ROW = 3

Mistake = tuple[int, int, int, float]


def report_test(
    confusion: Tensor,
    mistakes: Sequence[Mistake],
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
        mistakes: `(index, label, prediction, probability)` of each misclassified cloud.
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
    mistakes: Sequence[Mistake],
    dataset: PointCloudDataset,
    class_names: Sequence[str],
    up_axis: str,
    folder: Path,
) -> dict[str, Path]:
    """Draw misclassified clouds, spread over all of them, and return the files.

    Beside each stands a cloud that is what the other one was taken for.
    """
    if not mistakes:
        return {}
    mistakes = sorted(mistakes)
    step = max(1.0, len(mistakes) / _MOST_MISTAKES)
    some = [mistakes[int(step * n)] for n in range(min(len(mistakes), _MOST_MISTAKES))]
    clouds, titles = [], []
    examples = _find_examples(mistakes, some, dataset)
    for (index, label, prediction, probability), example in zip(some, examples, strict=True):
        clouds.append(dataset[index]["points"])
        titles.append(
            f"predicted {class_names[prediction]} ({probability:.0%})\n"
            f"true {class_names[label]}\n{_file_name(dataset, index)}"
        )
        if example is None:  # an empty place keeps the pairs together
            clouds.append(torch.zeros(1, 3))
            titles.append(f"no {class_names[prediction]} in the test\n\n")
        else:
            clouds.append(dataset[example]["points"])
            titles.append(f"a true {class_names[prediction]}\n\n{_file_name(dataset, example)}")
    columns = min(2 * _PAIRS_IN_A_ROW, len(clouds))
    picture, page = folder / "misclassified.png", folder / "misclassified.html"
    save_figure(plot_clouds(clouds, titles, columns=columns, up_axis=up_axis), picture)
    # Fewer in a row, where they can be turned.
    write_text(page, clouds_page(clouds, titles, columns=min(2, columns), up_axis=up_axis))
    which = "misclassified"
    if len(some) < len(mistakes):
        which = f"{len(some)} of {len(mistakes)} {which}"
    return {which: picture, f"{which}, to turn": page}


def _find_examples(
    mistakes: Sequence[Mistake], some: Sequence[Mistake], dataset: PointCloudDataset
) -> list[int | None]:
    """Return for some mistakes a cloud of the predicted class, None if the test has none.

    One that was classified correctly, if there is one; another one for each mistake, while there
    are any.
    """
    wrong = {index for index, *_ in mistakes}
    by_class: dict[int, list[int]] = {}
    for index in map(int, dataset.indices):
        by_class.setdefault(int(dataset.pool.labels[index]), []).append(index)
    taken = Counter[int]()
    examples: list[int | None] = []
    for _, _, prediction, _ in some:
        clouds = by_class.get(prediction, [])
        chosen = [index for index in clouds if index not in wrong] or clouds
        examples.append(chosen[taken[prediction] % len(chosen)] if chosen else None)
        taken[prediction] += 1
    return examples


def _file_name(dataset: PointCloudDataset, index: int) -> str:
    return Path(dataset.pool.names[index]).name
