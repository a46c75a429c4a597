"""Averaged weights (EMA) on the command line: what is chosen, tested and resumed."""

import json
from pathlib import Path

import pytest
import torch

from sharedmlp.__main__ import main
from tests.environment import own_environment
from tests.tolerances import TOLERANCES
from tests.train.tiny import write_tree

CONFIG = """\
seed_everything: 0
trainer:
  accelerator: cpu
  devices: 1
  max_epochs: 3
  enable_progress_bar: false
  enable_model_summary: false
  callbacks:
    - class_path: EMAWithWarmup
      init_args: {decay: 0.8}
  logger:
    class_path: CSVLogger
    init_args: {save_dir: runs, name: ""}
model:
  model: pointnet_vanilla
  learning_rate: 0.003
  schedule: constant
data:
  class_path: MeshTreeDataModule
  init_args: {root: tree, pool_size: 64, num_points: 32, batch_size: 4, val_fraction: 0.34}
"""


@pytest.fixture
def inside(tmp_path, monkeypatch):
    own_environment(monkeypatch)
    monkeypatch.chdir(tmp_path)
    write_tree("tree", train=6, test=3)
    Path("averaged.yaml").write_text(CONFIG)


def fit(name, *arguments):
    main(["fit", "--config", "averaged.yaml", "--trainer.logger.name", name, *arguments])
    return Path("runs") / name / "version_0"


def read(path):
    return torch.load(path, weights_only=True)  # noqa: TID251 - plain values


def test_a_test_after_a_fit_is_the_test_of_its_best_checkpoint(inside):
    folder = fit("one", "--test_after_fit", "true")
    best = folder / "checkpoints" / "best.ckpt"
    checkpoint = read(best)
    name = "model.local_mlp.layers.1.linear.weight"
    # What is trained and what is tested differ, so that to confuse them shows.
    assert not torch.equal(checkpoint["state_dict"][name], checkpoint["current_model_state"][name])
    main(["test", "--config", "averaged.yaml", "--ckpt_path", str(best)])
    again = Path("runs/version_0/test_metrics.json")
    assert json.loads((folder / "test_metrics.json").read_text()) == json.loads(again.read_text())


def test_averages_go_on_where_a_fit_resumes_on_another_backend(inside):
    float64 = ("--trainer.precision", "64-true")
    whole = read(fit("whole", *float64) / "checkpoints" / "last.ckpt")
    part = fit("part", *float64, "--trainer.max_epochs", "2") / "checkpoints" / "last.ckpt"
    rest = fit("rest", *float64, "--ckpt_path", str(part), "--model.backend", "conv1d")
    resumed = read(rest / "checkpoints" / "last.ckpt")
    for state in ("state_dict", "current_model_state"):
        for name, value in whole[state].items():
            if value.is_floating_point():
                limit = TOLERANCES["training"][torch.float64]
                error = (resumed[state][name].reshape(value.shape) - value).abs().max()
                assert error < limit, f"{state}, {name}: {error}"
