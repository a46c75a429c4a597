"""Folders of the Hugging Face Hub, offline."""

import json
import sys
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from torch import nn

from sharedmlp import create_model
from sharedmlp.models import PointNet
from tests.formula import randomize
from tests.tolerances import assert_close

METADATA = {"class_names": ["a", "b", "c", "d"], "up_axis": "y", "temperature": 0.5}
OPTIONS: dict[str, Any] = {
    "in_channels": 6,
    "transforms": False,
    "dropout": 0.1,
    "head_channels": (12,),
}
WIDTHS: dict[str, Any] = {"local_channels": (8, 8), "global_channels": (8, 16)}


@pytest.fixture
def model():
    model = PointNet(4, backend="conv1d", norm="sync_batch", fused=False, **OPTIONS, **WIDTHS)
    randomize(model)
    model.metadata = dict(METADATA)
    return model.eval()


@pytest.fixture
def folder(model, tmp_path, monkeypatch):
    def offline(*args, **kwargs):
        raise AssertionError("a request to the network")

    monkeypatch.setattr("socket.socket.connect", offline)
    assert model.save_pretrained(tmp_path / "saved") is None
    return tmp_path / "saved"


def test_the_same_options_weights_and_metadata_come_back(model, folder):
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "model.safetensors",
        "README.md",
    }
    again = PointNet.from_pretrained(folder)
    assert isinstance(again, PointNet)
    assert isinstance(again, huggingface_hub.PyTorchModelHubMixin)
    assert again.options == model.options
    assert again.metadata == METADATA
    assert not again.training
    state = model.state_dict()
    assert set(again.state_dict()) == set(state)
    for name, value in again.state_dict().items():
        assert torch.equal(value, state[name]), name
    points = torch.randn(3, 9, 6)
    with torch.no_grad():
        assert_close(again(points), model(points))


def test_it_comes_back_on_another_backend(model, folder):
    other = PointNet.from_pretrained(folder, backend="conv2d", fused="auto")
    assert isinstance(other.local_mlp.layers[0].linear, nn.Conv2d)
    assert other.options == {**model.options, "backend": "conv2d", "fused": "auto"}
    points = torch.randn(3, 9, 6)
    with torch.no_grad():
        assert_close(other(points), model(points), kind="fused")


def test_what_came_back_is_saved_alike_and_trains(folder, tmp_path):
    again = PointNet.from_pretrained(str(folder), norm="batch").train()
    again(torch.randn(3, 9, 6)).sum().backward()
    again.save_pretrained(tmp_path / "second")
    config = json.loads((tmp_path / "second" / "config.json").read_text())
    assert config == {**json.loads((folder / "config.json").read_text()), "norm": "batch"}
    assert config["metadata"] == METADATA
    assert config["num_classes"] == 4


def test_saving_leaves_the_model_as_it_was(model, tmp_path):
    model.train()
    before = [(name, id(p), p.clone()) for name, p in model.named_parameters()]
    model.save_pretrained(tmp_path)
    assert type(model) is PointNet
    assert model.training
    for (name, identity, value), (other, parameter) in zip(
        before, model.named_parameters(), strict=True
    ):
        assert (name, identity) == (other, id(parameter))
        assert torch.equal(value, parameter)


def test_weights_that_do_not_fit_are_an_error(folder):
    with pytest.raises(RuntimeError, match="input_tnet"):
        PointNet.from_pretrained(folder, transforms=True)
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"saved has no config\.json"):
        PointNet.from_pretrained(folder, num_classes=4)


def test_pushing_uploads_the_same_files(model, folder, monkeypatch, tmp_path):
    uploaded = {}

    def upload(api, *, repo_id, folder_path, **options):
        uploaded[repo_id] = {path.name: path.read_bytes() for path in folder_path.iterdir()}

    monkeypatch.setattr(
        huggingface_hub.HfApi,
        "create_repo",
        lambda api, repo_id, **options: SimpleNamespace(repo_id=repo_id),
    )
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload)
    model.save_pretrained(tmp_path / "pushed", push_to_hub=True, repo_id="someone/network")
    assert uploaded == {"someone/network": {p.name: p.read_bytes() for p in folder.iterdir()}}


@pytest.mark.parametrize("package", ["huggingface_hub", "safetensors.torch"])
def test_without_the_extra_everything_else_works(package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "sharedmlp.models.hub", raising=False)
    model = create_model("pointnet_vanilla", num_classes=3).eval()
    assert model(torch.randn(1, 4, 3)).shape == (1, 3)
    for call in (model.save_pretrained, PointNet.from_pretrained):
        with pytest.raises(ImportError, match=r"pip install 'sharedmlp\[hub\]'"):
            call(tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []
