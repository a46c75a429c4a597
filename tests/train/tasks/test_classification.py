from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from sharedmlp import SharedMLPMaxPool
from sharedmlp.models import orthogonality_penalty
from sharedmlp.train import ClassificationTask
from tests.train.tiny import CLASSES, ArrayDataModule, make_task, make_trainer


def make_batch(num_clouds=4):
    return {
        "points": torch.randn(num_clouds, 16, 3),
        "label": torch.arange(num_clouds) % 3,
        "index": torch.arange(num_clouds),
    }


def plain_metrics(logits, labels):
    hits = logits.argmax(1) == labels
    per_class = [hits[labels == value].float().mean() for value in labels.unique()]
    return {
        "loss": functional.cross_entropy(logits, labels),
        "overall_accuracy": hits.float().mean(),
        "mean_class_accuracy": torch.stack(per_class).mean(),
    }


@pytest.mark.parametrize("stage", ["val", "test"])
def test_metrics_are_those_of_the_whole_epoch(stage):
    # 11 clouds in batches of 4: an average over batches would give the last three too much weight.
    data = ArrayDataModule(train=(20, 30, 40), test=(2, 3, 6), val_fraction=0.12)
    task, trainer = make_task(), make_trainer()
    run = trainer.validate if stage == "val" else trainer.test
    (logged,) = run(task, data, verbose=False)
    dataset = data.datasets[stage]
    assert len(dataset) == 11
    everything = dataset.__getitems__(range(len(dataset)))
    task.eval()
    with torch.no_grad():
        expected = plain_metrics(task(everything["points"]), everything["label"])
    for name, value in expected.items():
        assert logged[f"{stage}/{name}"] == pytest.approx(float(value), rel=1e-5), name


def test_training_metrics_are_those_of_the_whole_epoch(monkeypatch):
    seen = []
    step = ClassificationTask.log_metrics

    def record(self, stage, loss, logits, batch):
        seen.append((stage, loss.detach(), logits, batch["label"]))
        step(self, stage, loss, logits, batch)

    monkeypatch.setattr(ClassificationTask, "log_metrics", record)
    data = ArrayDataModule(train=(5, 6, 6), val_fraction=0.2, batch_size=4)
    trainer = make_trainer(max_epochs=2, num_sanity_val_steps=0)
    trainer.fit(make_task(), data)
    batches = [parts for stage, *parts in seen if stage == "train"]
    sizes = [len(labels) for _, _, labels in batches]
    assert sizes == [4, 4, 4, 2] * 2
    second = batches[4:]
    expected = plain_metrics(*(torch.cat([part[k] for part in second]) for k in (1, 2)))
    expected["loss"] = sum(loss * n for (loss, _, _), n in zip(second, sizes, strict=False)) / 14
    for name, value in expected.items():
        logged = float(trainer.callback_metrics[f"train/{name}"])
        assert logged == pytest.approx(float(value), rel=1e-5), name


def test_confusion_matrix_and_mistakes_are_of_the_last_test_alone():
    data, task = ArrayDataModule(test=(2, 3, 6)), make_task()
    for _ in range(2):
        make_trainer().test(task, data, verbose=False)
        confusion = task.test_confusion.compute()
        assert confusion.sum(dim=1).tolist() == [2, 3, 6]
        mistakes = torch.zeros_like(confusion)
        for _, label, prediction, probability in task.test_mistakes:
            mistakes[label, prediction] += 1
            assert 1 / 3 < probability < 1
        assert torch.equal(mistakes, confusion - confusion.diagonal().diag())


def test_loss_adds_the_penalty_of_the_feature_transform(monkeypatch):
    monkeypatch.setattr(ClassificationTask, "log", lambda *args, **kwargs: None)
    batch = make_batch()
    losses = {}
    for weight in (0.0, 0.5):
        torch.manual_seed(1)
        task = make_task(model="pointnet", penalty_weight=weight, dropout=0.0)
        # The T-Net starts at the identity, where there is no penalty.
        for name, parameter in task.named_parameters():
            if "feature_tnet" in name:
                nn.init.normal_(parameter, std=0.1)
        losses[weight] = task.training_step(batch, 0)
        transform = task.model.forward_detailed(batch["points"]).feature_transform
    penalty = orthogonality_penalty(transform)
    assert penalty > 1e-3
    torch.testing.assert_close(losses[0.5] - losses[0.0], 0.5 * penalty, rtol=1e-4, atol=1e-4)


