import pytest
import torch
from pytorch_lightning import seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint

from tests.environment import own_environment
from tests.train.tiny import ArrayDataModule, make_task, make_trainer


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch):
    own_environment(monkeypatch)


def run(seed, epochs, folder, *, ckpt_path=None, num_workers=0):
    """Trains from scratch or on from a checkpoint; keeps a checkpoint of each epoch."""
    seed_everything(seed, verbose=False)
    task, data = make_task(weight_decay=0.01), ArrayDataModule(num_workers=num_workers)
    keep = ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)
    trainer = make_trainer(max_epochs=epochs, enable_checkpointing=True, callbacks=[keep])
    trainer.fit(task, data, ckpt_path=ckpt_path, weights_only=True)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return task.state_dict(), trainer.optimizers[0].state_dict()["state"], metrics


def assert_same(first, second):
    for name, value in first[0].items():
        assert torch.equal(value, second[0][name]), name
    for key, state in first[1].items():
        for name, value in state.items():
            assert torch.equal(value, second[1][key][name]), (key, name)
    assert first[2] == second[2]


def test_one_seed_is_one_run(tmp_path):
    first, second = (run(3, 2, tmp_path / name) for name in "ab")
    assert_same(first, second)


def test_another_seed_is_another_run(tmp_path, monkeypatch):
    first, second = (run(seed, 1, tmp_path / str(seed)) for seed in (3, 4))
    assert any(not torch.equal(first[0][name], second[0][name]) for name in first[0])


def test_worker_processes_change_nothing(tmp_path):
    assert_same(run(3, 2, tmp_path / "a"), run(3, 2, tmp_path / "b", num_workers=1))


@pytest.mark.parametrize("num_workers", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, num_workers):
    whole = run(3, 4, tmp_path / "whole")
    checkpoint = tmp_path / "whole" / "epoch=1.ckpt"
    resumed = run(3, 4, tmp_path / "rest", ckpt_path=checkpoint, num_workers=num_workers)
    assert_same(whole, resumed)
    assert {path.name for path in (tmp_path / "rest").iterdir()} == {"epoch=2.ckpt", "epoch=3.ckpt"}
