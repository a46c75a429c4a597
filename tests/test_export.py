"""Exported files are run by other programs and compared with the formula of the network."""

import json
import subprocess
import sys
from typing import Any

import onnxruntime
import pytest
import torch
from torch import nn

from sharedmlp import export
from sharedmlp.__main__ import main
from sharedmlp.export import FORMATS, ExportError, export_model
from sharedmlp.models import PointNet, create_model, load_safetensors
from tests.environment import own_environment
from tests.formula import randomize
from tests.models.small import SMALL
from tests.tolerances import assert_close
from tests.train.tiny import CLASSES, write_tree

METADATA = {
    "class_names": ["cup", "lámpara", "tv stand", "x"],
    "num_points": 1024,
    "up_axis": "y",
    "center": "mean",
    "scale": "unit sphere",
    "temperature": 0.5,
}
# One cloud, one point, and numbers that the network was not traced with.
SHAPES = [(1, 1), (1, 300), (2, 1), (5, 33)]


class Noisy(PointNet):
    """Computes something else while it is recorded."""

    noise = 1e-3

    def forward(self, points):
        logits = super().forward(points)
        return logits * (1 + self.noise) if torch.compiler.is_exporting() else logits


def make_model(kind=PointNet, **options):
    small = {"local_channels": (8, 8), "global_channels": (8, 16), "head_channels": (12,)}
    model = kind(4, **{**small, **options})
    randomize(model)
    for tnet in (model.input_tnet, model.feature_tnet):
        if tnet is not None:
            nn.init.normal_(tnet.head.layers[-1].linear.weight, std=0.01)
    model.metadata = dict(METADATA)
    return model


def formula(model, points):
    """The network from bare matrices: x @ W.T + b, batch norm, ReLU, max."""

    def mlp(module, x):
        for layer in module.layers:
            x = x @ layer.linear.weight.flatten(1).T
            if layer.linear.bias is not None:
                x = x + layer.linear.bias
            if layer.norm is not None:
                norm = layer.norm
                x = (x - norm.running_mean) / (norm.running_var + norm.eps) ** 0.5
                x = x * norm.weight + norm.bias
            if layer.activation is not None:
                x = torch.where(x > 0, x, torch.zeros_like(x))
        return x

    def transform(tnet, x):
        return mlp(tnet.head, mlp(tnet.pool, x).max(1).values).view(len(x), tnet.dim, tnet.dim)

    if model.input_tnet is not None:
        xyz = points[..., :3] @ transform(model.input_tnet, points[..., :3])
        points = torch.cat([xyz, points[..., 3:]], dim=-1)
    features = mlp(model.local_mlp, points)
    if model.feature_tnet is not None:
        features = features @ transform(model.feature_tnet, features)
    return mlp(model.head, mlp(model.global_pool, features).max(1).values)


def run_onnx(path):
    session = onnxruntime.InferenceSession(path)
    return lambda points: torch.from_numpy(session.run(["logits"], {"points": points.numpy()})[0])


RUN = {
    "onnx": run_onnx,
    "torch_export": lambda path: torch.export.load(path).module(),
    "safetensors": load_safetensors,
}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return make_model(in_channels=6, backend="conv1d")


@pytest.fixture(scope="module")
def files(model, tmp_path_factory):
    """The network in each format, in one folder."""
    folder = tmp_path_factory.mktemp("files")
    paths = {name: folder / f"model{FORMATS[name].suffix}" for name in FORMATS}
    model.train()
    for name, path in paths.items():
        parity = export_model(model, path, name)
        assert 0 <= parity.max_difference < 1e-5
        assert parity.equal_predictions == 1
        assert parity.clouds == 14
    assert model.training  # left as it was
    assert model.metadata == METADATA
    assert sorted(folder.iterdir()) == sorted(paths.values())  # no data beside them
    return paths


@pytest.mark.parametrize("name", FORMATS)
def test_any_number_of_clouds_and_points_gives_the_logits_of_the_formula(files, model, name):
    network = RUN[name](files[name])
    with torch.no_grad():
        for shape in SHAPES:
            points = torch.randn(*shape, 6)
            assert_close(network(points), formula(model, points), kind="fused")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "backend", "format"),
    [
        ("dgcnn", "conv2d", "onnx"),
        ("dgcnn", "conv1d", "torch_export"),
        ("pointnet2_ssg", "linear", "onnx"),
        ("pointnet2_msg", "conv2d", "torch_export"),
    ],
)
def test_networks_that_find_neighbors_take_the_search_along(
    name, backend, format, tmp_path, monkeypatch
):
    monkeypatch.setattr(export, "_SHAPES", ((2, 30), (1, 1)))
    torch.manual_seed(0)
    model = create_model(name, 4, 6, backend=backend, **SMALL[name])
    randomize(model)
    model.eval()
    path = tmp_path / "model"
    export_model(model, path, format)
    network = RUN[format](path)
    with torch.no_grad():
        for shape in SHAPES:
            points = torch.randn(*shape, 6) / 2
            assert_close(network(points), model(points), kind="fused")


