"""Lightning's own switches: each has its effect on these tasks and data."""

from itertools import chain
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning import seed_everything
from pytorch_lightning.callbacks import (
    EarlyStopping,
    LearningRateFinder,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from pytorch_lightning.tuner.tuning import Tuner
from torch import nn

from sharedmlp.train import EpochLog
from tests.environment import own_environment
from tests.train.tiny import ArrayDataModule, make_task, make_trainer

# 4 clouds of each class to train on and 2 to validate on: an epoch is 3 batches of 4.
DATA: dict[str, Any] = {"train": (6, 6, 6), "val_fraction": 0.34}


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch):
    own_environment(monkeypatch)


class Watch(pl.Callback):
    """Collects the batches and the learning rates of a fit."""

    def __init__(self):
        self.train: list[list[int]] = []
        self.points: list[torch.Tensor] = []
        self.val: list[list[int]] = []
        self.rates: list[float] = []

    def on_train_batch_start(self, trainer, task, batch, batch_idx):
        self.train.append(batch["index"].tolist())
        self.points.append(batch["points"].clone())
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_validation_batch_start(self, trainer, task, batch, batch_idx, dataloader_idx=0):
        self.val.append(batch["label"].tolist())


def fit(task=None, data=None, *callbacks, **options):
    """Fits tiny data for two epochs, by a task with these options; returns it and what was seen."""
    seed_everything(0, verbose=False)
    watch = Watch()
    if not isinstance(task, pl.LightningModule):
        task = make_task(**{"learning_rate": 0.01, **(task or {})})
    trainer = make_trainer(
        **{"max_epochs": 2, "num_sanity_val_steps": 0, **options}, callbacks=[watch, *callbacks]
    )
    trainer.fit(task, data or ArrayDataModule(**DATA), weights_only=True)
    return task, watch


def last_weight(task):
    return [p for p in task.parameters() if p.ndim > 1][-1]


def assert_same_weights(one, other):
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


# --- Data ---


@pytest.mark.parametrize("batches", [2, 1.0])
def test_overfit_batches_trains_on_the_same_clouds_of_several_classes(batches):
    data = ArrayDataModule(**DATA)
    _, watch = fit(None, data, overfit_batches=batches)
    count = 2 if batches == 2 else 3
    first, second = watch.train[:count], watch.train[count:]
    assert first == second
    labels = data.datasets["train"].pool.labels
    assert len(set(labels[list(chain(*first))])) == 3
    for one, other in zip(watch.points[:count], watch.points[count:], strict=True):
        assert torch.equal(one, other)


def test_overfit_batches_can_overfit():
    whole = {"options": None}  # of few channels it learns less
    task, _ = fit(whole, None, overfit_batches=1, max_epochs=12, limit_val_batches=0)
    assert task.trainer.callback_metrics["train/loss"] < 0.2


def test_a_last_batch_of_one_cloud_is_not_overfitted():
    _, watch = fit(None, ArrayDataModule(**DATA, batch_size=11), overfit_batches=1.0, max_epochs=1)
    assert [len(batch) for batch in watch.train] == [11]


@pytest.mark.parametrize(("limit", "clouds"), [(1, 2), (0.34, 2), (1.0, 6), (0, 0)])
def test_limited_validation_sees_several_classes(limit, clouds):
    data = ArrayDataModule(**DATA, batch_size=2, seed=1)
    _, watch = fit(None, data, limit_val_batches=limit, max_epochs=1, limit_train_batches=2)
    labels = list(chain(*watch.val))
    assert len(labels) == clouds
    # In the order of the data, batches of two would be of one class each.
    assert len(set(labels)) == {0: 0, 2: 2, 6: 3}[clouds]
    assert len(watch.train) == 2


def test_a_limited_test_is_limited():
    data, seen = ArrayDataModule(test=(4, 4, 4)), []
    task = make_task()
    task.on_test_batch_start = lambda batch, *_: seen.extend(batch["label"].tolist())
    make_trainer(limit_test_batches=1).test(task, data, verbose=False)
    assert len(seen) == 4
    assert len(set(seen)) > 1


