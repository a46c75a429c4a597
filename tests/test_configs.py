"""Every shipped config, run on tiny data of the kind that it describes."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import sharedmlp.train.datamodules.meshes
from sharedmlp.__main__ import main
from sharedmlp.data import write_shapes
from tests.data.test_modelnet40_normals import write_set
from tests.environment import own_environment
from tests.train.tiny import write_hdf5, write_tree

CONFIGS = Path(__file__).parents[1] / "configs"
MAKERS: dict[str, Callable[..., Any]] = {
    "quickstart": lambda root: None,  # makes its own
    "modelnet10": write_hdf5,
    "modelnet40": write_hdf5,
    "modelnet40_dgcnn": write_hdf5,
    "modelnet40_pointnet2": write_hdf5,
    "pointnet_paper": write_hdf5,
    "mesh_folder": write_tree,
    "modelnet40_normals": partial(write_set, train=10, num_points=10_000),
}
# Of networks that find neighbors a step on a whole batch takes seconds.
FEW = ["--data.num_points", "64", "--data.batch_size", "2"]
OPTIONS = {"modelnet40_dgcnn": FEW, "modelnet40_pointnet2": FEW, "pointnet_paper": FEW[2:]}


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch):
    own_environment(monkeypatch)


def test_every_config_is_run_here():
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == set(MAKERS)


@pytest.mark.parametrize("name", MAKERS)
def test_config_trains_and_evaluates(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    few = partial(write_shapes, train_per_class=4, test_per_class=1)
    monkeypatch.setattr(sharedmlp.train.datamodules.meshes, "write_shapes", few)
    MAKERS[name](tmp_path / "set")
    root = ["--config", str(CONFIGS / f"{name}.yaml"), "--data.root", str(tmp_path / "set")]
    main(["fit", *root, "--trainer.fast_dev_run", "1", *OPTIONS.get(name, [])])
    printed = capsys.readouterr().out
    assert "epoch  1/1: train loss" in printed
    assert ("overall accuracy" in printed) == (name == "quickstart")


@pytest.mark.parametrize("name", MAKERS)
def test_config_states_its_up_axis_and_default_root(name):
    text = (CONFIGS / f"{name}.yaml").read_text()
    assert "up_axis: " in text
    assert "root: data/" in text
