"""What the segmentation task trains and measures."""

from typing import Any

import pytest
import torch
from pytorch_lightning import seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint

from sharedmlp import create_model
from sharedmlp.__main__ import main
from sharedmlp.data import DataError
from sharedmlp.export import export_model
from sharedmlp.models import load_pretrained, load_trained, save_safetensors
from sharedmlp.train import SegmentationTask
from tests.environment import own_environment
from tests.reports.test_iou import plain_iou, plain_shape_iou
from tests.tolerances import assert_close
from tests.train.tiny import make_trainer
from tests.train.tiny_parts import (
    PART_NAMES,
    PARTS,
    SMALL,
    PartsDataModule,
    make_scene_task,
    make_task,
)


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch):
    own_environment(monkeypatch)


def everything(dataset):
    return dataset.__getitems__(range(len(dataset)))


def plain_metrics(logits, batch, parts):
    """All metrics of labelled clouds, by the plain formulas; of scenes if there are no parts."""
    labels = batch["label"]
    if parts:
        for row, category in enumerate(batch["category"].tolist()):
            others = [c for c in range(6) if c not in parts[category]]
            logits[row, :, others] = -torch.inf
    predictions = logits.argmax(-1)
    p, t = (x[labels >= 0].tolist() for x in (predictions, labels))
    recall = [
        sum(a == b == c for a, b in zip(p, t, strict=True)) / t.count(c) for c in sorted(set(t))
    ]
    iou = [value for c in range(6) if (value := plain_iou(p, t, c)) is not None]
    values = {
        "overall_accuracy": sum(a == b for a, b in zip(p, t, strict=True)) / len(t),
        "mean_class_accuracy": sum(recall) / len(recall),
        "mean_iou": sum(iou) / len(iou),
    }
    if parts:
        shapes: dict[int, list[float]] = {}
        for a, b, c in zip(predictions.tolist(), labels.tolist(), batch["category"], strict=True):
            value = plain_shape_iou(a, b, parts[int(c)])
            assert value is not None
            shapes.setdefault(int(c), []).append(value)
        every = [value for some in shapes.values() for value in some]
        means = [sum(some) / len(some) for some in shapes.values()]
        values["instance_mean_iou"] = sum(every) / len(every)
        values["class_mean_iou"] = sum(means) / len(means)
    return values


@pytest.mark.parametrize("parts", [True, False])
def test_metrics_are_those_of_all_points_of_the_epoch(parts):
    task: Any = (make_task if parts else make_scene_task)()
    data = PartsDataModule(parts)
    trainer = make_trainer()
    trainer.test(task, data, verbose=False)
    batch = everything(data.datasets["test"])
    assert (batch["label"] == -1).any()
    task.eval()
    with torch.no_grad():
        logits = task(*task.network_inputs(batch))
    counted = batch["label"] >= 0
    loss = torch.nn.functional.cross_entropy(logits[counted], batch["label"][counted])
    expected = {"loss": float(loss), **plain_metrics(logits, batch, PARTS if parts else None)}
    assert {name: float(value) for name, value in trainer.callback_metrics.items()} == (
        pytest.approx({f"test/{name}": value for name, value in expected.items()}, rel=1e-5)
    )


def test_the_training_loss_is_the_weighted_mean_over_the_points_of_the_epoch(monkeypatch):
    seen = []
    step = SegmentationTask.log_metrics

    def record(self, stage, loss, logits, batch):
        seen.append((logits.flatten(0, 1), batch["label"].flatten()))
        step(self, stage, loss, logits, batch)

    monkeypatch.setattr(SegmentationTask, "log_metrics", record)
    weights = [1.0, 2.0, 0.5, 1.0, 3.0, 1.0]
    task = make_task(class_weights=weights, label_smoothing=0.1)
    trainer = make_trainer(max_epochs=1, num_sanity_val_steps=0, limit_val_batches=0)
    trainer.fit(task, PartsDataModule())
    assert len({int((labels >= 0).sum()) for _, labels in seen}) > 1
    theirs = torch.nn.CrossEntropyLoss(torch.tensor(weights), ignore_index=-1, label_smoothing=0.1)
    expected = theirs(*(torch.cat(parts) for parts in zip(*seen, strict=True)))
    torch.testing.assert_close(trainer.callback_metrics["train/loss"], expected)