def test_limited_predictions_stay_in_order():
    trainer = make_trainer(limit_predict_batches=2)
    answers: Any = trainer.predict(make_task(), ArrayDataModule(test=(4, 4, 4)))
    assert torch.cat([answer["index"] for answer in answers]).tolist() == list(range(8))


def test_workers_that_stay_load_what_the_main_process_does():
    alone, seen = fit()
    data = ArrayDataModule(**DATA, num_workers=1, persistent_workers=True)
    task, watch = fit(None, data)
    assert data.train_dataloader().persistent_workers
    assert watch.train == seen.train
    assert_same_weights(task, alone)


@pytest.mark.slow
def test_spawned_workers_that_stay_load_what_the_main_process_does():
    spawned = {"persistent_workers": True, "multiprocessing_context": "spawn"}
    task, _ = fit(None, ArrayDataModule(**DATA, num_workers=1, **spawned))
    assert_same_weights(task, fit()[0])


def test_options_of_workers_need_no_worker():
    data = ArrayDataModule(**DATA, persistent_workers=True, multiprocessing_context="spawn")
    data.setup("fit")
    assert not data.train_dataloader().persistent_workers


def test_reloaded_loaders_go_on_with_the_next_epoch():
    class Counted(ArrayDataModule):
        loaded = 0

        def train_dataloader(self):
            self.loaded += 1
            return super().train_dataloader()

    data = Counted(**DATA)
    task, _ = fit(None, data, reload_dataloaders_every_n_epochs=1)
    assert data.loaded == 2
    assert_same_weights(task, fit()[0])


# --- Tuning ---


def test_the_learning_rate_finder_finds_the_rate_that_is_trained_with():
    finder = LearningRateFinder(num_training_steps=14, min_lr=1e-4, max_lr=0.1)
    options: dict[str, Any] = {"max_epochs": 5, "limit_val_batches": 0}
    task, watch = fit(None, None, finder, **options)
    optimal: Any = finder.optimal_lr
    found = optimal.suggestion()
    assert 1e-4 < found < 0.1
    assert task.hparams["learning_rate"] == task.learning_rate == found
    # The finder runs before training is watched.
    plain, seen = fit({"learning_rate": found}, None, **options)
    assert watch.rates == pytest.approx(seen.rates)
    assert watch.rates[0] == found
    assert_same_weights(task, plain)


def test_the_tuner_sets_the_learning_rate_and_the_batch_size():
    seed_everything(0, verbose=False)
    task, data = make_task(), ArrayDataModule(**DATA)
    tuner = Tuner(make_trainer(max_epochs=5, limit_val_batches=0))
    finder = tuner.lr_find(task, datamodule=data, num_training=14)
    assert finder is not None
    assert task.learning_rate == finder.suggestion()
    tuner.scale_batch_size(task, datamodule=data, max_trials=2, steps_per_trial=1)
    assert data.batch_size == 4
    assert [len(batch) for batch in fit(task, data, max_epochs=1)[1].train] == [4] * 3


# --- Stopping and averaging ---


def test_early_stopping_ends_a_training(capsys):
    stop = EarlyStopping("val/loss", min_delta=100.0, patience=1)
    task, watch = fit(None, None, stop, EpochLog(), max_epochs=6)
    assert len(watch.train) == 2 * 3
    assert task.trainer.current_epoch == 2
    assert capsys.readouterr().out.count("epoch ") == 2


def test_stochastic_weight_averaging_averages_measures_and_resumes(tmp_path):
    weights: list[torch.Tensor] = []

    class Weights(pl.Callback):
        def on_train_epoch_start(self, trainer, task):
            weights.append(last_weight(task).detach().clone())

    def train(folder, **options):
        swa = StochasticWeightAveraging(0.01, swa_epoch_start=2, annealing_epochs=1)
        keep = ModelCheckpoint(tmp_path / folder, filename="{epoch}", save_top_k=-1)
        seed_everything(0, verbose=False)
        task = make_task(learning_rate=0.01)
        trainer = make_trainer(
            max_epochs=3, callbacks=[Weights(), swa, keep], enable_checkpointing=True
        )
        trainer.fit(task, ArrayDataModule(**DATA), weights_only=True, **options)
        return task

    task = train("a")
    # A pass over the data without training follows: statistics of the averaged weights.
    assert len(weights) == 4
    expected = torch.stack(weights[1:3]).mean(0)
    assert torch.allclose(last_weight(task), expected, atol=1e-6)
    norms: list[Any] = [m for m in task.modules() if isinstance(m, nn.BatchNorm1d)]
    assert {norm.momentum for norm in norms} == {0.1}
    assert {int(norm.num_batches_tracked) for norm in norms} == {3}
    # Of the run that goes on only the count of epochs is compared: SWA resumes approximately.
    resumed = train("b", ckpt_path=tmp_path / "a" / "epoch=1.ckpt")
    assert resumed.trainer.global_step == task.trainer.global_step