@pytest.mark.parametrize("name", FORMATS)
def test_float64(name, tmp_path):
    model = make_model(transforms=False).double()
    path = tmp_path / f"model{FORMATS[name].suffix}"
    assert export_model(model, path, name).max_difference < 1e-12
    points = torch.randn(3, 21, 3, dtype=torch.float64)
    with torch.no_grad():
        assert_close(RUN[name](path)(points), formula(model, points))


def test_onnx_says_what_it_is(files):
    session = onnxruntime.InferenceSession(files["onnx"])
    (points,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (points.name, points.shape) == ("points", ["batch", "points", 6])
    assert (logits.name, logits.shape) == ("logits", ["batch", 4])
    saved = dict(session.get_modelmeta().custom_metadata_map)
    for name in ("class_names", "num_points", "in_channels", "temperature"):
        saved[name] = json.loads(saved[name])
    assert saved == {**METADATA, "in_channels": 6}


def test_torch_export_runs_without_this_package_and_this_package_without_the_extras(files):
    code = """if True:
        import json, sys, torch
        extra = {"metadata.json": ""}
        network = torch.export.load(sys.argv[1], extra_files=extra).module()
        assert network(torch.zeros(3, 7, 6)).shape == (3, 4)
        assert "sharedmlp" not in sys.modules
        print(extra["metadata.json"])
        before = set(sys.modules)
        import sharedmlp
        new = {name.split(".")[0] for name in set(sys.modules) - before}
        assert not new & {"huggingface_hub", "safetensors", "onnx", "onnxscript", "onnxruntime"}
    """
    command = [sys.executable, "-c", code, str(files["torch_export"])]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert json.loads(printed) == {**METADATA, "in_channels": 6}


def test_safetensors_are_the_network_again_on_any_backend(files, model):
    again = load_safetensors(files["safetensors"])
    assert again.options == model.options
    assert again.metadata == {**METADATA, "in_channels": 6}
    assert not again.training
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    other: Any = load_safetensors(files["safetensors"], backend="conv2d")
    assert isinstance(other.local_mlp.layers[0].linear, nn.Conv2d)
    points = torch.randn(3, 9, 6)
    with torch.no_grad():
        assert_close(other(points), again(points), kind="fused")


def test_safetensors_without_options_or_of_another_kind(tmp_path):
    import safetensors.torch

    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="does not say which network"):
        load_safetensors(path)
    path.write_text("weights")
    with pytest.raises(ValueError, match="is no safetensors file"):
        load_safetensors(path)


def test_a_search_in_bfloat16_is_exported_exact(tmp_path):
    model = make_model(
        transforms=False, fused=True, search_precision="bfloat16", global_channels=(64, 128, 256)
    ).eval()
    points = torch.randn(3, 500, 3)
    with torch.no_grad():  # it would not pass for the exact one
        expected = formula(model, points)
        difference = (model(points) - expected).abs().max() / expected.abs().max()
    assert difference > export.TOLERANCE
    path = tmp_path / "model.safetensors"
    assert export_model(model, path, "safetensors").max_difference < 1e-5
    assert model.global_pool.search_precision == "bfloat16"
    assert load_safetensors(path).options == model.options
    with torch.no_grad():
        assert export_model(model, tmp_path / "m.pt2", "torch_export").max_difference < 1e-5


def check_that_nothing_is_written(model, name, folder):
    path = folder / "model"
    path.write_text("of before")
    with pytest.raises(ExportError, match="is not written") as error:
        export_model(model, path, name)
    assert f"{export.TOLERANCE:.0e} is allowed" in str(error.value)
    assert list(folder.iterdir()) == [path]
    assert path.read_text() == "of before"


def test_a_file_that_computes_something_else_is_not_written(tmp_path):
    check_that_nothing_is_written(make_model(Noisy, transforms=False), "torch_export", tmp_path)


def test_options_that_are_not_those_of_the_network_are_not_written(tmp_path):
    model = make_model(transforms=False)
    model.local_mlp.layers[0].activation = nn.Tanh()
    check_that_nothing_is_written(model, "safetensors", tmp_path)


def test_a_network_that_is_not_finite_is_not_written(tmp_path):
    model = make_model(transforms=False)
    with torch.no_grad():
        model.head.layers[-1].linear.bias[0] = torch.nan
    check_that_nothing_is_written(model, "safetensors", tmp_path)


def test_an_interrupted_export_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_trace", None)
    with pytest.raises(TypeError):
        export_model(make_model(transforms=False), tmp_path / "a" / "model.pt2", "torch_export")
    assert list((tmp_path / "a").iterdir()) == []


