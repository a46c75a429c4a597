"""Trainings and tests in several gloo processes against the same ones in one process."""

import contextlib
import copy
import importlib
import io
import itertools
import json
import os
import sys
import time
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional

from sharedmlp.__main__ import main
from sharedmlp.layers.sync_norm import SyncBatchNorm
from sharedmlp.models import PointNet
from sharedmlp.train import ClassificationTask
from sharedmlp.train.schedules import set_norm_momentum
from tests.environment import own_environment
from tests.processes import run_processes
from tests.train import tiny_parts
from tests.train.tiny import ArrayDataModule, make_task, make_trainer, write_tree

GLOBAL_BATCH = 12
CASES = list(itertools.product(["linear", "conv1d", "conv2d"], [True, False]))
QUICK_CASES = [("linear", True), ("conv1d", False), ("conv2d", True)]
UNEVEN = (9, 7, 2)  # sizes of a test split; nine in batches of four are 2 and 1 batches
TINY = """\
trainer:
  accelerator: cpu
  max_epochs: 1
  enable_progress_bar: false
  enable_model_summary: false
  logger: {class_path: CSVLogger, init_args: {save_dir: runs, name: tiny}}
model: {model: pointnet_vanilla}
data:
  class_path: MeshTreeDataModule
  init_args: {root: tree, pool_size: 64, num_points: 32, batch_size: 4, val_fraction: 0.34}
"""


class Recorder(pl.Callback):
    """Keeps the loss and the clouds of every step of this process."""

    def __init__(self):
        self.losses, self.train, self.val, self.test = [], [], [], []

    def on_train_batch_end(self, trainer, task, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"].detach())
        self.train.append(batch)

    def on_validation_batch_end(self, trainer, task, outputs, batch, batch_idx, dataloader_idx=0):
        self.val.append(batch)

    def on_test_batch_end(self, trainer, task, outputs, batch, batch_idx, dataloader_idx=0):
        self.test.append(batch)


def make_network(backend="linear", fused=True, norm="batch", **options):
    """A small network, with the task's own where its size does not matter."""
    torch.manual_seed(0)
    task = make_task(dropout=0.0, norm=norm, **options)
    task.model = PointNet(
        3,
        backend=backend,
        norm=norm,
        fused="auto" if fused else False,
        transforms=False,
        dropout=0.0,
        local_channels=(6, 8),
        global_channels=(8, 24),
        head_channels=(10,),
    )
    return task


def run(world_size, task, data, stage="fit", **options):
    recorder = Recorder()
    if world_size > 1:
        options |= {"devices": world_size, "strategy": "ddp"}
    trainer = make_trainer(
        precision="64-true", callbacks=[recorder], num_sanity_val_steps=0, **options
    )
    getattr(trainer, stage)(task, data, **({} if stage == "fit" else {"verbose": False}))
    logged = {name: value.detach() for name, value in trainer.callback_metrics.items()}
    return recorder, logged


def train(world_size, task):
    """Two epochs of 32 clouds, the last batch smaller, validated on nine; what came out."""
    data = ArrayDataModule(
        train=(13, 14, 14),
        val_fraction=0.22,
        batch_size=GLOBAL_BATCH // world_size,
        rotate=False,
        jitter=0.0,
    )
    recorder, logged = run(world_size, task, data, max_epochs=2)
    assert [len(batch["index"]) * world_size for batch in recorder.train] == [12, 12, 8] * 2
    return {
        "losses": torch.stack(recorder.losses),
        "state": dict(task.model.state_dict()),
        "logged": logged,
    }


def train_cases(world_size, cases):
    return [train(world_size, make_network(case[0], case[1], "sync_batch")) for case in cases]


def make_full(backend, fused, **options):
    torch.manual_seed(0)
    options |= {"backend": backend, "fused": fused, "norm": "sync_batch", "dropout": 0.0}
    return make_task(model="pointnet", **options)


def make_fewer_channels():
    """With both T-Nets, as the full one."""
    few = {"local_channels": (8, 8), "global_channels": (8, 16), "head_channels": (12,)}
    return make_full("conv1d", True, options=few)


def step_unsynchronised(world_size):
    """One step of gradient descent, without validation: what each process has of its own stays."""
    task = make_network(norm="batch", optimizer="sgd", learning_rate=0.1, schedule="constant")
    recorder, _ = run(
        world_size, task, ArrayDataModule(batch_size=4), max_steps=1, limit_val_batches=0
    )
    return {
        "batch": recorder.train[0],
        "loss": recorder.losses[0],
        "state": dict(task.model.state_dict()),
    }


def evaluate(world_size, stage, count):
    task = make_network()
    data = ArrayDataModule(train=(count * 4, 5, 5), val_fraction=0.2, test=(count - 1, 1, 0))
    recorder, logged = run(world_size, task, data, stage)
    return {
        "logged": logged,
        "batches": getattr(recorder, "val" if stage == "validate" else "test"),
        "confusion": task.test_confusion.compute() if stage == "test" else torch.zeros(()),
        "calibration": task.calibration.metadata(task.global_step),
        "mistakes": [mistake[:3] for mistake in task.test_mistakes],
    }


def evaluate_parts(world_size):
    """A test of the parts of shapes; the last batches of two processes are uneven."""
    torch.manual_seed(0)
    task = tiny_parts.make_task()
    data = tiny_parts.PartsDataModule(test=(4, 3, 2), batch_size=2)
    return run(world_size, task, data, "test")[1]


def augment(world_size):
    """Turned about z alone, of all points of the pool."""
    data = ArrayDataModule(pool_size=16, jitter=0.0)
    recorder, _ = run(world_size, make_network(), data, max_epochs=2)
    return {"train": recorder.train, "val": recorder.val}


def train_from_command_line(rank, folder):
    build: Any = importlib.import_module("sharedmlp.data.build")
    written, printed = [], io.StringIO()
    write_cache = build.write_cache

    def write(directory, *rest):
        written.append(directory.name[:5].rstrip("-"))
        time.sleep(0.5)  # an impatient process would come past
        return write_cache(directory, *rest)

    build.write_cache = write
    os.chdir(folder)
    with contextlib.redirect_stdout(printed):
        sys.argv = ["sharedmlp"]
        options = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--test_after_fit=true"]
        main(["fit", "--config", "tiny.yaml", *options, "--trainer.sync_batchnorm", "true"])
    return {"written": written, "printed": printed.getvalue()}


def work_of_two(rank, folder):
    return {
        "small": train_cases(2, QUICK_CASES),
        "full": train(2, make_fewer_channels()),
        "step": step_unsynchronised(2),
        "evaluations": {n: [evaluate(2, s, n) for s in ("validate", "test")] for n in UNEVEN},
        "parts": evaluate_parts(2),
        "augmented": augment(2),
        "cli": train_from_command_line(rank, folder),
    }


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    write_tree(folder / "tree", train=5, test=3)
    (folder / "tiny.yaml").write_text(TINY)
    return folder, run_processes(2, work_of_two, folder)


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch):
    own_environment(monkeypatch)


