import pytest
import torch
from torch import nn

from sharedmlp.train.losses import PointCrossEntropy


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, [1.0, 0.5, 2.0]])
def test_it_is_torchs_over_all_points_that_count(weights, smoothing):
    logits, labels = torch.randn(2, 7, 3), torch.randint(-1, 3, (2, 7))
    tensor = None if weights is None else torch.tensor(weights)
    theirs = nn.CrossEntropyLoss(tensor, ignore_index=-1, label_smoothing=smoothing)
    ours = PointCrossEntropy(weights, smoothing)
    torch.testing.assert_close(ours(logits, labels), theirs(logits.flatten(0, 1), labels.flatten()))
    counted = labels[labels >= 0]
    expected = len(counted) if tensor is None else tensor[counted].sum()
    assert float(ours.count(labels)) == pytest.approx(float(expected))


@pytest.mark.parametrize("weights", [None, [1.0, 0.5, 2.0]])
def test_a_batch_without_labels_adds_nothing(weights):
    logits = torch.randn(2, 7, 3, requires_grad=True)
    loss = PointCrossEntropy(weights)(logits, torch.full((2, 7), -1))
    loss.backward()
    assert loss == 0
    assert logits.grad is not None
    assert not logits.grad.any()
