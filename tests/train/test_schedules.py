import math
from typing import Any

import pytest
from torch import nn

from sharedmlp.layers.sync_norm import SyncBatchNorm
from sharedmlp.train.schedules import Steps, learning_rate_factor, norm_momentum, set_norm_momentum
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


@pytest.mark.parametrize(("schedule", "expected"), [("step", 0.5), ("constant", 0.1)])
def test_training_sets_the_momentum_with_the_step_schedule_alone(schedule, expected):
    task = make_task(schedule=schedule)
    make_trainer(max_epochs=1, limit_val_batches=0).fit(task, ArrayDataModule())
    found = {m.momentum for m in task.model.modules() if isinstance(m, nn.BatchNorm1d)}
    assert found == {expected}


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