def check_equal(results, whole, name):
    """Losses, weights, running statistics and metrics of a training against one process's."""
    losses = torch.stack([result["losses"] for result in results]).mean(dim=0)
    torch.testing.assert_close(losses, whole["losses"], rtol=0, atol=1e-9, msg=f"{name}: losses")
    assert losses.dtype == torch.float64
    for result in results:
        for kind in ("state", "logged"):
            assert result[kind].keys() == whole[kind].keys()
            for key, value in result[kind].items():
                error = (value.double() - whole[kind][key].double()).abs().max()
                assert error <= 1e-9, f"{name}: {key} differs by {error:.3g}"


def test_the_same_global_batch_gives_the_same_training(two):
    _, results = two
    for number, (case, whole) in enumerate(
        zip(QUICK_CASES, train_cases(1, QUICK_CASES), strict=True)
    ):
        check_equal([result["small"][number] for result in results], whole, case)
    check_equal([result["full"] for result in results], train(1, make_fewer_channels()), "full")


FULL = [("linear", True), ("conv2d", False)]


def work_of_four(rank, folder):
    return {
        "small": train_cases(4, CASES),
        "full": [train(4, make_full(*case)) for case in FULL],
        "evaluations": [evaluate(4, stage, 9) for stage in ("validate", "test")],
    }


@pytest.mark.slow
def test_four_processes(tmp_path):
    results = run_processes(4, work_of_four, tmp_path)
    for number, (case, whole) in enumerate(zip(CASES, train_cases(1, CASES), strict=True)):
        check_equal([result["small"][number] for result in results], whole, case)
    for number, case in enumerate(FULL):
        whole = train(1, make_full(*case))
        check_equal([result["full"][number] for result in results], whole, case)
    for number, stage in enumerate(("validate", "test")):
        check_evaluation([r["evaluations"][number] for r in results], evaluate(1, stage, 9))


