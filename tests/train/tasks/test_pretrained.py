"""Trainings that start from weights: the head, what is frozen, and how they resume."""

import pytest
import torch
from pytorch_lightning import seed_everything
from pytorch_lightning.callbacks import EMAWeightAveraging, ModelCheckpoint

from sharedmlp import create_model
from sharedmlp.models import load_pretrained, save_safetensors
from sharedmlp.train import ClassificationTask
from tests.environment import own_environment
from tests.models.small import SMALL
from tests.tolerances import assert_close
from tests.train.tiny import CLASSES, ArrayDataModule, make_trainer


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch):
    own_environment(monkeypatch)


def write(path, class_names=CLASSES, name="pointnet_vanilla", in_channels=3, **metadata):
    torch.manual_seed(0)
    model = create_model(name, len(class_names), in_channels, **SMALL[name])
    with torch.no_grad():
        model(torch.randn(6, 20, in_channels))  # running statistics
    model.metadata = {"class_names": list(class_names), **metadata}
    save_safetensors(model, path)
    return model.eval()


@pytest.fixture
def weights(tmp_path):
    """A file, which knows more classes than the data."""
    write(tmp_path / "a.safetensors", ["sphere", "cone", "Box", "capsule"])
    return tmp_path / "a.safetensors"


def make_task(pretrained, **options):
    options = {"model": "pointnet_vanilla", "class_names": list(CLASSES), **options}
    return ClassificationTask(**options, pretrained=str(pretrained))


def fit(task, folder=None, *, ckpt_path=None, callbacks=(), **options):
    """Train in float64, two epochs of three steps, and keep a checkpoint of each step."""
    seed_everything(3, verbose=False)
    keep = [ModelCheckpoint(folder, filename="{step}", save_top_k=-1, every_n_train_steps=1)]
    trainer = make_trainer(
        precision="64-true",
        enable_checkpointing=folder is not None,
        callbacks=[*callbacks, *(keep if folder else [])],
        **{"max_epochs": 2, "limit_val_batches": 0, **options},
    )
    data = ArrayDataModule(train=(5, 5, 5), val_fraction=0.2)
    trainer.fit(task, data, ckpt_path=ckpt_path, weights_only=True)
    return trainer


def head_and_backbone(state):
    head = {name: value for name, value in state.items() if name.startswith("model.head.")}
    return head, {name: value for name, value in state.items() if name not in head}


@pytest.mark.parametrize("backend", ["linear", "conv1d", "conv2d"])
def test_known_classes_keep_their_outputs_in_the_order_of_the_data(weights, backend):
    task = make_task(weights, backend=backend).eval()
    points = torch.randn(2, 20, 3)
    with torch.no_grad():
        assert_close(task(points), load_pretrained(weights)(points)[:, [2, 3, 0]], kind="fused")
    assert "chooses only among 3 of its 4 classes, by name (Box = box)" in task.start.told


def test_the_same_classes_keep_the_head(tmp_path):
    model = write(tmp_path / "a.safetensors")
    task = make_task(tmp_path / "a.safetensors").eval()
    points = torch.randn(2, 20, 3)
    with torch.no_grad():
        assert torch.equal(task(points), model(points))
    assert "with its head for the same 3 classes" in task.start.told


@pytest.mark.parametrize("known", [["a", "b", "c"], ["box", "capsule", "cone"], None])
def test_other_classes_get_a_new_last_layer(tmp_path, known):
    model = write(tmp_path / "a.safetensors", known or ["a", "b", "c"])
    if known is None:
        model.metadata = {}
        save_safetensors(model, tmp_path / "a.safetensors")
    task = make_task(tmp_path / "a.safetensors")
    assert "all but its last layer, which is new, for 3 classes" in task.start.told
    for name, value in task.model.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]) != name.startswith("head.layers.1"), (
            name
        )
    assert all(module.training for module in task.modules())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"model": "pointnet"},
            "of a pointnet_vanilla, .* be a pointnet: give --model.model point",
        ),
        ({"model": "dgcnn"}, "of a pointnet_vanilla, and the network is to be a dgcnn"),
        ({"in_channels": 6}, "points of 3 channels, and the data gives 6: .*--data.features"),
        ({"options": {"local_channels": [9]}}, r"with local_channels=\[8, 8\], and do not fit"),
        ({"options": {"dropout": 0.2}}, "give it as --model.dropout"),
        ({"options": {"num_classes": 2}}, "num_classes is the data's"),
        ({"freeze": "head"}, 'freeze is "backbone" or "none"'),
        ({"backbone_lr_factor": -1.0}, "backbone_lr_factor is at least 0"),
    ],
)
def test_what_does_not_fit_is_said(weights, options, message):
    with pytest.raises(ValueError, match=message):
        make_task(weights, **options)


def test_the_options_are_the_files_and_a_checkpoint_has_them(weights):
    task = make_task(weights, dropout=0.25)
    assert task.model.options["dropout"] == (0.25,)
    assert task.hparams["pretrained"] is None
    assert task.hparams["options"] == {
        "transforms": False,
        "local_channels": [8, 8],
        "global_channels": [8, 16],
        "head_channels": [12],
    }


FINE_TUNINGS = [{"freeze": "backbone"}, {"backbone_lr_factor": 0.1}]