def test_label_smoothing_is_for_training_alone(monkeypatch):
    logged: dict[str, Any] = {}
    monkeypatch.setattr(
        ClassificationTask,
        "log",
        lambda self, name, metric, **_: logged.setdefault(name, metric.compute()),
    )
    batch, task = make_batch(), make_task(label_smoothing=0.3, dropout=0.0)
    task.training_step(batch, 0)
    task.validation_step(batch, 0)
    logits = task(batch["points"])
    smooth = functional.cross_entropy(logits, batch["label"], label_smoothing=0.3)
    torch.testing.assert_close(logged["train/loss"], smooth)
    torch.testing.assert_close(logged["val/loss"], functional.cross_entropy(logits, batch["label"]))


def test_weight_decay_spares_norms_and_biases():
    task = make_task(model="pointnet", schedule="constant", weight_decay=0.3)
    decayed, spared = task.configure_optimizers()["optimizer"].param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.3, 0.0)
    norms = (nn.BatchNorm1d, nn.BatchNorm2d)
    expected = {
        id(parameter)
        for module in task.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if isinstance(module, norms) or name == "bias"
    }
    assert {id(parameter) for parameter in spared["params"]} == expected
    assert len(decayed["params"]) + len(expected) == len(list(task.parameters()))


@pytest.mark.parametrize(("schedule", "last"), [("constant", 0.1), ("cosine", 0.0)])
def test_schedule_ends_where_it_says(schedule, last):
    task = make_task(schedule=schedule, learning_rate=0.1)
    trainer = make_trainer(max_epochs=2, limit_val_batches=0)
    trainer.fit(task, ArrayDataModule())
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(last, abs=1e-6)


def test_checkpoint_holds_plain_values_and_loads_on_another_backend(tmp_path):
    task = make_task(backend="conv1d", dropout=0.1, options=None)
    trainer = make_trainer(max_epochs=1, limit_val_batches=0)
    trainer.fit(task, ArrayDataModule())
    path = tmp_path / "a.ckpt"
    trainer.save_checkpoint(path)
    saved = torch.load(path, weights_only=True)["hyper_parameters"]  # noqa: TID251 - the point
    assert saved["class_names"] == list(CLASSES)
    assert {type(value) for value in saved.values()} <= {str, int, float, bool, list, type(None)}
    loaded = ClassificationTask.load_from_checkpoint(path, backend="linear")
    assert not any(isinstance(module, nn.Conv1d) for module in loaded.modules())
    assert loaded.hparams["dropout"] == 0.1
    points = torch.randn(5, 16, 3)
    torch.testing.assert_close(loaded.eval()(points), task.eval()(points), rtol=1e-4, atol=1e-5)


def test_checkpoint_of_other_classes_is_refused(tmp_path):
    data = ArrayDataModule()
    trainer = make_trainer()
    trainer.test(make_task(class_names=["box", "sphere", "capsule"]), data, verbose=False)
    path = tmp_path / "a.ckpt"
    trainer.save_checkpoint(path)
    with pytest.raises(ValueError, match="trained on the 3 classes"):
        make_trainer().test(make_task(), data, ckpt_path=path, weights_only=True, verbose=False)


@pytest.mark.parametrize(("fused", "expected"), [(True, "auto"), (False, False)])
def test_fused_and_search_precision_reach_every_max(fused, expected):
    task = make_task(model="pointnet", fused=fused, search_precision="bfloat16")
    pools = [m for m in task.modules() if isinstance(m, SharedMLPMaxPool)]
    assert [pool.fused for pool in pools] == [expected] * 3
    assert all(pool.search_precision == "bfloat16" for pool in pools)
