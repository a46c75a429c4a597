"""What `train/logger_internals.py` relies on, by name and by meaning."""

import csv

import pytest
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.loggers.logger import DummyLogger

from sharedmlp.train.logger_internals import (
    log_steps_alone,
    logger_folder,
    logger_version,
    numbered_loggers,
    set_logger_version,
)
from tests.train.tasks.test_base import ToyTask
from tests.train.tiny import ArrayDataModule, make_trainer

# 4 clouds of each class to train on: an epoch is 3 batches of 4.
DATA = {"train": (5, 5, 5), "val_fraction": 0.2}
LOGGERS = [
    (CSVLogger, {}),
    (TensorBoardLogger, {}),
    (TensorBoardLogger, {"sub_dir": "events/deep"}),
]


@pytest.mark.parametrize(("kind", "options"), LOGGERS)
def test_the_version_of_a_logger_is_asked_for_without_choosing_one(tmp_path, kind, options):
    pytest.importorskip("tensorboard")
    logger = kind(tmp_path, name="x", **options)
    assert logger_version(logger) is None
    assert logger_version(kind(tmp_path, version="mine")) == "mine"
    set_logger_version(logger, 7)
    assert logger_version(logger) == logger.version == 7
    assert logger_folder(logger) == tmp_path / "x" / "version_7"
    set_logger_version(logger, None)
    assert logger.version == 0


def test_only_loggers_that_number_folders_on_this_machine_are_found(tmp_path):
    local, remote = CSVLogger(tmp_path), CSVLogger("memory://bucket")
    assert numbered_loggers(make_trainer(logger=[DummyLogger(), remote, local])) == [local]
    assert numbered_loggers(make_trainer()) == []


def test_a_csv_logger_writes_what_is_logged_by_steps_and_keeps_other_files(tmp_path):
    class Task(ToyTask):
        def training_step(self, batch, batch_idx):
            self.log("by_step", float(self.global_step))
            return super().training_step(batch, batch_idx)

    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "metrics.csv").write_text("of the run so far")
    for kind in (ToyTask, Task):
        logger = CSVLogger(tmp_path, name="", version="run")
        trainer = make_trainer(logger=logger, max_epochs=1, log_every_n_steps=1)
        log_steps_alone(logger, trainer)
        trainer.fit(kind(), ArrayDataModule(**DATA))
        assert (folder / "steps.csv").exists() == (kind is Task)
    rows = list(csv.DictReader((folder / "steps.csv").read_text().splitlines()))
    assert [float(row["by_step"]) for row in rows] == [0, 1, 2]
    assert not any("loss" in name for name in rows[0])
    assert (folder / "metrics.csv").read_text() == "of the run so far"
