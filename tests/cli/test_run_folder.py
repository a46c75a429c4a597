"""What a command leaves: everything in one folder, whatever the logger, and nothing beside it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from pytorch_lightning.loggers.logger import Logger

from sharedmlp.__main__ import main
from sharedmlp.cli.run_folder import place_tracking_stores
from sharedmlp.train.epoch_table import read_rows
from tests.environment import own_environment
from tests.train.tasks.test_base import TOY
from tests.train.tiny import write_tree

CONFIG = """\
trainer:
  accelerator: cpu
  devices: 1
  max_epochs: 2
  enable_progress_bar: false
  enable_model_summary: false
data:
  class_path: MeshTreeDataModule
  init_args: {root: tree, pool_size: 16, num_points: 16, batch_size: 8, val_fraction: 0.34}
"""
FILES = {"config.yaml", "metrics.csv", "learning_curves.png"}
FILES |= {"checkpoints/best.ckpt", "checkpoints/last.ckpt"}
CSV = "{class_path: CSVLogger, init_args: {save_dir: runs, name: x}}"
OWN = "{class_path: tests.cli.test_run_folder.OwnLogger, init_args: {name: mine}}"


class OwnLogger(Logger):
    """A logger that writes nothing by itself, and that places each run in one folder."""

    name, version, root_dir, save_dir = "own", "always", "own", "own"

    def __init__(self, name: str = "mine"):
        super().__init__()
        self.logged: list[str] = []

    def log_metrics(self, metrics, step=None):
        self.logged += metrics

    def log_hyperparams(self, params, *args, **kwargs):
        pass


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return write_tree(tmp_path_factory.mktemp("meshes") / "tree", train=3, test=1)


@pytest.fixture(autouse=True)
def _inside(tree, tmp_path, monkeypatch):
    own_environment(monkeypatch)
    monkeypatch.chdir(tmp_path)
    Path("tree").symlink_to(tree)
    Path("tiny.yaml").write_text(CONFIG)


@pytest.fixture(scope="module")
def run_of_two_epochs(tree, tmp_path_factory):
    """What `fit()` leaves below `runs`."""
    folder = tmp_path_factory.mktemp("fitted")
    (folder / "tree").symlink_to(tree)
    (folder / "tiny.yaml").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        own_environment(patch)
        patch.chdir(folder)
        fit()
    return folder / "runs"


@pytest.fixture
def fitted(run_of_two_epochs):
    shutil.copytree(run_of_two_epochs, "runs")


def fit(*arguments, model=TOY):
    main(["fit", "--config", "tiny.yaml", *model, *arguments])


def written(folder):
    files = (path.relative_to(folder).as_posix() for path in Path(folder).rglob("*"))
    return {name for name in files if (Path(folder) / name).is_file()}


@pytest.mark.parametrize(
    ("logger", "folder", "more"),
    [
        ("false", "runs/version_0", set()),
        (OWN, "runs/mine/version_0", set()),
        (f"[{OWN}, {CSV}]", "runs/x/version_0", {"hparams.yaml"}),
    ],
)
def test_everything_is_in_one_folder_and_nothing_beside_it(logger, folder, more, capsys):
    fit("--trainer.logger", logger)
    assert written(folder) == FILES | more
    assert {path.name for path in Path().iterdir()} == {"runs", "tiny.yaml", "tree"}
    rows = read_rows(f"{folder}/metrics.csv")
    assert [row["epoch"] for row in rows] == [0, 1]
    names = {f"{stage}/{name}" for stage in ("train", "val") for name in ("loss", "error")}
    for row in rows:
        assert row.keys() == {"epoch", "step", "learning_rate", *names}
    printed = capsys.readouterr().out
    for name in ("metrics.csv", "learning_curves.png", "checkpoints/best.ckpt"):
        assert f"  {folder}/{name}\n" in printed


def test_tensorboard_has_the_learning_rate_and_all_pictures(monkeypatch):
    accumulator: Any = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    # Of three epochs of one step, the rates of a cosine.
    options = ["--trainer.logger", "TensorBoardLogger", "--test_after_fit", "true"]
    options += ["--trainer.max_epochs", "3", "--trainer.limit_train_batches", "1"]
    options += ["--model.model", "pointnet_vanilla", "--model.learning_rate", "0.01"]
    fit(*options, model=[])
    events = accumulator.EventAccumulator("runs/version_0").Reload()
    pictures = set(events.Tags()["images"])
    assert pictures == {"learning_curves", "confusion_matrix", "misclassified"}
    assert {f"{name}.png" for name in pictures} <= written("runs/version_0")
    rates = [event.value for event in events.Scalars("learning_rate")]
    assert rates == pytest.approx([0.01, 0.0075, 0.0025], rel=1e-5)
    rows = read_rows("runs/version_0/metrics.csv")
    assert [row["learning_rate"] for row in rows] == pytest.approx(rates, rel=1e-7)


def test_a_resumed_fit_has_the_whole_history(fitted):
    fit("--ckpt_path", "runs/version_0/checkpoints/last.ckpt", "--trainer.max_epochs", "3")
    first, second = (read_rows(f"runs/version_{n}/metrics.csv") for n in (0, 1))
    assert [row["epoch"] for row in second] == [0, 1, 2]
    assert second[:2] == first
    assert Path("runs/version_1/learning_curves.png").is_file()


def test_a_fit_that_fails_leaves_its_epochs_as_a_table_and_curves(monkeypatch):
    def fail(callback, trainer, pl_module):
        if trainer.current_epoch == 1:
            raise RuntimeError("in the second epoch")

    monkeypatch.setattr("sharedmlp.train.EpochLog.on_train_epoch_start", fail)
    with pytest.raises(RuntimeError, match="in the second epoch"):
        fit()
    assert len(read_rows("runs/version_0/metrics.csv")) == 1
    assert Path("runs/version_0/learning_curves.png").is_file()


def test_a_fit_that_fails_before_it_begins_leaves_no_folder(monkeypatch):
    def fail(module, stage):
        raise RuntimeError

    monkeypatch.setattr("tests.train.tasks.test_base.ToyTask.setup", fail)
    monkeypatch.setattr(
        "sharedmlp.cli.lightning.AtomicSaveConfigCallback.setup", lambda *_, stage: None
    )
    with pytest.raises(RuntimeError):
        fit("--trainer.logger", "false")
    assert list(Path("runs").iterdir()) == []


def test_each_evaluation_has_a_folder_of_its_own(fitted):
    arguments = ["--config", "tiny.yaml", *TOY]
    arguments += ["--ckpt_path", "runs/version_0/checkpoints/best.ckpt"]
    main(["validate", *arguments])
    main(["test", *arguments])
    assert written("runs/version_0") == FILES | {"hparams.yaml"}
    for number, stage in ((1, "val"), (2, "test")):
        names = {"config.yaml", "hparams.yaml", f"{stage}_metrics.json"}
        assert written(f"runs/version_{number}") == names
        report = json.loads(Path(f"runs/version_{number}/{stage}_metrics.json").read_text())
        assert report.keys() == {"checkpoint", "loss", "error"}
    with pytest.raises(SystemExit) as error:
        main(["test", *arguments, "--trainer.logger.version", "2"])
    assert str(error.value.code).startswith("sharedmlp: error: runs/version_2 is there already")


def test_a_dry_run_without_a_logger_leaves_nothing():
    before = {path.name for path in Path().iterdir()}
    fit("--trainer.fast_dev_run", "1", "--trainer.logger", "false")
    assert {path.name for path in Path().iterdir()} == before


def test_mlflow_has_its_store_below_the_folder_of_the_runs():
    arguments = {"tracking_uri": None, "save_dir": "runs", "artifact_location": None}
    given = {"tracking_uri": "http://server", "save_dir": "runs", "artifact_location": None}
    other = {"save_dir": "runs"}
    loggers = [{"init_args": dict(a)} for a in (arguments, given, other)]
    place_tracking_stores({"logger": loggers})
    first, *rest = (logger["init_args"] for logger in loggers)
    assert first["tracking_uri"] == "sqlite:///runs/mlflow.db"
    assert first["artifact_location"] == "runs/mlruns"
    assert rest == [given, other]
    dry: Any = {"logger": {"init_args": dict(arguments)}, "fast_dev_run": 1}
    place_tracking_stores(dry)
    assert dry["logger"]["init_args"]["tracking_uri"] == "sqlite://"


@pytest.mark.slow
def test_two_fits_at_the_same_moment(tree):
    command = [sys.executable, "-m", "sharedmlp", "fit", "--config", "tiny.yaml"]
    command += ["--model.model", "pointnet_vanilla", "--trainer.logger.name", "x"]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in running:
        printed, errors = process.communicate()
        assert process.returncode == 0, printed + errors
    for number in range(2):
        assert written(f"runs/x/version_{number}") == FILES | {"hparams.yaml"}
        assert len(read_rows(f"runs/x/version_{number}/metrics.csv")) == 2


def test_in_a_script_lightnings_own_folder_counts(tmp_path):
    from sharedmlp.train.callbacks.run_folder import run_folder

    trainer = pl.Trainer(logger=False, default_root_dir=tmp_path / "own", accelerator="cpu")
    assert run_folder(trainer) == tmp_path / "own"
