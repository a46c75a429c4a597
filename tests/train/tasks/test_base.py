"""A task in one file, this one: no other file knows it, and the command line trains it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torchmetrics import MeanAbsoluteError

from sharedmlp.__main__ import main
from sharedmlp.train import BaseTask
from tests.environment import own_environment
from tests.train.tiny import ArrayDataModule, make_trainer, write_tree

CONFIG = """\
trainer:
  accelerator: cpu
  devices: 1
  max_epochs: 2
  enable_progress_bar: false
  enable_model_summary: false
  logger: {class_path: CSVLogger, init_args: {save_dir: runs, name: toy}}
data:
  class_path: MeshTreeDataModule
  init_args: {root: tree, pool_size: 64, num_points: 32, batch_size: 4, val_fraction: 0.34}
"""
TOY = ["--model", "tests.train.tasks.test_base.ToyTask"]


class ToyNetwork(nn.Module):
    """The least that a network needs."""

    def __init__(self, in_channels, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(in_channels, width), nn.ReLU(), nn.Linear(width, 1))

    def forward(self, points):
        return self.layers(points).amax(1).squeeze(1)

    def forward_detailed(self, points):
        return SimpleNamespace(logits=self(points))

    def extra_loss(self, output):
        first: Any = self.layers[0]
        return first.weight.square().sum()


class SquaredError(nn.Module):
    def forward(self, quantities, labels):
        return nn.functional.mse_loss(quantities, labels.to(quantities.dtype))


class ToyTask(BaseTask):
    """Takes the number of the class for a quantity to be estimated."""

    monitor = "val/error"

    def __init__(self, in_channels: int = 3, width: int = 4, penalty_weight: float = 0.5) -> None:
        super().__init__(learning_rate=0.01, penalty_weight=penalty_weight)

    def configure_models(self):
        return ToyNetwork(self.hparams["in_channels"], self.hparams["width"])

    def configure_losses(self, stage):
        return SquaredError()

    def configure_metrics(self, stage):
        return {"error": MeanAbsoluteError()}


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch):
    own_environment(monkeypatch)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    write_tree(folder / "tree", train=4, test=2)
    (folder / "toy.yaml").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        own_environment(patch)
        main(["fit", "--config", "toy.yaml", *TOY, "--model.width", "6", "--data.normals", "true"])
    return folder


@pytest.fixture
def checkpoint(project, monkeypatch):
    monkeypatch.chdir(project)
    return "runs/toy/version_0/checkpoints/best.ckpt"


def load(path):
    return torch.load(path, weights_only=True)  # noqa: TID251 - plain values


def test_the_command_line_trains_it_and_fills_in_what_the_data_knows(checkpoint):
    saved = load(checkpoint)
    assert saved["state_dict"]["model.layers.0.weight"].shape == (6, 6)  # width, in_channels
    values = saved["hyper_parameters"]
    assert (values["width"], values["in_channels"]) == (6, 6)
    (best,) = [c for c in saved["callbacks"].values() if c.get("monitor")]
    assert best["monitor"] == "val/error"
    columns = Path("runs/toy/version_0/metrics.csv").read_text().splitlines()[0].split(",")
    names = {f"{stage}/{name}" for stage in ("train", "val") for name in ("loss", "error")}
    assert {*names, "learning_rate"} <= set(columns)
    assert Path("runs/toy/version_0/learning_curves.png").is_file()


def test_it_is_tested_and_resumed_from_its_checkpoint(checkpoint, capsys):
    arguments = ["--config", "toy.yaml", *TOY, "--data.normals", "true", "--ckpt_path", checkpoint]
    main(["test", *arguments])
    printed = capsys.readouterr().out
    assert "test/error  " in printed
    assert "test/loss  " in printed
    assert "runs/toy/version_1/test_metrics.json" in printed
    main(["fit", *arguments, "--trainer.max_epochs", "3", "--trainer.logger", "false"])
    lines = capsys.readouterr().out.splitlines()
    first = f"epoch  {load(checkpoint)['epoch'] + 2}/3: train loss "
    assert next(line for line in lines if line.startswith("epoch")).startswith(first)
    assert " error " in next(line for line in lines if line.startswith("epoch"))


def test_a_checkpoint_of_another_task_is_refused_with_the_one_that_it_is_of(checkpoint, capsys):
    with pytest.raises(SystemExit) as error:
        main(["test", "--config", "toy.yaml", "--ckpt_path", checkpoint])
    assert error.value.code == 2
    assert "add --model tests.train.tasks.test_base.ToyTask" in capsys.readouterr().err


def test_predict_is_for_classes(checkpoint):
    arguments = ["--config", "toy.yaml", *TOY, "--data.normals", "true", "--ckpt_path", checkpoint]
    with pytest.raises(SystemExit, match="expected a ClassificationTask, got ToyTask"):
        main(["predict", *arguments])


def test_the_extra_loss_of_the_network_counts_by_its_weight(monkeypatch):
    monkeypatch.setattr(ToyTask, "log", lambda *args, **options: None)
    batch = {
        "points": torch.randn(4, 16, 3),
        "label": torch.arange(4.0),
        "index": torch.arange(4),
    }
    losses = {}
    for weight in (0.0, 0.25):
        torch.manual_seed(0)
        task = ToyTask(penalty_weight=weight)
        losses[weight] = task.training_step(batch, 0)
    extra = task.model.layers[0].weight.square().sum()
    torch.testing.assert_close(losses[0.25] - losses[0.0], 0.25 * extra)


def test_a_task_may_bring_an_optimizer_of_its_own():
    class Own(ToyTask):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.01)

    task = Own()
    before = task.model.layers[0].weight.detach().clone()
    make_trainer(max_epochs=1).fit(task, ArrayDataModule())
    assert not torch.equal(before, task.model.layers[0].weight)


@pytest.mark.parametrize("hook", ["configure_models", "configure_losses"])
def test_a_task_that_lacks_a_hook_says_which(hook):
    def missing(self, *args):
        return getattr(BaseTask, hook)(self, *args)

    kind = type("Unfinished", (ToyTask,), {hook: missing})
    with pytest.raises(NotImplementedError, match=f"Unfinished has no {hook}"):
        kind()
