"""A toy network, registered in this file alone, goes wherever PointNet goes."""

import json
from typing import Any, NamedTuple

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from sharedmlp import create_model, list_models
from sharedmlp.export import export_model
from sharedmlp.inference.checkpoint import load_trained
from sharedmlp.inference.predict import predict_files
from sharedmlp.layers import SharedMLPMaxPool
from sharedmlp.models import (
    MaxPooledModel,
    PointCloudModel,
    PointNet,
    ThirdPartyPointNet,
    load_safetensors,
    register_model,
    registry,
    save_safetensors,
)
from sharedmlp.models.third_party.pointnet import DEFAULTS
from sharedmlp.viz import find_critical_sets
from tests.tolerances import assert_close

METADATA = {"class_names": ["a", "b", "c"], "num_points": 20, "center": "mean"}


class ToyOutput(NamedTuple):
    logits: Tensor


class Toy(PointCloudModel):
    """One pointwise layer, a max, one linear layer."""

    def __init__(
        self,
        num_classes,
        in_channels=3,
        *,
        width=8,
        backend="linear",
        norm="batch",
        dropout=0.0,
        fused="auto",
        search_precision="float32",
    ):
        computation = {
            "backend": backend,
            "norm": norm,
            "fused": fused,
            "search_precision": search_precision,
        }
        super().__init__(
            {
                "num_classes": num_classes,
                "in_channels": in_channels,
                "width": width,
                "dropout": dropout,
            },
            computation,
        )
        self.pool = SharedMLPMaxPool([in_channels, width], dropout=dropout, **computation)
        self.reset_classifier(num_classes)

    def forward_features(self, points):
        return self.pool(points)

    def forward(self, points):
        return self.head(self.forward_features(points))

    def forward_detailed(self, points):
        return ToyOutput(self(points))

    def reset_classifier(self, num_classes):
        self.architecture["num_classes"] = self.options["num_classes"] = num_classes
        width = self.architecture["width"]
        self.head = nn.Linear(width, num_classes) if num_classes else nn.Identity()


@pytest.fixture(autouse=True)
def _toy(monkeypatch):
    monkeypatch.setattr(registry, "_MODELS", dict(registry._MODELS))
    register_model("toy_wide", tags=("toy",), width=16)(register_model("toy", tags=("toy",))(Toy))


@pytest.fixture
def model():
    model = create_model("toy_wide", 3, backend="conv1d", dropout=0.1)
    model(torch.randn(9, 5, 3))  # running statistics
    model.metadata = dict(METADATA)
    return model.eval()


def test_it_is_made_and_listed_by_name_and_tag(model):
    assert type(model) is Toy
    assert model.architecture["width"] == 16
    assert create_model("toy", width=5).architecture["width"] == 5
    known = ["dgcnn", "pointnet", "pointnet2_msg", "pointnet2_ssg", "pointnet_vanilla"]
    assert list_models(task="classification") == [*known, "toy", "toy_wide"]
    assert {*known, "toy", "toy_wide"} < set(list_models())
    assert (
        list_models(tag="toy")
        == list_models(task="classification", tag="toy")
        == ["toy", "toy_wide"]
    )
    assert list_models(task="detection") == []
    assert list_models(tag="third_party") == ["pointnet_third_party"]


def test_the_same_name_for_another_task_is_another_network(model):
    class Segmenting(Toy):
        pass

    register_model("toy", task="detection")(Segmenting)
    assert type(create_model("toy", task="detection")) is Segmenting
    assert type(create_model("toy")) is Toy
    assert list_models(task="detection") == ["toy"]
    with pytest.raises(ValueError, match="unknown model 'pointnet': choose one of toy"):
        create_model("pointnet", task="detection")
    with pytest.raises(ValueError, match="task 'completion': choose one of classification, det"):
        create_model("toy", task="completion")
    with pytest.raises(ValueError, match="a model 'toy' for detection already, a Segmenting"):
        register_model("toy", task="detection")(Toy)


def check_same(other, model):
    assert isinstance(other, Toy)
    assert not other.training
    assert other.metadata == model.metadata
    points = torch.randn(4, 7, 3)
    with torch.no_grad():
        assert_close(other(points), model(points), kind="fused")


def test_it_is_saved_and_loaded_on_any_backend(model, tmp_path):
    save_safetensors(model, tmp_path / "toy.safetensors")
    check_same(load_safetensors(tmp_path / "toy.safetensors"), model)
    other: Any = load_safetensors(tmp_path / "toy.safetensors", backend="conv2d")
    assert isinstance(other.pool.layers[0].linear, nn.Conv2d)
    check_same(other, model)