# --- Precision, steps and gradients ---


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed", "bf16-true"])
def test_low_precision_trains(precision):
    task, _ = fit(None, None, precision=precision, max_epochs=1, enable_model_summary=False)
    expected = torch.bfloat16 if precision == "bf16-true" else torch.float32
    assert {p.dtype for p in task.parameters()} == {expected}
    assert task.trainer.callback_metrics["val/loss"].isfinite()


def test_float16_weights_are_trained_by_what_can():
    with pytest.raises(FloatingPointError, match="AdamW cannot train weights of precision 16-true"):
        fit(None, None, precision="16-true")
    task, _ = fit({"optimizer": "sgd"}, None, precision="16-true", max_epochs=1)
    assert {p.dtype for p in task.parameters()} == {torch.float16}
    assert task.trainer.callback_metrics["train/loss"].isfinite()


def test_accumulated_gradients_take_fewer_steps():
    task, watch = fit(None, None, accumulate_grad_batches=2)
    assert len(watch.train) == 6
    assert task.trainer.global_step == 4
    # The cosine counts steps.
    assert watch.rates[:2] == [0.01, 0.01]
    assert watch.rates[2] < 0.01


def test_gradients_are_clipped():
    norms: list[float] = []

    class Norms(pl.Callback):
        def on_before_zero_grad(self, trainer, task, optimizer):
            grads = [p.grad.flatten() for p in task.parameters() if p.grad is not None]
            if grads:
                norms.append(float(torch.cat(grads).norm()))

    fit(None, None, Norms(), max_epochs=1)
    free, norms[:] = max(norms), []
    fit(None, None, Norms(), max_epochs=1, gradient_clip_val=free / 10)
    assert max(norms) == pytest.approx(free / 10, rel=1e-3)


# --- Validation and the line of the epoch ---


def lines(capsys):
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]


def test_an_epoch_without_validation_does_not_repeat_the_last_one(capsys):
    fit(None, None, EpochLog(), max_epochs=4, check_val_every_n_epoch=2)
    assert ["val loss" in line for line in lines(capsys)] == [False, True, False, True]


def test_validation_within_an_epoch(capsys):
    _, watch = fit(None, None, EpochLog(), max_epochs=1, val_check_interval=1)
    assert len(watch.val) == 3 * 2
    assert "val loss" in lines(capsys)[0]


def test_a_training_limited_by_steps_does_not_say_how_many_epochs(capsys):
    task, _ = fit(None, None, EpochLog(), max_epochs=-1, max_steps=4)
    assert task.trainer.global_step == 4
    assert [line.split(":")[0] for line in lines(capsys)] == ["epoch 1", "epoch 2"]


def test_evaluation_without_inference_mode_gives_the_same():
    values = [
        make_trainer(inference_mode=mode).test(make_task(), ArrayDataModule(), verbose=False)
        for mode in (True, False)
        if seed_everything(0, verbose=False) == 0
    ]
    assert values[0] == values[1]


def test_anomalies_are_detected():
    class Broken(pl.Callback):
        def on_train_batch_start(self, trainer, task, batch, batch_idx):
            assert torch.is_anomaly_enabled()
            raise RuntimeError("seen")

    with pytest.raises(RuntimeError, match="seen"):
        fit(None, None, Broken(), detect_anomaly=True)


def test_deterministic_algorithms_can_train():
    before = torch.are_deterministic_algorithms_enabled()
    try:
        fit(None, None, deterministic=True, max_epochs=1)
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(before)
