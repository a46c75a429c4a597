"""Every test starts from one seed, so that a failure comes back."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
