import pytest


@pytest.fixture(autouse=True)
def _small_inputs_run_fused(monkeypatch):
    """As `fuse` would leave the few points of these tests to the plain path."""
    monkeypatch.setattr("sharedmlp.ops.plan.fold_pays", lambda *_: True)
    monkeypatch.setattr("sharedmlp.ops.plan.fuse_pays", lambda *_: True)