def test_an_unknown_format_is_an_error_that_lists_them(tmp_path):
    with pytest.raises(ValueError, match="onnx, torch_export, safetensors"):
        export_model(make_model(transforms=False), tmp_path / "model", "tflite")


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("onnx", "onnxscript", "onnx"),
        ("onnx", "onnxruntime", "onnx"),
        ("safetensors", "safetensors.torch", "export"),
    ],
)
def test_a_missing_package_is_an_error_that_names_the_extra(
    name, package, extra, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"pip install 'sharedmlp\[{extra}\]'"):
        export_model(make_model(transforms=False), tmp_path / "model", name)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """One epoch on normalised clouds of meshes, by the command line."""
    folder = tmp_path_factory.mktemp("run")
    root = write_tree(folder / "tree", train=4, test=1)
    data = ["--data", "MeshTreeDataModule", "--data.root", str(root), "--data.pool_size", "32"]
    data += ["--data.num_points", "16", "--data.batch_size", "4", "--data.val_fraction", "0.3"]
    options = ["--model.model", "pointnet_vanilla", "--data.up_axis", "x"]
    options += ["--trainer.accelerator", "cpu", "--trainer.logger", "false"]
    options += ["--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"]
    with pytest.MonkeyPatch.context() as patch:
        own_environment(patch)
        patch.chdir(folder)
        main(["fit", *data, *options, "--best_checkpoint.dirpath", str(folder)])
    return folder / "best.ckpt"


def test_the_command_writes_beside_the_checkpoint_and_prints_the_figure(checkpoint, capsys):
    assert main(["export", "--ckpt_path", str(checkpoint), "--format", "safetensors"]) is None
    path = checkpoint.with_suffix(".safetensors")
    printed = capsys.readouterr().out
    assert "logits differ by at most" in printed
    assert "100.00% of the predictions are equal" in printed
    assert str(path) in printed
    model = load_safetensors(path)
    for name in ("trained_on", "temperature", "validation"):
        assert model.metadata.pop(name)
    assert model.metadata == {
        "class_names": list(CLASSES),
        "in_channels": 3,
        "num_points": 16,
        "up_axis": "x",
        "center": "mean",
        "scale": "unit sphere",
    }
    saved = torch.load(checkpoint, weights_only=True)["state_dict"]  # noqa: TID251 - plain values
    for name, value in model.state_dict().items():
        assert torch.equal(value, saved[f"model.{name}"])


@pytest.mark.parametrize("name", ["torch_export", pytest.param("onnx", marks=pytest.mark.slow)])
def test_the_command_writes_the_format_where_it_is_told(checkpoint, tmp_path, name):
    path = tmp_path / "new" / f"network{FORMATS[name].suffix}"
    main(["export", "--ckpt_path", str(checkpoint), "--format", name, "--output", str(path)])
    assert list(path.parent.iterdir()) == [path]
    assert RUN[name](path)(torch.randn(1, 5, 3)).shape == (1, 3)


def test_the_command_takes_weights_from_whatever_holds_them(checkpoint, tmp_path, capsys):
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    for source, path in ((checkpoint, first), (first, second)):
        output = ["--format", "safetensors", "--output", str(path)]
        main(["export", "--ckpt_path", str(source), *output])
    weights = [load_safetensors(path).state_dict() for path in (first, second)]
    assert all(torch.equal(weights[0][name], value) for name, value in weights[1].items())
    with pytest.raises(SystemExit, match="2"):  # over itself
        main(["export", "--ckpt_path", str(first), "--format", "safetensors"])
    assert "a.safetensors is what is exported" in capsys.readouterr().err


def test_the_command_fails_in_one_line(checkpoint, tmp_path, monkeypatch, capsys):
    arguments = ["--format", "onnx", "--output", str(tmp_path / "model.onnx")]
    with pytest.raises(SystemExit, match="2"):
        main(["export", "--ckpt_path", "nowhere.ckpt", *arguments])
    assert "there are no weights 'nowhere.ckpt': expected" in capsys.readouterr().err
    (tmp_path / "text.ckpt").write_text("text")
    with pytest.raises(SystemExit) as error:
        main(["export", "--ckpt_path", str(tmp_path / "text.ckpt"), *arguments])
    assert error.value.code == 2
    assert "cannot be read as a checkpoint" in capsys.readouterr().err
    arguments += ["--ckpt_path", str(checkpoint)]
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(SystemExit, match=r"pip install 'sharedmlp\[onnx\]'"):
        main(["export", *arguments])
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(SystemExit, match=r"error: .*is not written: as safetensors"):
        main(["export", *arguments, "--format", "safetensors"])
    assert [path.name for path in tmp_path.iterdir()] == ["text.ckpt"]
