"""Weights on the command line: to start from, to evaluate, and what is said of other files."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sharedmlp.__main__ import main
from sharedmlp.models import create_model, load_pretrained, save_safetensors
from sharedmlp.train import ClassificationTask
from tests.environment import own_environment
from tests.models.small import SMALL
from tests.train.tiny import CLASSES, write_hdf5

CONFIG = """\
trainer:
  accelerator: cpu
  devices: 1
  max_epochs: 1
  enable_progress_bar: false
  enable_model_summary: false
  logger: false
model: {model: pointnet, learning_rate: 0.002}
data:
  class_path: HDF5DataModule
  init_args: {root: set, num_points: 16, batch_size: 4, val_fraction: 0.34, up_axis: z}
best_checkpoint: {dirpath: run}
last_checkpoint: {dirpath: run}
"""
NETWORK = '''\
"""A network that no other file knows."""
import torch
from sharedmlp.models import PointCloudModel

class MyNet(PointCloudModel):
    def __init__(self, num_classes, in_channels=3, *, width=6, dropout=0.3):
        options = {"num_classes": num_classes, "in_channels": in_channels, "width": width}
        super().__init__(options, {})
        self.points = torch.nn.Linear(in_channels, width)
        self.dropout = torch.nn.Dropout(dropout)
        self.reset_classifier(num_classes)

    def forward_features(self, points):
        return self.dropout(self.points(points).amax(1))

    def reset_classifier(self, num_classes):
        self.architecture["num_classes"] = num_classes
        self.head = torch.nn.Linear(self.architecture["width"], num_classes)
'''
KNOWN = ["sphere", "cone", "Box", "capsule"]


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch):
    own_environment(monkeypatch)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with data, a config, and the same weights as a file and as a folder."""
    folder = tmp_path_factory.mktemp("project")
    write_hdf5(folder / "set", pool_size=32)
    (folder / "tiny.yaml").write_text(CONFIG)
    torch.manual_seed(0)
    model = create_model("pointnet_vanilla", 4, **SMALL["pointnet_vanilla"])
    model.metadata = {"class_names": KNOWN, "up_axis": "z", "num_points": 16}
    save_safetensors(model.eval(), folder / "a.safetensors")
    model.save_pretrained(folder / "hub")
    return folder


@pytest.fixture
def inside(project, monkeypatch):
    monkeypatch.chdir(project)
    return project


def read(path):
    return torch.load(path, weights_only=True)  # noqa: TID251 - plain values


def run(command, *arguments):
    main([command, "--config", "tiny.yaml", *map(str, arguments)])


def refused(capsys, command, *arguments):
    """The last line of what a command says that does not run."""
    with pytest.raises(SystemExit) as error:
        run(command, *arguments)
    said = capsys.readouterr().err if error.value.code == 2 else str(error.value.code)
    return said.strip().splitlines()[-1]


def test_a_fit_starts_from_the_network_of_the_file_whatever_the_config_names(inside):
    run("fit", "--model.pretrained", "a.safetensors")
    saved = read("run/best.ckpt")["hyper_parameters"]
    assert saved["model"] == "pointnet_vanilla"
    assert saved["options"]["global_channels"] == [8, 16]
    assert saved["pretrained"] is None
    assert saved["learning_rate"] == 0.002


def test_a_random_backbone_that_stays_as_it_is_is_mentioned(inside, capsys):
    small = ["--model.model", "pointnet_vanilla", "--trainer.fast_dev_run", "1"]
    small += ["--model.freeze", "backbone"]
    warning = "warning: --model.freeze backbone keeps the random weights of a new network"
    run("fit", *small)
    assert warning in capsys.readouterr().err
    run("fit", *small, "--model.pretrained", "a.safetensors")
    printed = capsys.readouterr().err
    assert "starting from a.safetensors: a pointnet_vanilla" in printed
    assert warning not in printed


