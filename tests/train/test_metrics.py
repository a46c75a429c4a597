import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy

from sharedmlp.train.metrics import MeanClassAccuracy, MeanLoss


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