def test_it_learns_and_resumes_as_if_it_had_not_stopped(tmp_path):
    def fit(task, epochs, ckpt_path=None):
        seed_everything(0, verbose=False)
        keep = ModelCheckpoint(tmp_path / str(epochs), filename="last", monitor=None)
        trainer = make_trainer(max_epochs=epochs, callbacks=[keep], enable_checkpointing=True)
        data = PartsDataModule(jitter=0.0)
        trainer.fit(task, data, ckpt_path=ckpt_path, weights_only=True)
        return float(trainer.callback_metrics["val/overall_accuracy"])

    def start():
        seed_everything(0, verbose=False)
        return make_task(learning_rate=0.02, schedule="constant")

    whole, again = start(), start()
    assert fit(whole, 6) > 0.7
    fit(again, 4)
    resumed = make_task(learning_rate=0.02, schedule="constant")
    fit(resumed, 6, tmp_path / "4" / "last.ckpt")
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], value, msg=name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_weights": [1.0]}, "a weight for each of the 6 classes, got 1"),
        ({"class_weights": [1.0, -1, 1, 1, 1, 1]}, "at least 0, got -1"),
        ({"label_smoothing": 2.0}, "label_smoothing"),
        ({"parts_of_category": [[0], [1]]}, "got 3 and 2"),
        ({"parts_of_category": [[0], [1], [6]]}, r"'sphere' are .* from 0 to 5, got \[6\]"),
        ({"model": "pointnt"}, "unknown model 'pointnt'.*pointnet"),
        ({"options": {"num_categories": 2}}, "is the data's"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(options, message):
    with pytest.raises((ValueError, DataError), match=message) as error:
        make_task(**options)
    assert "\n" not in str(error.value)


def test_a_checkpoint_of_other_categories_is_refused():
    checkpoint = {"hyper_parameters": {**make_task().hparams, "category_names": ["a", "b", "c"]}}
    with pytest.raises(DataError, match=r"the categories .*'a', 'b', 'c'.* has .*'box'"):
        make_task().on_load_checkpoint(checkpoint)


def test_the_network_is_told_the_category_only_if_asked():
    assert make_task().model.num_categories == 3
    untold: Any = make_task(tell_category=False)
    assert untold.model.num_categories == 0
    assert len(untold.network_inputs({"points": 0, "category": 0})) == 1
    assert "test/instance_mean_iou" in untold.metrics


def test_a_frozen_backbone_trains_the_head_alone():
    task: Any = make_task(freeze="backbone", learning_rate=0.1)
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    make_trainer(max_epochs=1, limit_val_batches=0).fit(task, PartsDataModule())
    changed = {n for n, v in task.model.state_dict().items() if not torch.equal(v, before[n])}
    assert changed
    assert all(name.startswith("head.") for name in changed)


@pytest.mark.parametrize("parts", [True, False])
def test_its_checkpoint_and_what_is_exported_of_it_is_the_network(parts, tmp_path):
    task: Any = (make_task if parts else make_scene_task)(backend="conv1d")
    trainer = make_trainer(max_epochs=1, enable_checkpointing=False)
    trainer.fit(task, PartsDataModule(parts))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    model = load_trained(tmp_path / "a.ckpt")
    batch = everything(trainer.datamodule.datasets["val"])
    inputs = task.network_inputs(batch)
    task.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(*inputs), task(*inputs))
    assert type(model).__name__ == "PointNetSegmenter"
    assert model.metadata["class_names"] == PART_NAMES
    assert model.metadata.get("parts_of_category") == (PARTS if parts else None)
    save_safetensors(model, tmp_path / "a.safetensors")
    again = load_pretrained(tmp_path / "a.safetensors", backend="linear")
    assert again.metadata == model.metadata
    with torch.no_grad():
        assert_close(again(*inputs), model(*inputs), kind="fused")
    assert export_model(model, tmp_path / "b.safetensors", "safetensors").max_difference < 1e-5


CLASSIFIERS: dict[str, dict[str, Any]] = {
    "pointnet_vanilla": {"local_channels": (8, 8), "global_channels": (8, 16)},
    "dgcnn": {"k": 4, "edge_channels": (6, 8), "embedding_channels": 16},
    "pointnet2_ssg": {
        "levels": (
            {"num_centers": 12, "radius": 0.7, "num_neighbors": 8, "channels": [6, 8]},
            {"num_centers": 4, "radius": 1.0, "num_neighbors": 8, "channels": [8]},
        ),
        "global_channels": (16,),
    },
}


