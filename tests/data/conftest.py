import pytest

from sharedmlp.data import download
from sharedmlp.data.modelnet import MODELNETS

from .tiny_modelnet import ZIP, describe
from .web import serve


@pytest.fixture
def web(monkeypatch):
    """A server of the tiny set, which the table names instead of ModelNet10."""
    monkeypatch.setattr(download, "_PAUSE", 0.0)
    with serve(ZIP) as web:
        monkeypatch.setitem(MODELNETS, "modelnet10", describe(ZIP, web.url))
        yield web
