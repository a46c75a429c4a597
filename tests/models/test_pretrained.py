"""The network that comes with the package, with its weights."""

import json
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch

import sharedmlp.models
from sharedmlp import create_model
from sharedmlp.data import SHAPE_CLASSES, write_shapes
from sharedmlp.inference.predict import read_network_cloud
from tests.tolerances import assert_close
from tests.train.tiny import write_hdf5

WEIGHTS = Path(sharedmlp.models.__file__).parent / "weights"


def make(**options):
    return create_model("pointnet_vanilla", pretrained="modelnet40", **options)


def make_clouds(count=3, num_points=300):
    return torch.randn(count, num_points, 3, generator=torch.Generator().manual_seed(0)) / 2


def test_it_is_the_same_network_on_every_backend():
    model = make()
    assert not model.training
    assert len(model.metadata["class_names"]) == 40
    assert model.metadata["class_names"][:2] == ["airplane", "bathtub"]
    assert model.metadata["up_axis"] == "z"
    assert model.metadata["scale"] == "unit sphere"
    assert model.options["search_precision"] == "float32"
    card = (WEIGHTS / "pointnet_vanilla_modelnet40.md").read_text()
    assert model.metadata["trained_on"] == {"data": "ModelNet40", "clouds": 8858}
    assert f"a temperature of {model.metadata['temperature']:.3f} " in card
    seen = model.metadata["validation"]
    assert f"which this is | {seen['accuracy']:.1%} |" in card
    assert f"mean confidence ({seen['confidence']:.1%})" in card
    points = make_clouds()
    for backend in ("conv1d", "conv2d"):
        other = make(backend=backend, fused=False)
        assert other.options["backend"] == backend
        assert_close(other(points), model(points))


def test_it_names_what_the_generated_meshes_are(tmp_path):
    """They are none of its training data; most of their classes are among its own."""
    root = write_shapes(tmp_path / "shapes", train_per_class=1, test_per_class=4)
    model = make()
    right = []
    for name in sorted(set(SHAPE_CLASSES) & set(model.metadata["class_names"])):
        for path in sorted((root / name / "test").glob("*.off")):
            label = int(model(read_network_cloud(model, path)[None]).argmax())
            right.append(model.metadata["class_names"][label] == name)
    assert sum(right) / len(right) > 0.5


def test_with_other_classes_only_the_last_layer_is_new():
    model, other = make(), make(num_classes=7, backend="conv1d")
    assert not other.training
    assert other.architecture["num_classes"] == 7
    assert not {"class_names", "temperature", "validation"} & other.metadata.keys()
    assert other.metadata["up_axis"] == "z"
    assert other(make_clouds()).shape == (3, 7)
    features = [network.global_pool(network.local_mlp(make_clouds())) for network in (model, other)]
    assert_close(features[1], features[0])
    hidden = [
        network.head.layers[1](network.head.layers[0](f))
        for network, f in zip((model, other), features, strict=True)
    ]
    assert_close(hidden[1], hidden[0])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("pointnet", {}, "no weights pointnet_modelnet40: there are pointnet_vanilla_modelnet40"),
        ("pointnet_vanilla", {"pretrained": "scannet"}, "no weights pointnet_vanilla_scannet"),
        ("pointnet_vanilla", {"in_channels": 6}, "of 3 channels, got in_channels=6"),
    ],
)
def test_what_there_are_no_weights_for_is_said(name, options, message):
    with pytest.raises(ValueError, match=message):
        create_model(name, **{"pretrained": "modelnet40", **options})


def test_without_safetensors_the_message_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)  # what a missing module looks like
    with pytest.raises(ImportError, match=r"pip install 'sharedmlp\[export\]'"):
        make()


def test_every_file_of_weights_has_a_card_that_says_what_it_is():
    files = sorted(WEIGHTS.glob("*.safetensors"))
    assert files
    for path in files:
        card = path.with_suffix(".md").read_text()
        for heading in ("Data", "Protocol", "Accuracy", "Limits", "Terms"):
            assert f"\n## {heading}\n" in card


def test_the_limits_on_the_card_are_measured_as_it_says(tmp_path, capsys):
    root = write_hdf5(tmp_path / "set")
    for path in WEIGHTS.glob("*.md"):
        (code,) = re.findall(r"^```python\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)
        exec(compile(code.replace("FOLDER", str(root)), path.name, "exec"), {})
    turned, thinned = map(json.loads, capsys.readouterr().out.splitlines())
    assert (len(turned), len(thinned)) == (6, 5)


@pytest.mark.slow
def test_the_temperature_is_measured_as_the_card_says(tmp_path, capsys, monkeypatch):
    root = write_hdf5(tmp_path / "set", train=(30, 30, 30))
    script = Path(__file__).parents[2] / "scripts" / "calibrate_weights.py"
    monkeypatch.setattr(sys, "argv", [script.name, str(root), "--rotations", "2"])
    before = [path.read_bytes() for path in WEIGHTS.iterdir()]
    runpy.run_path(str(script), run_name="__main__")
    printed = capsys.readouterr().out
    assert "10 halves, temperature of the other half: " in printed
    assert "turned, rotations 2: accuracy " in printed
    assert [path.read_bytes() for path in WEIGHTS.iterdir()] == before