def write_classifier(path, name, in_channels=3):
    model = create_model(name, 4, in_channels, head_channels=(8,), **CLASSIFIERS[name])
    with torch.no_grad():
        model(torch.randn(4, 20, in_channels))  # running statistics
    model.metadata = {"class_names": list("abcd")}
    save_safetensors(model, path)
    return str(path)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_starts_the_trunk_and_the_checkpoint_needs_it_no_more(name, tmp_path):
    path = write_classifier(tmp_path / "a.safetensors", name)
    task: Any = make_task(model=name, options=None, pretrained=path, backend="conv1d")
    assert "layers of the " + name in task.start.told
    old = load_pretrained(path, backend="conv1d").state_dict()
    new = task.model.state_dict()
    trunk = [key for key in old if not key.startswith("head.")]
    assert len(trunk) > 10
    for key in trunk:
        torch.testing.assert_close(new[key], old[key], rtol=0, atol=0, msg=key)
    (tmp_path / "a.safetensors").unlink()
    again: Any = SegmentationTask(**dict(task.hparams))
    again.load_state_dict(task.state_dict())
    assert again.start.source is None


def test_weights_that_do_not_fit_are_refused_in_one_line(tmp_path):
    path = write_classifier(tmp_path / "a.safetensors", "pointnet_vanilla", 6)
    with pytest.raises(DataError, match="points of 6 channels, and the data gives 3"):
        make_task(options=None, pretrained=path)
    path = write_classifier(tmp_path / "a.safetensors", "pointnet_vanilla")
    with pytest.raises(DataError, match=r"cannot start a pointnet_part: .* is missing"):
        make_task(options=None, model="pointnet_part", pretrained=path)
    wider = {"local_channels": [8, 12]}
    with pytest.raises(DataError, match=r"shape \(8, 8\), is of shape \(12, 8\)"):
        make_task(options=wider, pretrained=path)
    task: Any = make_task(options=None, pretrained=path)
    with pytest.raises(DataError, match="does not know 6 of the classes"):
        make_trainer().test(task, PartsDataModule(), verbose=False)


def test_a_segmenter_starts_one_with_the_head_that_the_classes_need(tmp_path):
    first: Any = make_task()
    model = first.model.eval()
    model.metadata = {"class_names": PART_NAMES, "category_names": ["box", "capsule", "sphere"]}
    save_safetensors(model, tmp_path / "a.safetensors")
    weights = str(tmp_path / "a.safetensors")
    same: Any = make_task(options=None, pretrained=weights).eval()
    inputs = torch.randn(2, 9, 3), torch.tensor([0, 2])
    with torch.no_grad():
        torch.testing.assert_close(same(*inputs), model(*inputs))
    new: Any = make_task(options=None, class_names=[*PART_NAMES[:5], "other"], pretrained=weights)
    assert new.start.unknown == ["other"]
    with pytest.raises(DataError, match=r"are told the categories .*'capsule'.* has .*'x'"):
        make_task(options=None, pretrained=weights, category_names=["x", "y", "z"])


CONFIG = """\
trainer:
  accelerator: cpu
  devices: 1
  max_epochs: 1
  enable_progress_bar: false
  enable_model_summary: false
  logger: {class_path: CSVLogger, init_args: {save_dir: runs, name: parts}}
model:
  class_path: SegmentationTask
  init_args:
    model: pointnet_vanilla
    options: {local_channels: [8], global_channels: [16], point_channels: [8]}
data:
  class_path: tests.train.tiny_parts.PartsDataModule
test_after_fit: true
"""


def test_the_command_line_trains_tests_and_resumes_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "parts.yaml").write_text(CONFIG)
    main(["fit", "--config", "parts.yaml"])
    printed = capsys.readouterr().out
    assert "mIoU" in printed
    assert "test_metrics.json" in printed
    path = "runs/parts/version_0/checkpoints/best.ckpt"
    saved = torch.load(path, weights_only=True)  # noqa: TID251 - plain values
    assert saved["hyper_parameters"]["parts_of_category"] == PARTS
    (best,) = [c for c in saved["callbacks"].values() if c.get("monitor")]
    assert best["monitor"] == "val/mean_iou"
    resume = ["--ckpt_path", path, "--trainer.max_epochs", "2", "--test_after_fit", "false"]
    main(["fit", "--config", "parts.yaml", *resume])
    assert "epoch 2/2" in " ".join(capsys.readouterr().out.split())
    # Of data without categories nothing of them is asked.
    without = ["--data.with_categories", "false", "--trainer.fast_dev_run", "true"]
    main(["fit", "--config", "parts.yaml", *without])
    assert "instance" not in capsys.readouterr().out


def test_all_its_arguments_are_plain_values():
    task = make_task(class_weights=[1.0] * 6)
    rebuilt = SegmentationTask(**dict(task.hparams))
    assert rebuilt.model.num_categories == 3
    assert SMALL["point_channels"] == (16, 8)