def test_without_shared_statistics_each_process_normalises_its_own_clouds(two):
    """The weights move by the mean gradient; running statistics are those of the process."""
    steps = [result["step"] for result in two[1]]
    task = make_network()
    model = task.model.double().train()
    gradients, losses = [], []
    for step in steps:
        share = copy.deepcopy(model)
        set_norm_momentum(share, 0.5)  # of the first batches of a training
        loss = functional.cross_entropy(share(step["batch"]["points"]), step["batch"]["label"])
        loss.backward()
        torch.testing.assert_close(step["loss"], loss.detach(), rtol=0, atol=1e-9)
        for name, buffer in share.named_buffers():
            torch.testing.assert_close(step["state"][name], buffer, rtol=0, atol=1e-9, msg=name)
        gradients.append([parameter.grad for parameter in share.parameters()])
        losses.append(loss.detach())
    for (name, parameter), *parts in zip(model.named_parameters(), *gradients, strict=True):
        expected = parameter.detach() - 0.1 * sum(parts) / len(parts)
        for step in steps:
            torch.testing.assert_close(step["state"][name], expected, rtol=0, atol=1e-9, msg=name)
    points, labels = (torch.cat([s["batch"][key] for s in steps]) for key in ("points", "label"))
    together = functional.cross_entropy(model(points), labels)
    assert abs(together - torch.stack(losses).mean()) > 1e-4


def check_evaluation(results, whole):
    expected = torch.cat([batch["index"] for batch in whole["batches"]])
    shares = [torch.cat([batch["index"] for batch in r["batches"]]) for r in results]
    assert sorted(torch.cat(shares).tolist()) == expected.tolist()
    assert len({len(result["batches"]) for result in results}) == 1
    for result in results:
        assert torch.equal(result["confusion"], whole["confusion"])
        assert result["mistakes"] == sorted(whole["mistakes"])
        assert result["logged"].keys() == whole["logged"].keys()
        for name, value in result["calibration"].items():
            assert value == pytest.approx(whole["calibration"][name], rel=1e-4)
        assert result["calibration"].keys() == whole["calibration"].keys()
        for name, value in result["logged"].items():
            torch.testing.assert_close(value, whole["logged"][name], rtol=0, atol=1e-9, msg=name)


@pytest.mark.parametrize("count", UNEVEN)
def test_every_cloud_counts_once(two, count):
    for number, stage in enumerate(("validate", "test")):
        whole = evaluate(1, stage, count)
        results = [result["evaluations"][count][number] for result in two[1]]
        check_evaluation(results, whole)
        if stage == "test":
            assert whole["confusion"].sum() == count
            mistakes = whole["confusion"].sum() - whole["confusion"].trace()
            assert len(results[0]["mistakes"]) == mistakes


def test_every_point_and_every_shape_counts_once(two):
    whole = evaluate_parts(1)
    assert "test/class_mean_iou" in whole
    for result in two[1]:
        assert result["parts"].keys() == whole.keys()
        for name, value in result["parts"].items():
            torch.testing.assert_close(value, whole[name], rtol=0, atol=1e-6, msg=name)


def test_each_process_augments_in_its_own_way_and_validates_alike(two):
    whole = augment(1)
    pool = {
        i: p for b in whole["val"] for i, p in zip(b["index"].tolist(), b["points"], strict=True)
    }
    angles, seen = [], []
    for result in two[1]:
        for batch in result["augmented"]["val"]:
            for index, points in zip(batch["index"].tolist(), batch["points"], strict=True):
                assert torch.equal(points, pool[index])
                seen.append(index)
        data = ArrayDataModule(pool_size=16)
        clouds = torch.from_numpy(data.open_split("train").points)
        for batch in result["augmented"]["train"]:
            before, after = clouds[batch["index"], 0], batch["points"][:, 0]
            turn = torch.atan2(after[:, 1], after[:, 0]) - torch.atan2(before[:, 1], before[:, 0])
            angles += (turn % (2 * torch.pi)).tolist()
    assert sorted(seen) == sorted([*pool, *pool])  # of two epochs
    assert min(np.diff(sorted(angles))) > 1e-5


def test_the_command_line_prepares_once_and_reports_once(two):
    folder, results = two
    first, second = (result["cli"] for result in results)
    assert first["written"] == ["train", "test"]
    assert second["written"] == []
    assert second["printed"] == ""
    assert first["printed"].count("overall accuracy") == 1
    (run_folder,) = (folder / "runs" / "tiny").iterdir()
    confusion = torch.tensor(
        json.loads((run_folder / "test_metrics.json").read_text())["confusion"]
    )
    assert confusion.sum(dim=1).tolist() == [3, 3, 3]
    checkpoint = run_folder / "checkpoints" / "best.ckpt"
    task = ClassificationTask.load_from_checkpoint(checkpoint, weights_only=True)
    assert task.hparams["norm"] == "sync_batch"


def test_sync_batchnorm_is_served_in_one_process_too(two, tmp_path, monkeypatch):
    kinds: set[Any] = set()
    monkeypatch.setattr(
        ClassificationTask,
        "on_fit_start",
        lambda task: kinds.update(
            type(m) for m in task.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)
        ),
    )
    monkeypatch.chdir(two[0])
    options = ["--trainer.sync_batchnorm", "true", "--trainer.fast_dev_run", "1"]
    main(["fit", "--config", "tiny.yaml", *options])
    assert kinds == {SyncBatchNorm}
