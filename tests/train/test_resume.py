"""Trainings interrupted in mid-epoch, resumed on another backend or with other settings."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint

from sharedmlp.train import ClassificationTask
from tests.environment import own_environment
from tests.models.small import SMALL
from tests.tolerances import assert_close
from tests.train.tiny import ArrayDataModule, make_task, make_trainer

# Checkpoints of each step are many: the channels are few, and of the T-Nets there is one.
POINTNET = {**SMALL["pointnet_vanilla"], "transforms": "input"}
OPTIMIZERS = {"adamw": {"weight_decay": 0.01}, "adam": {"weight_decay": 0.01}, "sgd": {}}


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch):
    own_environment(monkeypatch)


def train(task, folder, *, ckpt_path=None, num_workers=0, **limits):
    """Trains in float64 and keeps a checkpoint of each step."""
    seed_everything(3, verbose=False)
    keep = ModelCheckpoint(folder, filename="{step}", save_top_k=-1, every_n_train_steps=1)
    trainer = make_trainer(
        precision="64-true",
        enable_checkpointing=True,
        callbacks=[keep],
        **{"max_epochs": 2, "limit_val_batches": 0, **limits},
    )
    # 4 clouds of each class to train on: an epoch is 3 batches of 4
    data = ArrayDataModule(train=(5, 5, 5), val_fraction=0.2, num_workers=num_workers)
    trainer.fit(task, data, ckpt_path=ckpt_path, weights_only=True)
    assert trainer.global_step == 6
    return trainer


def moments(trainer):
    states = trainer.optimizers[0].state_dict()["state"].values()
    return [v.flatten() for s in states for k, v in sorted(s.items()) if torch.is_tensor(v)]


@pytest.mark.parametrize(
    ("optimizer", "fused"),
    [
        (optimizer, fused) if fused else pytest.param(optimizer, fused, marks=pytest.mark.slow)
        for optimizer, fused in zip(OPTIMIZERS, [True, False, True], strict=True)
    ],
)
def test_a_training_changes_its_backend_in_mid_epoch_twice(tmp_path, optimizer, fused):
    options = {"optimizer": optimizer, "fused": fused, **OPTIMIZERS[optimizer]}
    options["options"] = POINTNET
    tasks = {
        backend: make_task(model="pointnet", backend=backend, **options)
        for backend in ("linear", "conv1d", "conv2d")
    }
    start = {name: value.clone() for name, value in tasks["linear"].state_dict().items()}
    whole = train(tasks["linear"], tmp_path / "linear")
    train(tasks["conv1d"], tmp_path / "conv1d", ckpt_path=tmp_path / "linear" / "step=3.ckpt")
    end = train(tasks["conv2d"], tmp_path / "conv2d", ckpt_path=tmp_path / "conv1d" / "step=5.ckpt")

    expected, moved = tasks["linear"].state_dict(), 0
    for name, value in tasks["conv2d"].state_dict().items():
        assert_close(
            value.reshape(expected[name].shape), expected[name], kind="training", scale=1, name=name
        )
        moved += not torch.equal(start[name], expected[name])
    assert moved > len(expected) / 2
    for value, wanted in zip(moments(end), moments(whole), strict=True):
        scale = max(float(wanted.abs().max()), 1e-6)  # of zeros, roundings are left
        assert_close(value.double(), wanted.double(), kind="training", scale=scale)


@pytest.mark.parametrize(
    ("step", "num_workers"),
    [(1, 0), (2, 1), pytest.param(4, 1, marks=pytest.mark.slow), (3, 0)],
)
def test_a_resume_in_mid_epoch_is_bitwise_the_uninterrupted_run(
    tmp_path, step, num_workers, recwarn
):
    whole, resumed = make_task(dropout=0.5), make_task(dropout=0.5)
    train(whole, tmp_path / "whole")
    checkpoint = tmp_path / "whole" / f"step={step}.ckpt"
    train(resumed, tmp_path / "rest", ckpt_path=checkpoint, num_workers=num_workers)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert not any("not resumable" in str(warning.message) for warning in recwarn)


@pytest.mark.parametrize("step", [2, 3, pytest.param(5, marks=pytest.mark.slow)])
def test_a_run_limited_by_steps_resumes_too(tmp_path, step):
    limits = {"max_steps": 6, "max_epochs": -1}
    whole, resumed = make_task(dropout=0.5), make_task(dropout=0.5)
    train(whole, tmp_path / "whole", **limits)
    train(resumed, tmp_path / "rest", ckpt_path=tmp_path / "whole" / f"step={step}.ckpt", **limits)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_resumed_run_takes_the_settings_that_it_is_given(tmp_path):
    train(make_task(learning_rate=0.1, weight_decay=0.1, schedule="cosine"), tmp_path / "a")
    other = make_task(learning_rate=0.4, weight_decay=0.2, schedule="constant", optimizer="adam")
    seen = []
    other.on_train_batch_end = lambda *_: seen.append(
        {key: other.optimizers().param_groups[0][key] for key in ("lr", "weight_decay")}
    )
    trainer = train(other, tmp_path / "b", ckpt_path=tmp_path / "a" / "step=4.ckpt")
    assert seen == [{"lr": 0.4, "weight_decay": 0.2}] * 2
    assert trainer.optimizers[0].param_groups[0]["decoupled_weight_decay"] is False


def test_a_resumed_cosine_goes_on_where_it_was(tmp_path):
    rates = []

    class Watched(ClassificationTask):
        def on_train_batch_end(self, *_):
            optimizer: Any = self.optimizers()
            rates.append(optimizer.param_groups[0]["lr"])

    options: dict[str, Any] = {
        "class_names": ["box", "capsule", "sphere"],
        "model": "pointnet_vanilla",
        "options": SMALL["pointnet_vanilla"],
    }
    train(Watched(**options, learning_rate=0.1), tmp_path / "a")
    whole, rates[:] = list(rates), []
    train(
        Watched(**options, learning_rate=0.2),
        tmp_path / "b",
        ckpt_path=tmp_path / "a" / "step=4.ckpt",
    )
    assert rates == [pytest.approx(2 * rate) for rate in whole[4:]]


@pytest.mark.parametrize(("rest", "expected"), [([0.7, 0.8], "a"), ([0.7, 0.95], "b")])
def test_the_best_checkpoint_of_before_stays_the_best_until_a_better_one(
    tmp_path, monkeypatch, recwarn, rest, expected
):
    def fit(folder, scores, **options):
        scores = iter(scores)
        monkeypatch.setattr(
            ClassificationTask,
            "on_validation_epoch_end",
            lambda task: task.log("score", next(scores)),
        )
        best = ModelCheckpoint(tmp_path / folder, filename="best", monitor="score", mode="max")
        last = ModelCheckpoint(tmp_path / folder, filename="last")
        trainer = make_trainer(
            enable_checkpointing=True, callbacks=[best, last], num_sanity_val_steps=0, **options
        )
        trainer.fit(make_task(), ArrayDataModule(), ckpt_path=resumed, weights_only=True)
        return Path(best.best_model_path)

    resumed = None
    first = fit("a", [0.9, 0.5], max_epochs=2)
    resumed, content = tmp_path / "a" / "last.ckpt", first.read_bytes()
    assert fit("b", rest, max_epochs=4) == tmp_path / expected / "best.ckpt"
    assert first.read_bytes() == content
    assert not any("dirpath has changed" in str(warning.message) for warning in recwarn)


def test_the_state_of_another_optimizer_is_refused(tmp_path):
    train(make_task(optimizer="sgd"), tmp_path / "a")
    with pytest.raises(ValueError, match="optimizer is not AdamW"):
        train(make_task(), tmp_path / "b", ckpt_path=tmp_path / "a" / "step=2.ckpt")


def test_what_trains_nothing_does_not_ask_for_the_optimizer(tmp_path):
    train(make_task(optimizer="sgd"), tmp_path / "a")
    checkpoint = tmp_path / "a" / "step=2.ckpt"
    loaded = ClassificationTask.load_from_checkpoint(checkpoint, optimizer="adam")
    make_trainer(precision="64-true").test(
        loaded, ArrayDataModule(), ckpt_path=checkpoint, weights_only=True, verbose=False
    )


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(ValueError, match="choose one of adamw, adam, sgd"):
        make_task(optimizer="lion").configure_optimizers()
