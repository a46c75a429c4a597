import pytest


@pytest.fixture(params=[True, False], ids=["train", "eval"])
def training(request):
    return request.param


@pytest.fixture(params=[True, False], ids=["grad", "no grad"])
def grad(request):
    return request.param


@pytest.fixture(autouse=True)
def _small_inputs_run_fused(monkeypatch):
    """As `fuse` would leave the few points of these tests to the plain path."""
    monkeypatch.setattr("sharedmlp.ops.cost.MIB", 0)
