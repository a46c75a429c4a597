from typing import Any

import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from sharedmlp.train.metrics import MeanClassAccuracy, MeanLoss, PointScore, ShapeMeanIoU
from tests.reports.test_iou import PARTS, make_shapes, plain_iou, plain_shape_iou

AVERAGES: tuple[Any, ...] = ("instance", "class", "none")
SCORES: tuple[Any, ...] = ("overall_accuracy", "mean_class_accuracy", "mean_iou")


def test_mean_class_accuracy_is_the_macro_average_where_every_class_has_clouds():
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, 2])
    logits = torch.randn(9, 3)
    ours, macro = MeanClassAccuracy(3), MulticlassAccuracy(3, average="macro")
    for part in (slice(0, 5), slice(5, 9)):
        ours.update(logits[part], labels[part])
        macro.update(logits[part], labels[part])
    torch.testing.assert_close(ours.compute(), macro.compute())


def test_a_class_without_clouds_does_not_lower_the_mean():
    metric = MeanClassAccuracy(3)
    # Both clouds of class 1 are taken for class 2, which has none.
    metric.update(torch.eye(3)[[0, 0, 2, 2]], torch.tensor([0, 0, 1, 1]))
    assert metric.compute() == 0.5


def test_mean_loss_weights_batches_keeps_the_precision_and_shows_nan():
    metric = MeanLoss()
    first, second = torch.tensor([0.1, 0.4], dtype=torch.float64)
    metric.update(first, 3)
    metric.update(second, 1)
    assert float(metric.compute()) == pytest.approx(0.175, abs=1e-15)
    metric.update(torch.tensor(torch.nan), 1)
    assert metric.compute().isnan()
    metric.reset()
    metric.update(torch.tensor(2.0, dtype=torch.bfloat16), 300)
    assert metric.compute() == 2
    assert metric.compute().dtype == torch.float32


def parts(predictions, labels, categories):
    """All that is measured of shapes with parts, by metrics fed in two batches."""
    classes = 6
    metrics: dict[str, Any] = {
        **{name: PointScore(classes, name) for name in SCORES},
        **{name: ShapeMeanIoU(PARTS, name) for name in AVERAGES},
    }
    for part in (slice(0, 7), slice(7, None)):
        for metric in metrics.values():
            metric.update(predictions[part], labels[part], categories[part])
    return {name: metric.compute() for name, metric in metrics.items()}


def test_metrics_of_points_are_those_of_the_plain_formulas():
    predictions, labels, categories = make_shapes(20)
    values = parts(predictions, labels, categories)
    p, t = predictions.flatten().tolist(), labels.flatten().tolist()
    pairs = [(a, b) for a, b in zip(p, t, strict=True) if b != -1]
    assert float(values["overall_accuracy"]) == pytest.approx(
        sum(a == b for a, b in pairs) / len(pairs)
    )
    recall = [
        sum(a == b == c for a, b in pairs) / sum(b == c for _, b in pairs)
        for c in sorted({b for _, b in pairs})
    ]
    assert float(values["mean_class_accuracy"]) == pytest.approx(sum(recall) / len(recall))
    iou = [value for c in range(6) if (value := plain_iou(p, t, c)) is not None]
    assert float(values["mean_iou"]) == pytest.approx(sum(iou) / len(iou))
    theirs = MulticlassJaccardIndex(6, ignore_index=-1)(predictions.flatten(), labels.flatten())
    torch.testing.assert_close(values["mean_iou"], theirs)


def test_metrics_of_shapes_are_those_of_the_plain_formulas():
    predictions, labels, categories = make_shapes(20, seed=1)
    values = parts(predictions, labels, categories)
    by_category: dict[int, list[float]] = {}
    for p, t, category in zip(
        predictions.tolist(), labels.tolist(), categories.tolist(), strict=True
    ):
        value = plain_shape_iou(p, t, PARTS[category])
        if value is not None:
            by_category.setdefault(category, []).append(value)
    every = [value for some in by_category.values() for value in some]
    assert len(every) == 19
    means = [sum(by_category[c]) / len(by_category[c]) for c in range(3)]
    assert float(values["instance"]) == pytest.approx(sum(every) / 19)
    assert float(values["class"]) == pytest.approx(sum(means) / 3)
    assert values["none"].tolist() == pytest.approx(means)


def test_categories_without_shapes_do_not_count():
    metric = ShapeMeanIoU(PARTS, "class")
    labels = torch.tensor([[0, 0], [5, 5]])
    metric.update(torch.tensor([[0, 1], [5, 5]]), labels, torch.tensor([0, 2]))
    assert float(metric.compute()) == pytest.approx((0.25 + 1) / 2)
