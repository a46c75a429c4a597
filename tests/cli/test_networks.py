"""The networks that find neighbors, from training to files, on the command line."""

import dataclasses
from pathlib import Path

import pytest
import torch

from sharedmlp.__main__ import main
from sharedmlp.convert import convert_backend
from sharedmlp.inference import load_trained
from sharedmlp.models import load_safetensors, registry
from tests.environment import own_environment
from tests.models.small import SMALL
from tests.train.tiny import CLASSES, write_tree


@pytest.fixture
def project(tmp_path, monkeypatch):
    own_environment(monkeypatch)
    monkeypatch.chdir(tmp_path)
    write_tree("tree", train=4, test=1)
    for name in ("dgcnn", "pointnet2_ssg", "pointnet2_msg"):
        key = ("classification", name)
        small = dataclasses.replace(registry.get_model(name), options=SMALL[name])
        monkeypatch.setitem(registry._MODELS, key, small)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "backend", "other"),
    [
        ("pointnet2_ssg", "linear", "conv1d"),
        pytest.param("dgcnn", "conv2d", "linear", marks=pytest.mark.slow),
        pytest.param("pointnet2_msg", "conv1d", "conv2d", marks=pytest.mark.slow),
    ],
)
def test_train_resume_test_predict_show_and_files(name, backend, other, project, capsys):
    data = ["--data", "MeshTreeDataModule", "--data.root", "tree", "--data.pool_size", "32"]
    data += ["--data.num_points", "24", "--data.batch_size", "4", "--data.val_fraction", "0.3"]
    quiet = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
    quiet += ["--trainer.enable_model_summary", "false"]
    run = ["--best_checkpoint.dirpath", "run", "--last_checkpoint.dirpath", "run"]
    fit = ["fit", *data, *quiet, *run, "--model.model", name, "--model.backend", backend]
    main([*fit, "--trainer.max_epochs", "1"])
    main([*fit, "--trainer.max_epochs", "2", "--ckpt_path", "run/last.ckpt"])
    assert torch.load("run/last.ckpt", weights_only=True)["epoch"] == 1  # noqa: TID251 - plain
    main(["test", *data, *quiet, "--ckpt_path", "run/last.ckpt", "--model.backend", other])
    assert "overall accuracy" in capsys.readouterr().out

    file = "tree/box/test/box_0.off"
    main(["predict", file, "--ckpt_path", "run/last.ckpt"])
    answer = capsys.readouterr().out
    assert answer.split()[1] in CLASSES
    main(["show", file, "--ckpt_path", "run/last.ckpt", "--point", "3", "--output", "a.html"])
    assert ("not a center" in Path("a.html").read_text()) == name.startswith("pointnet2")
    main(["export", "--ckpt_path", "run/last.ckpt", "--format", "safetensors"])
    capsys.readouterr()
    main(["predict", file, "--ckpt_path", "run/last.safetensors"])
    assert capsys.readouterr().out == answer

    model = load_trained("run/last.ckpt")
    points = torch.randn(2, 24, 3)
    with torch.no_grad():
        expected = model(points)
        for same in (
            load_trained("run/last.ckpt", backend=other),
            load_safetensors("run/last.safetensors", backend=other),
            convert_backend(model, other).module,
        ):
            torch.testing.assert_close(same(points), expected, rtol=1e-4, atol=1e-5)
