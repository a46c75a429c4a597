"""Folders of runs: claimed by one process each, wherever the loggers put theirs."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.loggers.logger import Logger

from sharedmlp.train.callbacks.run_folder import RunFolder, claim_version, run_folder
from tests.train.tiny import make_trainer


class OwnLogger(Logger):
    """A logger with another layout, the same for each run."""

    name, version, save_dir = "own", "latest", "own_place"

    def log_metrics(self, metrics, step=None):
        pass

    def log_hyperparams(self, params, *args, **kwargs):
        pass


class OwnLayout(CSVLogger):
    @property
    def log_dir(self):
        return str(Path(self.root_dir) / f"try-{self.version}")


class OneFolder(CSVLogger):
    @property
    def log_dir(self):
        return str(Path(self.root_dir) / "always")


@pytest.fixture(autouse=True)
def _inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def claim(*loggers, ckpt_path=None, **options):
    trainer = make_trainer(logger=list(loggers), callbacks=[RunFolder()], **options)
    trainer.callbacks[0].claim(trainer, Path("runs"), ckpt_path)
    return trainer


def folders():
    return sorted(str(path) for path in Path().rglob("*") if path.is_dir())


def test_processes_and_threads_never_get_the_same_folder(tmp_path):
    root = tmp_path / "new" / "runs"
    # Forked before there are threads: to import everything four times would take long.
    with ProcessPoolExecutor(4, multiprocessing.get_context("fork")) as pool:
        claimed = list(pool.map(claim_version, [root] * 24))
    with ThreadPoolExecutor(8) as pool:
        claimed += pool.map(claim_version, [root] * 24)
    assert sorted(claimed) == sorted(root / f"version_{n}" for n in range(48))


def test_a_process_that_was_overtaken_takes_the_next_number(tmp_path, monkeypatch):
    """Between the look for the next number and the claim another process claims it."""
    (tmp_path / "runs" / "version_3").mkdir(parents=True)
    monkeypatch.setattr(Path, "glob", lambda *_: [])
    (tmp_path / "runs" / "version_0").mkdir()
    assert claim_version(tmp_path / "runs") == tmp_path / "runs" / "version_1"


@pytest.mark.parametrize("logger_class", [CSVLogger, TensorBoardLogger])
def test_two_trainers_made_at_the_same_moment_get_a_folder_each(logger_class):
    if logger_class is TensorBoardLogger:
        pytest.importorskip("tensorboard")
    first, second = logger_class("runs", name="x"), logger_class("runs", name="x")
    assert first.version == second.version == 0  # what Lightning finds
    first, second = logger_class("runs", name="x"), logger_class("runs", name="x")
    loggers: Any = (first, second)
    paths = [run_folder(claim(logger)) for logger in loggers]
    assert paths == [Path("runs/x/version_0"), Path("runs/x/version_1")]
    assert [Path(logger.log_dir) for logger in loggers] == paths


def test_loggers_in_one_place_share_the_folder_and_others_claim_their_own():
    pytest.importorskip("tensorboard")
    Path("other/version_6").mkdir(parents=True)
    loggers: list[Any] = [
        OwnLogger(),
        CSVLogger("runs", name="x"),
        TensorBoardLogger("runs", name="x", sub_dir="events/deep"),
        CSVLogger("other", name=""),
    ]
    trainer = claim(*loggers)
    assert run_folder(trainer) == Path("runs/x/version_0")
    assert [Path(logger.log_dir) for logger in loggers[1:]] == [
        Path("runs/x/version_0"),
        Path("runs/x/version_0/events/deep"),
        Path("other/version_7"),
    ]


@pytest.mark.parametrize("loggers", [[], [OwnLogger()]])
def test_without_numbered_folders_the_run_has_one_below_the_root(loggers):
    for number in range(2):
        trainer = claim(*loggers)
        assert run_folder(trainer) == Path(f"runs/version_{number}")
    assert folders() == ["runs", "runs/version_0", "runs/version_1"]


def test_a_layout_of_ones_own_is_asked_for_the_place_of_a_number():
    for number in range(2):
        assert run_folder(claim(OwnLayout("runs", name="x"))) == Path(f"runs/x/try-{number}")


def test_a_layout_without_numbers_is_one_run():
    assert run_folder(claim(OneFolder("runs", name="x"))) == Path("runs/x/always")
    with pytest.raises(FileExistsError, match="always is there already"):
        claim(OneFolder("runs", name="x"))


def test_checkpoints_go_into_the_folder_unless_they_were_given_one():
    own: Any = ModelCheckpoint()
    given: Any = ModelCheckpoint(dirpath="given", monitor="x")
    trainer = make_trainer(enable_checkpointing=True, callbacks=[RunFolder(), own, given])
    trainer.callbacks[0].claim(trainer, Path("runs"))
    assert Path(own.dirpath) == Path("runs/version_0/checkpoints")
    assert Path(given.dirpath) == Path("given").resolve()


@pytest.mark.parametrize("version", [3, "mine"])
def test_a_given_version_is_taken_once_and_resumed_in_place(version):
    folder = Path("runs/x") / (version if isinstance(version, str) else f"version_{version}")
    assert run_folder(claim(CSVLogger("runs", name="x", version=version))) == folder
    for checkpoint in (None, "runs/x/other/checkpoints/last.ckpt"):
        with pytest.raises(FileExistsError) as error:
            claim(CSVLogger("runs", name="x", version=version), ckpt_path=checkpoint)
        assert f"{folder} is there already, of another run" in str(error.value)
        assert "\n" not in str(error.value)
    checkpoint = str(folder / "checkpoints" / "last.ckpt")
    trainer = claim(CSVLogger("runs", name="x", version=version), ckpt_path=checkpoint)
    assert run_folder(trainer) == folder


def test_an_empty_folder_is_removed_when_the_run_fails_and_others_stay():
    for number, name in enumerate(["", "config.yaml"]):
        trainer = claim()
        folder = Path(f"runs/version_{number}")
        if name:
            (folder / name).touch()
        trainer.callbacks[0].on_exception(trainer, None, RuntimeError())
        assert folder.exists() == bool(name)
        folder.mkdir(exist_ok=True)


def test_other_processes_claim_nothing(monkeypatch):
    monkeypatch.setattr("pytorch_lightning.Trainer.is_global_zero", False)
    trainer = claim(CSVLogger("runs", name="x"))
    assert trainer.callbacks[0].path is None
    assert folders() == []
