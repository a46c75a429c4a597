import pytest


@pytest.fixture(params=[True, False], ids=["train", "eval"])
def training(request):
    return request.param


@pytest.fixture(autouse=True)
def _small_inputs_run_fused(monkeypatch):
    """As "auto" would take the plain path for the few points of these tests."""
    monkeypatch.setattr("sharedmlp.ops.cost.MIB", 0)
