"""The command line, called in this process on a small tree of meshes."""

import contextlib
import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sharedmlp.__main__ import main
from sharedmlp.models import load_trained
from sharedmlp.train import ClassificationTask, MeshTreeDataModule
from sharedmlp.viz import plot_clouds
from tests.environment import own_environment
from tests.train.tiny import CLASSES, write_hdf5, write_tree

CONFIG = """\
seed_everything: 0
test_after_fit: true
trainer:
  accelerator: cpu
  devices: 1
  max_epochs: 3
  enable_progress_bar: false
  enable_model_summary: false
  logger:
    class_path: CSVLogger
    init_args: {save_dir: runs, name: tiny}
model:
  model: pointnet_vanilla
  backend: linear
  learning_rate: 0.002
data:
  class_path: MeshTreeDataModule
  init_args:
    root: tree
    pool_size: 64
    num_points: 32
    batch_size: 4
    val_fraction: 0.34
"""


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch):
    own_environment(monkeypatch)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with meshes, a config and a conv1d run of it."""
    folder = tmp_path_factory.mktemp("project")
    write_tree(folder / "tree", train=6, test=3)
    (folder / "tiny.yaml").write_text(CONFIG)
    printed = io.StringIO()
    before = Path.cwd()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(printed), pytest.MonkeyPatch.context() as patch:
            own_environment(patch)
            assert main(["fit", "--config", "tiny.yaml", "--model.backend", "conv1d"]) is None
    finally:
        os.chdir(before)
    (folder / "printed.txt").write_text(printed.getvalue())
    return folder


@pytest.fixture
def inside(project, monkeypatch):
    monkeypatch.chdir(project)
    return project


RUN = Path("runs/tiny/version_0")
BEST = str(RUN / "checkpoints" / "best.ckpt")
LAST = str(RUN / "checkpoints" / "last.ckpt")


def newest_run():
    return max(Path("runs/tiny").iterdir(), key=lambda path: int(path.name.split("_")[1]))


@pytest.fixture
def built(monkeypatch):
    """Which of the pointwise layers the tested network is made of."""
    kinds: set[Any] = set()

    def record(task):
        kinds.update(
            type(module)
            for module in task.model.local_mlp.modules()
            if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d)
        )

    for hook in ("on_fit_start", "on_validation_start", "on_test_start", "on_predict_start"):
        monkeypatch.setattr(ClassificationTask, hook, record)
    return kinds


def test_fit_ends_with_a_table_and_the_paths_of_what_it_wrote(inside):
    printed = (inside / "printed.txt").read_text()
    lines = printed.splitlines()
    assert [line.split(":")[0] for line in lines if line.startswith("epoch")] == [
        "epoch  1/3",
        "epoch  2/3",
        "epoch  3/3",
    ]
    report = json.loads((RUN / "test_metrics.json").read_text())
    assert f"{report['overall_accuracy']:.2%}" in printed.split("overall accuracy")[1]
    assert f"{report['mean_class_accuracy']:.2%}" in printed.split("mean class accuracy")[1]
    assert all(any(line.startswith(name) for line in lines) for name in CLASSES)
    assert sum(map(sum, report["confusion"])) == 9
    (temperature,) = (line for line in lines if line.startswith("temperature "))
    assert "fitted on 6 validation clouds" in temperature
    for path in (
        BEST,
        LAST,
        RUN / "metrics.csv",
        RUN / "test_metrics.json",
        RUN / "test_classes.csv",
        RUN / "confusion_matrix.png",
        RUN / "learning_curves.png",
    ):
        assert Path(path).is_file()
        assert str(path) in printed


def test_misclassified_clouds_are_drawn_as_the_network_saw_them(inside, monkeypatch, capsys):
    """All are taken for the first class, and of six mistakes there is a place for two.

    Beside each stands another box, of those that were recognized.
    """

    def forward(task, points):
        seen.extend(points)
        return torch.tensor([1.0, 0.0, 0.0]).expand(len(points), 3)

    drawn: list[Any] = []
    seen: list[Any] = []
    monkeypatch.setattr(ClassificationTask, "forward", forward)
    monkeypatch.setattr("sharedmlp.reports.test_report._MOST_MISTAKES", 2)
    monkeypatch.setattr(
        "sharedmlp.reports.test_report.plot_clouds",
        lambda *args, **options: (drawn.append((args, options)), plot_clouds(*args, **options))[1],
    )
    main(["test", "--config", "tiny.yaml", "--ckpt_path", BEST, "--data.up_axis", "y"])
    (((clouds, titles), options),) = drawn
    temperature = load_trained(BEST).metadata["temperature"]
    share = f"{torch.tensor([1.0, 0.0, 0.0]).div(temperature).softmax(0)[0]:.0%}"
    assert [title.split("\n") for title in titles] == [
        [f"predicted box ({share})", "true capsule", "capsule_0.off"],
        ["a true box", "", "box_0.off"],
        [f"predicted box ({share})", "true sphere", "sphere_0.off"],
        ["a true box", "", "box_1.off"],
    ]
    assert torch.equal(torch.stack(clouds), torch.stack([seen[n] for n in (3, 0, 6, 1)]))
    assert options["up_axis"] == "z"  # the network's, to which the clouds were turned
    printed, told = capsys.readouterr()
    assert "the clouds have y up and the network was trained with z up: they are turned" in told
    for name, suffix in (("misclassified", ".png"), ("misclassified, to turn", ".html")):
        path = newest_run() / f"misclassified{suffix}"
        assert f"2 of 6 {name}" in printed
        assert str(path) in printed
        assert path.is_file()
    assert "predicted box" in path.read_text()


def test_a_test_without_mistakes_draws_none(inside, monkeypatch, capsys):
    right = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2]).split(4)
    batches = iter(right)
    monkeypatch.setattr(
        ClassificationTask,
        "forward",
        lambda task, points: nn.functional.one_hot(next(batches), 3).float(),
    )
    main(["test", "--config", "tiny.yaml", "--ckpt_path", BEST])
    assert "misclassified" not in capsys.readouterr().out
    assert not list(newest_run().glob("misclassified*"))


def test_best_is_tested_and_last_is_the_last_epoch_also_where_it_is_not_among_the_best(
    inside, monkeypatch, tmp_path
):
    def constant(task, batch, batch_idx):
        task.log("val/overall_accuracy", 0.5, batch_size=len(batch["label"]))

    tested = {}
    monkeypatch.setattr(ClassificationTask, "validation_step", constant)
    monkeypatch.setattr(
        ClassificationTask, "on_test_start", lambda task: tested.update(task.state_dict())
    )
    options = ["--trainer.logger.save_dir", str(tmp_path), "--trainer.max_epochs", "2"]
    main(["fit", "--config", "tiny.yaml", *options])
    folder = tmp_path / "tiny" / "version_0" / "checkpoints"
    checkpoints = {
        path.name: torch.load(path, weights_only=True)  # noqa: TID251 - plain values
        for path in folder.iterdir()
    }
    epochs = {name: checkpoint["epoch"] for name, checkpoint in checkpoints.items()}
    assert epochs == {"best.ckpt": 0, "last.ckpt": 1}
    name = "model.local_mlp.layers.0.linear.weight"
    assert torch.equal(tested[name], checkpoints["best.ckpt"]["state_dict"][name])
    assert not torch.equal(tested[name], checkpoints["last.ckpt"]["state_dict"][name])
    report = json.loads((folder.parent / "test_metrics.json").read_text())
    assert report["checkpoint"] == str(folder / "best.ckpt")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        # The checkpoint holds conv1d, the file says linear, what is typed counts most.
        ([], nn.Conv1d),
        (["--model.backend", "conv2d"], nn.Conv2d),
        pytest.param(["--model.backend=linear"], nn.Linear, marks=pytest.mark.slow),
    ],
)
def test_typed_values_win_over_the_checkpoint_and_the_checkpoint_over_the_file(
    inside, built, arguments, expected
):
    main(["test", "--config", "tiny.yaml", "--ckpt_path", BEST, *arguments])
    assert built == {expected}
    report = json.loads((newest_run() / "test_metrics.json").read_text())
    assert report["checkpoint"] == BEST
    assert report["confusion"] == json.loads((RUN / "test_metrics.json").read_text())["confusion"]


def test_values_that_were_not_typed_stay_those_of_the_checkpoint(inside, monkeypatch):
    seen = {}
    monkeypatch.setattr(ClassificationTask, "on_test_start", lambda task: seen.update(task.hparams))
    (inside / "other.yaml").write_text(CONFIG.replace("0.002", "0.5"))
    arguments = ["--config", "other.yaml", "--ckpt_path", BEST, "--model.dropout", "0.25"]
    main(["test", *arguments])
    assert seen["learning_rate"] == 0.002
    assert seen["dropout"] == 0.25
    assert seen["backend"] == "conv1d"


def test_a_whole_model_group_beside_a_checkpoint_is_refused(inside, capsys):
    arguments = ["--config", "tiny.yaml", "--ckpt_path", BEST]
    with pytest.raises(SystemExit) as error:
        main(["test", *arguments, "--model", '{"backend": "conv2d"}'])
    assert error.value.code == 2
    assert "--model.NAME VALUE" in capsys.readouterr().err


def test_the_saved_config_of_a_fit_describes_a_test(inside, built):
    main(["test", "--config", str(RUN / "config.yaml"), "--ckpt_path", BEST])
    assert built == {nn.Conv1d}


@pytest.mark.parametrize(
    ("backend", "expected"),
    [("linear", nn.Linear), pytest.param("conv1d", nn.Conv1d, marks=pytest.mark.slow)],
)
def test_predict_writes_what_the_network_says_of_every_test_cloud(inside, built, backend, expected):
    arguments = ["--config", "tiny.yaml", "--ckpt_path", BEST, "--model.backend", backend]
    main(["predict", *arguments])
    assert built == {expected}
    with (newest_run() / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    task = ClassificationTask.load_from_checkpoint(BEST, map_location="cpu").eval()
    data = MeshTreeDataModule("tree", pool_size=64, num_points=32)
    data.setup("predict")
    dataset = data.datasets["test"]
    assert len(rows) == len(dataset) == 9
    with torch.no_grad():
        logits = task(dataset.__getitems__(range(9))["points"])
    answers = (logits / task.model.metadata["temperature"]).softmax(1)
    for row, name, probabilities in zip(rows, dataset.pool.names, answers, strict=True):
        assert list(row) == ["cloud", "label", "prediction", *(f"p({c})" for c in CLASSES)]
        assert row["cloud"] == name
        assert row["label"] == name.split("/")[0]
        assert row["prediction"] == CLASSES[int(probabilities.argmax())]
        found = torch.tensor([float(row[f"p({c})"]) for c in CLASSES])
        torch.testing.assert_close(found, probabilities, rtol=0, atol=1e-5)


def test_predict_on_data_tells_the_network_and_takes_the_most_confident_turn(inside, capsys):
    arguments = ["--config", "tiny.yaml", "--ckpt_path", BEST, "--output", "turned.csv"]
    main(["predict", *arguments, "--rotations", "3"])
    lines = capsys.readouterr().err.splitlines()
    (first,) = (line for line in lines if line.startswith("pointnet_vanilla of best.ckpt, trained"))
    assert first.endswith("trained on 12 clouds of tree (32 points, z up)")
    with Path("turned.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["rotation"] for row in rows} <= {"0", "120", "240"}
    assert len(rows) == 9


def test_validate_reports_the_validation_clouds_on_the_typed_backend(inside, built, capsys):
    typed = ["--model.backend", "conv2d"]
    main(["validate", "--config", "tiny.yaml", "--ckpt_path", LAST, *typed])
    assert built == {nn.Conv2d}
    assert "val/overall_accuracy" in capsys.readouterr().out


def test_a_fit_resumes_from_the_last_checkpoint_with_what_is_typed(
    inside, built, monkeypatch, capsys
):
    seen = []
    monkeypatch.setattr(
        ClassificationTask,
        "on_train_batch_end",
        lambda task, *_: seen.append(task.optimizers().param_groups[0]["lr"]),
    )
    arguments = ["--config", "tiny.yaml", "--ckpt_path", LAST, "--trainer.max_epochs", "4"]
    arguments += ["--model.backend", "conv2d", "--trainer.logger", "false"]
    arguments += ["--test_after_fit", "false"]
    main(["fit", *arguments, "--model.schedule", "constant", "--model.learning_rate", "0.03"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert [line.split(":")[0] for line in lines] == ["epoch  4/4"]
    assert set(seen) == {0.03}
    assert built == {nn.Conv2d}


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_without_the_named_checkpoint_nothing_is_tested(inside, capsys, command):
    with pytest.raises(SystemExit) as error:
        main([command, "--config", "tiny.yaml", "--ckpt_path", "best"])
    assert error.value.code == 2
    assert "needs --ckpt_path FILE" in capsys.readouterr().err


def test_fast_dev_run_writes_nothing(inside, tmp_path, capsys):
    before = sorted(inside.rglob("*"))
    options = ["--trainer.logger.save_dir", str(tmp_path / "new")]
    main(["fit", "--config", "tiny.yaml", "--trainer.fast_dev_run", "1", *options])
    options += ["--ckpt_path", BEST]
    main(["predict", "--config", "tiny.yaml", "--trainer.fast_dev_run", "1", *options])
    assert list(tmp_path.iterdir()) == []
    assert sorted(inside.rglob("*")) == before
    assert "overall accuracy" in capsys.readouterr().out


def test_print_config_shows_the_backend(inside, capsys):
    with pytest.raises(SystemExit) as error:
        main(["fit", "--config", "tiny.yaml", "--model.backend", "conv2d", "--print_config"])
    assert error.value.code == 0
    assert "backend: conv2d" in capsys.readouterr().out


def test_a_backend_in_the_config_file_counts(inside, built, tmp_path):
    (inside / "conv2d.yaml").write_text(CONFIG.replace("backend: linear", "backend: conv2d"))
    main(["fit", "--config", "conv2d.yaml", "--trainer.fast_dev_run", "1"])
    assert built == {nn.Conv2d}


@pytest.mark.parametrize(
    ("module", "layout"),
    [("MeshTreeDataModule", "<root>/<class>/{train,test}"), ("HDF5DataModule", "shape_names.txt")],
)
def test_a_missing_root_is_one_line_with_layout_and_remedy(module, layout):
    with pytest.raises(SystemExit) as error:
        main(["fit", "--data", module, "--data.root", "nowhere"])
    message = str(error.value.code)
    assert message.startswith("sharedmlp: error: nowhere is no folder")
    assert layout in message
    assert "--data.root" in message


def test_a_set_without_test_split_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    root = write_hdf5(tmp_path / "set", pool_size=32)
    (root / "test_files.txt").unlink()
    arguments = ["--data", "HDF5DataModule", "--data.root", str(root), "--data.num_points", "16"]
    arguments += ["--model.model", "pointnet_vanilla", "--trainer.accelerator", "cpu"]
    arguments += ["--trainer.enable_progress_bar", "false", "--trainer.logger", "false"]
    arguments += ["--data.batch_size", "4"]
    fit = [*arguments, "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1"]
    main(["fit", *fit, "--best_checkpoint.dirpath", "a", "--last_checkpoint.dirpath", "a"])
    assert Path("a/best.ckpt").is_file()
    with pytest.raises(SystemExit) as error:
        main(["test", *arguments, "--ckpt_path", "a/best.ckpt"])
    assert "has no test split" in str(error.value.code)
    assert "sharedmlp validate" in str(error.value.code)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data.root", "no_test", "--test_after_fit", "true"], "no_test has no test split: meas"),
        (["--data.root", "no_test", "--data.num_points", "99"], "num_points from 1 to 16"),
    ],
)
def test_data_that_does_not_fit_is_one_line_before_training(
    tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    write_tree(tmp_path / "no_test", train=2, test=1)
    for name in CLASSES:
        shutil.rmtree(tmp_path / "no_test" / name / "test")
    monkeypatch.setattr(ClassificationTask, "training_step", lambda *_: pytest.fail("trained"))
    options = ["--data", "MeshTreeDataModule", "--data.pool_size", "16", "--data.num_points", "8"]
    options += ["--trainer.logger", "false", "--trainer.accelerator", "cpu"]
    with pytest.raises(SystemExit) as error:
        main(["fit", *options, *arguments])
    assert str(error.value.code).startswith("sharedmlp: error: ")
    assert message in str(error.value.code)
    assert "\n" not in str(error.value.code)


def test_data_that_cannot_be_used_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = write_hdf5(tmp_path / "set", pool_size=32)
    (root / "ply_data_train0.h5").write_bytes(b"no HDF5")
    with pytest.raises(SystemExit) as error:
        main(["fit", "--data", "HDF5DataModule", "--data.root", str(root)])
    assert str(error.value.code).startswith("sharedmlp: error: ")
    assert "no readable HDF5 file" in str(error.value.code)


def test_the_config_of_a_run_is_there_whole_or_not_at_all(inside, monkeypatch, tmp_path):
    def fail(source, target):
        assert "seed_everything: 0" in Path(source).read_text()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sharedmlp.utils.files.os.replace", fail)
    with pytest.raises(SystemExit, match=r"config.yaml cannot be written \(No space left"):
        main(["fit", "--config", "tiny.yaml", "--trainer.logger.save_dir", str(tmp_path)])
    assert not list(tmp_path.rglob("config.yaml*"))


def test_a_missing_h5py_is_one_line_with_the_extra(tmp_path, monkeypatch):
    root = write_hdf5(tmp_path / "set", pool_size=32)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(SystemExit, match=r"pip install 'sharedmlp\[hdf5\]'"):
        main(["fit", "--data", "HDF5DataModule", "--data.root", str(root), "--data.num_points=16"])


@pytest.fixture
def bad_tree(tmp_path):
    root = write_tree(tmp_path / "tree", train=2, test=2)
    (root / "box" / "train" / "bad.off").write_text("OFF\n1 1 0\n0 0 0\n")
    (root / "sphere" / "test" / "worse.off").write_text("")
    return root


def test_prepare_goes_on_and_lists_every_bad_file(bad_tree, capsys):
    main(["prepare", str(bad_tree), "--pool_size", "16"])
    printed = capsys.readouterr()
    assert "train: 6 clouds in 3 classes" in printed.out
    assert "test: 6 clouds in 3 classes" in printed.out
    assert "2 files could not be used" in printed.err
    assert "box/train/bad.off: " in printed.err
    assert "sphere/test/worse.off: " in printed.err


def test_prepare_strict_fails_on_bad_files_and_only_then(bad_tree, capsys):
    with pytest.raises(SystemExit) as error:
        main(["prepare", str(bad_tree), "--pool_size", "16", "--strict"])
    assert error.value.code == 1
    assert "sphere/test/worse.off: " in capsys.readouterr().err
    (bad_tree / "box" / "train" / "bad.off").unlink()
    (bad_tree / "sphere" / "test" / "worse.off").unlink()
    assert main(["prepare", str(bad_tree), "--pool_size", "16", "--strict"]) is None


def test_what_was_prepared_is_what_training_opens(tmp_path, monkeypatch):
    root = write_tree(tmp_path / "tree", train=2, test=2)
    main(["prepare", str(root), "--pool_size", "16", "--normals"])
    before = sorted((root / ".sharedmlp_cache").iterdir())
    data = MeshTreeDataModule(str(root), pool_size=16, normals=True, num_points=8)
    data.setup("fit")
    data.setup("test")
    assert sorted((root / ".sharedmlp_cache").iterdir()) == before


def test_the_cache_goes_where_it_is_told(tmp_path, monkeypatch):
    root = write_tree(tmp_path / "tree", train=2, test=2)
    cache = tmp_path / "elsewhere"
    main(["prepare", str(root), "--pool_size", "32", "--cache_dir", str(cache)])
    assert any(cache.iterdir())
    assert not (root / ".sharedmlp_cache").exists()
    monkeypatch.setattr("sharedmlp.data.mesh_tree.read_cloud", None)  # nothing is read again
    data = MeshTreeDataModule(str(root), pool_size=32, cache_dir=str(cache))
    assert len(data.open_split("train")) == 6


def test_a_missing_root_of_prepare_is_one_line(tmp_path):
    with pytest.raises(SystemExit) as error:
        main(["prepare", str(tmp_path / "nowhere")])
    assert "is no folder" in str(error.value.code)


def test_without_the_train_extra_the_message_names_it(monkeypatch):
    monkeypatch.delitem(sys.modules, "sharedmlp.cli.lightning", raising=False)
    monkeypatch.setitem(sys.modules, "pytorch_lightning.cli", None)
    with pytest.raises(SystemExit) as error:
        main(["fit"])
    assert "pip install 'sharedmlp[train]'" in str(error.value.code)
    assert "\n" not in str(error.value.code)


@pytest.mark.slow  # tests/cli/test_switches.py reads what one in this process says
def test_python_m_sharedmlp_is_quiet_about_what_nobody_can_change(inside, tmp_path):
    command = [sys.executable, "-m", "sharedmlp", "fit", "--config", "tiny.yaml"]
    result = subprocess.run(
        [*command, "--trainer.logger.save_dir", str(tmp_path), "--trainer.max_epochs", "1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "overall accuracy" in result.stdout
    # A warning is shown with the file that it comes from.
    for noise in ("site-packages", "Tip:"):
        assert noise not in result.stderr
