import pytest


@pytest.fixture(params=[True, False], ids=["train", "eval"])
def training(request):
    return request.param