@pytest.mark.slow  # tests/train/tasks/test_pretrained.py has it of the task
def test_the_same_command_resumes_without_the_file(inside, tmp_path, capsys, monkeypatch):
    whole = ["--trainer.max_epochs", "2", "--model.backbone_lr_factor", "0.3"]
    whole += ["--model.schedule", "constant"]
    whole += ["--best_checkpoint.dirpath", tmp_path, "--last_checkpoint.dirpath", tmp_path]
    (inside / "b.safetensors").write_bytes((inside / "a.safetensors").read_bytes())
    run("fit", *whole, "--model.pretrained", "b.safetensors")
    expected = read(tmp_path / "last.ckpt")
    run("fit", *whole, "--model.pretrained", "b.safetensors", "--trainer.max_steps", "3")
    assert read(tmp_path / "last.ckpt")["global_step"] == 3
    (inside / "b.safetensors").unlink()
    capsys.readouterr()
    last = ["--ckpt_path", tmp_path / "last.ckpt"]
    run("fit", *whole, "--model.pretrained", "b.safetensors", *last)
    resumed = read(tmp_path / "last.ckpt")
    assert resumed["global_step"] == expected["global_step"]
    for name, value in expected["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][name]), name


def test_a_folder_is_validated(inside, capsys):
    run("validate", "--ckpt_path", "hub")
    printed, told = capsys.readouterr()
    assert "evaluating hub: a pointnet_vanilla, which chooses only among 3 of its 4" in told
    assert "val/overall_accuracy" in printed


@pytest.mark.slow
@pytest.mark.parametrize(
    "named",
    [
        ["--ckpt_path", "hub"],
        ["--ckpt_path", "a.safetensors"],
        ["--model.pretrained", "a.safetensors"],
        ["--model.pretrained=hub"],
    ],
)
def test_weights_are_tested_under_either_option(inside, monkeypatch, named, capsys):
    run("test", *named, "--model.backend", "conv2d", "--trainer.default_root_dir", "out")
    told, printed = capsys.readouterr()[::-1]
    name = named[-1].split("=")[-1]
    assert f"evaluating {name}: a pointnet_vanilla, which chooses only among 3 of" in told
    assert "(Box = box)" in told
    assert name in next(line for line in printed.splitlines() if line.startswith("checkpoint"))
    newest = max(Path().rglob("test_metrics.json"), key=lambda path: path.stat().st_mtime_ns)
    report = json.loads(newest.read_text())
    assert sum(map(sum, report["confusion"])) == 9
    assert report["checkpoint"] == name


def test_a_folder_names_what_is_in_files(inside, capsys):
    np.save("cloud.npy", np.random.default_rng(0).normal(size=(30, 3)))
    main(["predict", "cloud.npy", "--ckpt_path", "hub", "--output", "files.csv"])
    answer = capsys.readouterr().out.splitlines()[0]
    main(["predict", "cloud.npy", "--ckpt_path", "a.safetensors"])
    assert capsys.readouterr().out.splitlines() == [answer]
    assert answer.split()[1] in KNOWN


@pytest.mark.slow
def test_weights_predict_the_clouds_of_the_data(inside):
    run("predict", "--ckpt_path", "hub", "--output", "answers.csv")
    with Path("answers.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    task = ClassificationTask(list(CLASSES), model="pointnet_vanilla", pretrained="hub").eval()
    assert len(rows) == 9
    assert set(rows[0]) == {"cloud", "label", "prediction", *(f"p({name})" for name in CLASSES)}
    assert task.start is not None
    assert task.start.unknown == []


def test_without_a_checkpoint_the_network_of_the_package_is_asked(inside, capsys):
    line = refused(capsys, "validate", "--model.model", "pointnet_vanilla")
    assert "modelnet40 does not know 3 of the classes of the data ('box', 'capsule', 'spher" in line
    assert "--ckpt_path" in line


@pytest.mark.slow
def test_the_network_of_the_package_answers_for_classes_that_it_knows(inside, capsys):
    names = list(write_names(inside / "known"))
    run("validate", "--data.root", "known")
    printed, told = capsys.readouterr()
    assert "val/overall_accuracy" in printed
    assert "no --ckpt_path: the network of this package answers (modelnet40)" in told
    assert f"chooses only among {len(names)} of its 40 classes" in told
    line = refused(capsys, "validate", "--data.root", "known", "--model.model", "dgcnn")
    assert "the weights of modelnet40 are those of a pointnet_vanilla" in line


def write_names(root):
    """The same clouds under names that ModelNet40 has too."""
    names = ("chair", "night stand", "Table")
    write_hdf5(root, pool_size=32)
    (root / "shape_names.txt").write_text("\n".join(names) + "\n")
    return names


QUICK_REFUSALS = [
    ("fit", ["--ckpt_path", "hub"], "type --model.pretrained hub"),
    ("test", ["--ckpt_path", "foreign.pth"], "foreign.pth cannot be read as a checkpoint"),
    ("fit", ["--model.options.globl_channels", "[3]"], "did you mean global_channels?"),
]
REFUSALS = [
    ("fit", ["--ckpt_path", "a.safetensors"], "type --model.pretrained a.safetensors"),
    ("test", ["--ckpt_path", "tiny.yaml"], "tiny.yaml cannot be read as a checkpoint of plain"),
    ("test", ["--ckpt_path", "none.ckpt"], "'none.ckpt', which is not a file"),
    (
        "fit",
        ["--model.pretrained", "none"],
        "there are no weights 'none': expected pointnet",
    ),
    ("fit", ["--model.pretrained", "foreign.pth"], "is no checkpoint of a training with this"),
    (
        "fit",
        ["--model.pretrained", "hub", "--model.model", "dgcnn"],
        "the weights of hub are those of a pointnet_vanilla, and the network is to be a dgcnn",
    ),
    (
        "fit",
        ["--model.pretrained", "hub", "--model.options.local_channels", "[8,9]"],
        "with local_channels=[8, 8], and do not fit one with local_channels=[8, 9]",
    ),
    ("fit", ["--model.model", "dgcn"], "did you mean dgcnn?"),
    ("fit", ["--model.model", "nowhere.Net"], "there is no network nowhere.Net"),
]


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [*QUICK_REFUSALS, *(pytest.param(*case, marks=pytest.mark.slow) for case in REFUSALS)],
)
def test_other_files_and_names_are_one_line(inside, capsys, command, arguments, message):
    torch.save({"state_dict": {}, "weight": torch.zeros(2)}, "foreign.pth")
    assert message in refused(capsys, command, *arguments)


@pytest.mark.parametrize("where", ["typed", pytest.param("config", marks=pytest.mark.slow)])
def test_every_option_of_a_network_is_typed_or_in_a_config(inside, tmp_path, where):
    options = json.loads(json.dumps(SMALL["dgcnn"]))
    place = ["--best_checkpoint.dirpath", tmp_path, "--last_checkpoint.dirpath", tmp_path]
    typed = ["--model.model", "dgcnn", "--model.dropout", "[0.1]"]
    if where == "typed":
        typed += [f"--model.options.{name}={json.dumps(value)}" for name, value in options.items()]
    else:
        path = tmp_path / "options.yaml"
        path.write_text(json.dumps({"model": {"options": options}}))
        typed += ["--config", path]
    run("fit", *typed, *place)
    model = load_pretrained(tmp_path / "last.ckpt")
    expected = create_model("dgcnn", 3, **options, dropout=[0.1])
    assert model.architecture == expected.architecture
    if where == "typed":
        return
    # The checkpoint remembers them, and what is typed still counts.
    run("validate", "--ckpt_path", tmp_path / "last.ckpt", "--model.options.k", "2")


@pytest.mark.slow
def test_a_network_of_ones_own_by_class_path(inside, tmp_path, monkeypatch, capsys):
    (tmp_path / "own_networks.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(tmp_path)
    place = ["--best_checkpoint.dirpath", tmp_path, "--last_checkpoint.dirpath", tmp_path]
    own = ["--model.model", "own_networks.MyNet"]
    run("fit", *own, "--model.options.width", "9", *place, "--model.backbone_lr_factor", "0.1")
    last = tmp_path / "last.ckpt"
    assert read(last)["state_dict"]["model.points.weight"].shape == (9, 3)
    run("validate", *own, "--ckpt_path", last)
    run("fit", *own, "--model.pretrained", last, "--model.freeze", "backbone", *place)
    sys.modules.pop("own_networks")
    line = refused(capsys, "validate", "--ckpt_path", last)
    assert "add --model.model own_networks.MyNet" in line
    assert "own_networks" not in sys.modules
    line = refused(capsys, "fit", *own, "--model.backend", "conv1d")
    assert "own_networks.MyNet has no option 'backend'" in line
