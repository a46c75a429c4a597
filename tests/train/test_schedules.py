import math
from typing import Any

import pytest
import torch
from torch import nn

from sharedmlp.layers.sync_norm import SyncBatchNorm
from sharedmlp.train.schedules import (
    NormWarmup,
    Steps,
    learning_rate_factor,
    norm_momentum,
    set_norm_momentum,
)
from tests.train.tiny import ArrayDataModule, make_task, make_trainer

STEPS = Steps(total=100, epoch=2)


def factors(schedule, warmup=0.0, steps=STEPS):
    return [learning_rate_factor(schedule, step, steps, warmup) for step in range(101)]


def test_constant_is_constant():
    assert set(factors("constant")) == {1.0}
    assert learning_rate_factor("constant", 10**9, Steps(math.inf, math.inf), 0.0) == 1.0


def test_cosine_falls_from_one_to_zero():
    found = factors("cosine")
    expected = [0.5 + 0.5 * math.cos(step / 100 * math.pi) for step in range(101)]
    assert found == pytest.approx(expected, abs=1e-12)


def test_step_halves_every_twenty_epochs():
    assert factors("step") == [0.5 ** (step // 40) for step in range(101)]


@pytest.mark.parametrize("schedule", ["constant", "cosine", "step"])
def test_warmup_rises_linearly_to_one(schedule):
    found = factors(schedule, warmup=0.1)
    assert found[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert found[10] == 1.0
    if schedule == "cosine":
        assert found[55] == pytest.approx(0.5)
        assert found[100] == pytest.approx(0.0)


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="choose one of constant, cosine, step"):
        factors("poly")


def test_the_momentum_halves_every_twenty_epochs_and_stays_above_a_hundredth():
    epochs = (0, 19, 20, 40, 100, 120, 1000)
    assert [norm_momentum(epoch) for epoch in epochs] == [0.5, 0.5, 0.25, 0.125, 1 / 64, 0.01, 0.01]


def test_every_kind_of_batch_norm_gets_the_momentum():
    model: Any = nn.Sequential(nn.BatchNorm1d(2), nn.Sequential(SyncBatchNorm(2)), nn.LayerNorm(2))
    set_norm_momentum(model, 0.25)
    assert (model[0].momentum, model[1][0].momentum) == (0.25, 0.25)


def momenta(task):
    return {m.momentum for m in task.model.modules() if isinstance(m, nn.BatchNorm1d)}


@pytest.mark.parametrize(("schedule", "expected"), [("step", 0.5), ("constant", 0.1)])
def test_after_a_training_the_momentum_is_that_of_its_schedule(schedule, expected):
    task, seen = make_task(schedule=schedule), []
    task.on_train_batch_end = lambda *_: seen.append(momenta(task))
    make_trainer(max_epochs=1, limit_val_batches=0).fit(task, ArrayDataModule())
    # The first batches of either schedule have the momentum of the paper.
    assert seen[0] == seen[-1] == {0.5}
    assert momenta(task) == {expected}


def test_the_momentum_of_the_first_batches_is_halved_until_it_is_the_layers_own():
    norms: Any = nn.Sequential(
        nn.BatchNorm1d(2), nn.BatchNorm1d(2, momentum=0.3), SyncBatchNorm(2), nn.LayerNorm(2)
    )
    warmup, found = NormWarmup(), []
    warmup.start(norms)
    for batches in (0, 99, 100, 200, 300, 400):
        for norm in norms[:3]:
            norm.num_batches_tracked.fill_(batches)
        warmup.step()
        found.append([norm.momentum for norm in norms[:3]])
    assert [row[0] for row in found] == [0.5, 0.5, 0.25, 0.125, 0.1, 0.1]
    assert [row[1] for row in found] == [0.5, 0.5, 0.3, 0.3, 0.3, 0.3]
    assert [row[2] for row in found] == [row[0] for row in found]


def test_a_warmup_that_stops_early_or_starts_twice_leaves_the_momentum_of_the_layers():
    norms, warmup = nn.Sequential(nn.BatchNorm1d(2, momentum=0.05)), NormWarmup()
    for _ in range(2):
        warmup.start(norms)
        warmup.step()
        assert norms[0].momentum == 0.5
    warmup.stop()
    assert norms[0].momentum == 0.05


def test_a_norm_without_momentum_or_statistics_is_left_alone():
    norms: Any = nn.Sequential(
        nn.BatchNorm1d(2, momentum=None), nn.BatchNorm1d(2, track_running_stats=False)
    )
    warmup = NormWarmup()
    warmup.start(norms)
    warmup.step()
    assert [norm.momentum for norm in norms] == [None, 0.1]


def test_validation_follows_training_from_the_first_epoch():
    """By the statistics of the trained network, which torch's momentum misses by most of them."""
    task = make_task(learning_rate=0.001, schedule="constant")
    data = ArrayDataModule(train=(30, 30, 30), batch_size=8)
    make_trainer(max_epochs=1, limit_val_batches=0).fit(task, data)
    norm: Any = next(m for m in task.model.modules() if isinstance(m, nn.BatchNorm1d))
    running = norm.running_var.clone()
    # Measured anew, on all clouds at once.
    norm.momentum = 1.0
    task.train()(torch.from_numpy(data.datasets["train"].pool.points))
    # What is left of the variance before training, which is 1.
    left = (running - norm.running_var) / (1 - norm.running_var)
    assert float(left.abs().max()) < 0.15


def test_a_training_warms_up_from_its_first_step():
    task, rates = make_task(schedule="constant", warmup=0.5, learning_rate=0.1), []
    task.on_before_zero_grad = lambda *_: rates.append(task.optimizers().param_groups[0]["lr"])
    trainer = make_trainer(max_epochs=2, limit_val_batches=0)
    trainer.fit(task, ArrayDataModule())
    rising = trainer.global_step / 2
    expected = [0.1 * min(1.0, (n + 1) / (rising + 1)) for n in range(trainer.global_step)]
    assert rates == pytest.approx(expected)


@pytest.mark.parametrize("options", [{"warmup": 1.0}, {"warmup": -0.1}])
def test_what_is_out_of_range_is_refused(options):
    with pytest.raises(ValueError, match="warmup is a share"):
        make_task(**options)