@pytest.mark.parametrize("options", FINE_TUNINGS)
def test_a_resumed_fine_tuning_is_bitwise_the_uninterrupted_run_without_the_file(
    weights, tmp_path, options
):
    whole = make_task(weights, dropout=0.5, **options)
    fit(whole, tmp_path / "whole")
    weights.unlink()
    checkpoint = tmp_path / "whole" / "step=4.ckpt"
    resumed = ClassificationTask.load_from_checkpoint(checkpoint, weights_only=True)
    fit(resumed, tmp_path / "rest", ckpt_path=checkpoint)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert load_pretrained(tmp_path / "rest" / "step=6.ckpt").num_classes == 3


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        ("pointnet_vanilla", "conv1d"),
        pytest.param("pointnet_vanilla", "linear", marks=pytest.mark.slow),
        ("dgcnn", "linear"),
        pytest.param("pointnet2_ssg", "conv2d", marks=pytest.mark.slow),
    ],
)
def test_a_frozen_backbone_stays_as_it_is_and_the_head_learns(tmp_path, name, backend):
    write(tmp_path / "a.safetensors", name=name)
    task = make_task(tmp_path / "a.safetensors", model=name, freeze="backbone", backend=backend)
    head, backbone = head_and_backbone({k: v.double() for k, v in task.state_dict().items()})
    averaging = EMAWeightAveraging(decay=0.5)
    trainer = fit(task, limit_val_batches=1, callbacks=[averaging])
    new_head, new_backbone = head_and_backbone(task.state_dict())
    for part, value in backbone.items():
        assert torch.equal(value, new_backbone[part].double()), part
    assert any(not torch.equal(value, new_head[part].double()) for part, value in head.items())
    (optimizer,) = trainer.optimizers
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in task.model.get_classifier().parameters()}
    assert len(optimizer.state) == len(trained)


def test_a_frozen_backbone_gives_the_gradients_of_the_plain_formula(weights):
    task = make_task(weights, freeze="backbone", dropout=0.0).double()
    batch = {
        "points": torch.randn(6, 20, 3, dtype=torch.float64),
        "label": torch.tensor([0, 1, 2, 0, 1, 2]),
        "index": torch.arange(6),
    }
    task.log = lambda *args, **options: None
    task.training_step(batch, 0).backward()
    plain = load_pretrained(weights, backend="conv1d", fused=False, dropout=0.0).double()
    plain.reset_classifier(3)
    plain.head.load_state_dict(task.model.head.state_dict())
    features = plain.eval().forward_features(batch["points"])
    logits = plain.head.train()(features)
    torch.nn.functional.cross_entropy(logits, batch["label"]).backward()
    found = dict(task.model.named_parameters())
    for name, parameter in plain.named_parameters():
        if name.startswith("head."):
            assert_close(found[name].grad, parameter.grad.reshape(found[name].shape))
        else:
            assert found[name].grad is None


def test_the_backbone_has_its_own_learning_rate(weights):
    options = {"schedule": "constant", "learning_rate": 0.1, "weight_decay": 0.3}
    task = make_task(weights, backbone_lr_factor=0.25, **options)
    groups = task.make_optimizer().param_groups
    head = {id(p) for p in task.model.get_classifier().parameters()}
    for group, rate, decay in zip(
        groups, (0.025, 0.025, 0.1, 0.1), (0.3, 0.0, 0.3, 0.0), strict=True
    ):
        assert (group["lr"], group["weight_decay"]) == (rate, decay)
        assert all((id(p) in head) == (rate == 0.1) for p in group["params"])
    assert sum(len(group["params"]) for group in groups) == len(list(task.model.parameters()))
    seen = []
    task.on_train_batch_end = lambda *_: seen.append(
        [group["lr"] for group in task.optimizers().param_groups]
    )
    fit(task)
    assert seen == [[0.025, 0.025, 0.1, 0.1]] * 6


def test_a_checkpoint_of_other_groups_is_refused_with_what_to_do(weights, tmp_path):
    fit(make_task(weights, freeze="backbone"), tmp_path)
    with pytest.raises(
        ValueError, match=r"trains other parameters.*--model.freeze.*--model.pretrai"
    ):
        fit(make_task(weights), ckpt_path=tmp_path / "step=4.ckpt")


def test_other_preprocessing_is_one_line(tmp_path, capsys):
    path = tmp_path / "a.safetensors"
    write(path, up_axis="y", num_points=1024, scale="unit sphere")
    fit(make_task(path), max_steps=1)
    assert (
        f"the clouds are not like those that {path} was trained on: up_axis was y and is z, scale "
        "was unit sphere and is None, num_points was 1024 and is 16\n"
    ) in capsys.readouterr().err
    write(path, up_axis="z", num_points=16)
    fit(make_task(path), max_steps=1)
    assert "not like" not in capsys.readouterr().err


def test_an_evaluation_answers_for_known_classes_alone(weights, tmp_path, capsys):
    model = write(weights, ["sphere", "cone", "box", "capsule"], up_axis="y")
    data = ArrayDataModule()
    (found,) = make_trainer().test(make_task(weights), data, verbose=False)
    told = capsys.readouterr().err
    assert "chooses only among 3 of its 4 classes" in told
    assert "the clouds have z up and the network was trained with y up: they are turned" in told
    everything = data.datasets["test"].__getitems__(range(11))
    with torch.no_grad():
        answers = model(everything["points"])[:, [2, 3, 0]].argmax(1)
    expected = (answers == everything["label"]).double().mean()
    assert found["test/overall_accuracy"] == pytest.approx(float(expected))
    write(weights, ["sphere", "cone", "box"])
    with pytest.raises(ValueError, match=r"does not know 1 of the classes of the data .'caps"):
        make_trainer().test(make_task(weights), ArrayDataModule(), verbose=False)
    task = make_task(weights)
    fit(task)
    float64 = make_trainer(precision="64-true")
    float64.test(task, ArrayDataModule(), verbose=False)  # it has learnt them
