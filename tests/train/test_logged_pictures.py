"""Pictures go to the loggers that take some, by what these offer."""

from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
from matplotlib.figure import Figure

from sharedmlp.train.logged_pictures import log_pictures
from sharedmlp.viz import save_figure


@pytest.fixture
def picture(tmp_path):
    save_figure(Figure(figsize=(0.2, 0.1), facecolor="red"), tmp_path / "curves.png")
    return tmp_path / "curves.png"


def trainer(*loggers, first=True):
    return SimpleNamespace(loggers=loggers, global_step=7, is_global_zero=first)


def test_each_kind_of_logger_gets_it_in_its_own_way(picture):
    wandb = Mock(spec=["log_image", "save", "experiment"])
    tensorboard = Mock(spec=["save", "experiment"], experiment=Mock(spec=["add_image"]))
    mlflow = Mock(
        spec=["save", "experiment", "version"],
        experiment=Mock(spec=["log_artifact", "log_image"]),
        version="id",
    )
    table = Mock(spec=["save"])
    log_pictures(trainer(wandb, tensorboard, mlflow, table), [picture])
    wandb.log_image.assert_called_once_with("curves", [str(picture)], step=7)
    (name, pixels, step), options = tensorboard.experiment.add_image.call_args
    assert (name, step, options) == ("curves", 7, {"dataformats": "HWC"})
    assert pixels.shape == (15, 30, 4)
    assert pixels.dtype == np.uint8
    assert (pixels == [255, 0, 0, 255]).all()
    mlflow.experiment.log_artifact.assert_called_once_with("id", str(picture), "pictures")
    mlflow.experiment.log_image.assert_not_called()
    for logger in (wandb, tensorboard, mlflow, table):
        logger.save.assert_called_once_with()


def test_other_processes_log_none(picture):
    log_pictures(trainer(Mock(spec=[]), first=False), [picture])