def test_a_file_says_for_which_task_its_network_is(model, tmp_path):
    class Segmenting(Toy):
        pass

    register_model("toy", task="detection")(Segmenting)
    save_safetensors(create_model("toy", 3, task="detection"), tmp_path / "a.safetensors")
    assert type(load_safetensors(tmp_path / "a.safetensors")) is Segmenting


def test_it_goes_through_the_hubs_folders(model, tmp_path):
    model.save_pretrained(tmp_path / "hub")
    check_same(Toy.from_pretrained(tmp_path / "hub"), model)
    check_same(PointCloudModel.from_pretrained(tmp_path / "hub", backend="linear"), model)
    with pytest.raises(ValueError, match="has a Toy, expected a PointNet"):
        PointNet.from_pretrained(tmp_path / "hub")


@pytest.mark.parametrize("format", ["torch_export", "safetensors"])
def test_it_is_exported(model, format, tmp_path):
    assert export_model(model, tmp_path / "file", format).max_difference < 1e-5
    assert (tmp_path / "file").is_file()


def test_it_says_what_is_in_files(model, tmp_path):
    np.save(tmp_path / "cloud.npy", np.random.default_rng(0).normal(size=(30, 3)))
    ((path, probabilities),) = predict_files(model, [tmp_path / "cloud.npy"])
    assert path.name == "cloud.npy"
    assert isinstance(probabilities, torch.Tensor)
    assert probabilities.shape == (3,)
    torch.testing.assert_close(probabilities.sum(), torch.tensor(1.0))


def test_its_checkpoint_is_loaded(model, tmp_path):
    checkpoint = {
        "hyper_parameters": {
            "model": "toy_wide",
            "class_names": ["a", "b", "c"],
            "fused": True,
            "dropout": 0.1,
        },
        "state_dict": {f"model.{name}": value for name, value in model.state_dict().items()},
        "preprocessing": {"num_points": 20, "centre": "mean"},  # as it was written once
    }
    torch.save(checkpoint, tmp_path / "a.ckpt")
    check_same(load_trained(tmp_path / "a.ckpt"), model)
    assert load_trained(tmp_path / "a.ckpt", fused=False).options["fused"] is False
    with pytest.raises(ValueError, match=r"a\.ckpt has other weights than those of 'toy': .*size"):
        load_trained(tmp_path / "a.ckpt", model="toy")


def test_features_and_another_number_of_classes(model):
    points = torch.randn(2, 9, 3)
    features = create_model("toy", 0).eval()
    assert features(points).shape == (2, 8)
    assert model.num_classes == 3
    assert model.extra_loss(model.forward_detailed(points)) is None


def test_a_network_without_one_max_has_no_critical_points(model):
    assert isinstance(PointNet(3), MaxPooledModel)
    with pytest.raises(ValueError, match="a Toy has no critical points"):
        find_critical_sets(model, torch.randn(9, 3))


def test_a_network_that_nobody_registered_is_not_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_MODELS", {})
    with pytest.raises(ValueError, match="a Toy is not registered"):
        save_safetensors(Toy(3), tmp_path / "a.safetensors")


def test_a_file_of_a_network_that_is_not_registered_here_names_it(model, tmp_path, monkeypatch):
    save_safetensors(model, tmp_path / "a.safetensors")
    known = {key: value for key, value in registry._MODELS.items() if value.builder is not Toy}
    monkeypatch.setattr(registry, "_MODELS", known)
    with pytest.raises(ValueError, match="unknown model 'toy': choose one of dgcnn, pointnet"):
        load_safetensors(tmp_path / "a.safetensors")


@pytest.mark.parametrize("adds_identity", [False, True])
def test_files_without_a_name_are_pointnets(adds_identity, tmp_path):
    """As they were written when there was but one class, which had all of the options."""
    options: dict[str, Any] = {
        "local_channels": (8,),
        "global_channels": (8, 16),
        "head_channels": (12,),
    }
    model = ThirdPartyPointNet(4, tnet_adds_identity=adds_identity, **options).eval()
    old = model.options
    assert old.keys() >= DEFAULTS.keys()
    metadata = {"up_axis": "y", "centre": "mean"}
    described = {"format": "pt", "options": json.dumps(old), "metadata": json.dumps(metadata)}
    safetensors.torch.save_file(model.state_dict(), tmp_path / "a.safetensors", described)
    folder = tmp_path / "hub"
    folder.mkdir()
    safetensors.torch.save_file(model.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**old, "metadata": metadata}))
    points = torch.randn(3, 9, 3)
    for again in (
        load_safetensors(tmp_path / "a.safetensors"),
        PointNet.from_pretrained(folder),
    ):
        assert isinstance(again, ThirdPartyPointNet) == adds_identity
        assert isinstance(again, PointNet)
        assert again.metadata == {"up_axis": "y", "center": "mean"}
        with torch.no_grad():
            assert torch.equal(again(points), model(points))
