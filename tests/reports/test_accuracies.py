import math

import torch

from sharedmlp.reports.accuracies import accuracies


def test_accuracies_of_a_confusion_matrix():
    result = accuracies(torch.tensor([[8, 2, 0], [3, 1, 0], [0, 0, 0]]))
    assert math.isclose(result.overall, 9 / 14, rel_tol=1e-6)
    assert math.isclose(result.mean_class, (0.8 + 0.25) / 2, rel_tol=1e-6)
    assert result.per_class[:2].tolist() == torch.tensor([0.8, 0.25]).tolist()
    assert math.isnan(result.per_class[2])
