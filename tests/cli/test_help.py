"""`sharedmlp fit --help`: what matters, with the values in use, without importing Lightning."""

import inspect
import sys
from pathlib import Path

import pytest
from pytorch_lightning import Trainer

from sharedmlp.__main__ import main
from sharedmlp.cli.class_options import option_names
from sharedmlp.cli.class_source import find_source, known_sources
from sharedmlp.cli.fit_help import _TRAINER
from sharedmlp.train import (
    ClassificationTask,
    HDF5DataModule,
    LabelledCloudsDataModule,
    MeshTreeDataModule,
    ModelNet40NormalsDataModule,
    PartMeshDataModule,
    PartShapesDataModule,
    S3DISDataModule,
    SegmentationDataModule,
    SegmentationTask,
    ShapeNetPartDataModule,
    ShapesDataModule,
)

CLASSES = [
    ClassificationTask,
    SegmentationTask,
    HDF5DataModule,
    LabelledCloudsDataModule,
    MeshTreeDataModule,
    ModelNet40NormalsDataModule,
    PartMeshDataModule,
    PartShapesDataModule,
    S3DISDataModule,
    SegmentationDataModule,
    ShapeNetPartDataModule,
    ShapesDataModule,
]


def show(arguments, capsys):
    main(arguments.split())
    return capsys.readouterr().out


def value_of(option, printed):
    (line,) = [line for line in printed.splitlines() if line.startswith(f"  {option} ")]
    return line.split()[1]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_options_read_from_source_are_those_of_the_class(cls):
    source = find_source(cls.__name__)
    assert source is not None
    assert {option.name for option in source.options()} == set(option_names(cls))
    assert all(option.description for option in source.options())
    written = {True: "true", False: "false", None: "null"}
    defaults = {p.name: p.default for p in inspect.signature(cls).parameters.values()}
    for option in source.options():
        default = defaults.get(option.name, inspect.Parameter.empty)
        if default is not inspect.Parameter.empty:
            is_word = default is None or isinstance(default, bool)
            assert option.default == (written[default] if is_word else str(default))


def test_all_classes_are_known():
    assert known_sources("PointCloudDataModule") == sorted(c.__name__ for c in CLASSES[2:])
    assert known_sources("BaseTask") == ["ClassificationTask", "SegmentationTask"]


def test_help_has_the_values_of_the_configuration_and_of_what_is_typed(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text("model: {init_args: {weight_decay: 0.25}}\n")
    printed = show(
        f"fit --config quickstart --config {tmp_path}/mine.yaml --model.backend=conv2d "
        "--data.init_args.batch_size 7 --help",
        capsys,
    )
    assert "data, ShapesDataModule:" in printed
    expected = {
        "--data.num_points": "256",  # of the recipe
        "--data.batch_size": "7",
        "--data.seed": "0",  # of the class
        "--data.rotate": "true",
        "--model.model": "pointnet_vanilla",
        "--model.weight_decay": "0.25",
        "--model.backend": "conv2d",
        "--trainer.max_epochs": "15",
        "--trainer.logger": "CSVLogger",
    }
    assert {option: value_of(option, printed) for option in expected} == expected
    assert (
        printed.index("--data.") < printed.index("--model.model") < printed.index("--trainer.max")
    )
    assert printed.splitlines()[-1].startswith("`sharedmlp fit --help all` lists every option")
    assert "class_names" not in printed


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict --config quickstart"])
def test_every_command_of_lightning_has_it(command, capsys):
    printed = show(f"{command} -h", capsys)
    assert f"usage: sharedmlp {command.split()[0]} " in printed
    assert ("--test_after_fit" in printed) == (command == "fit")
    assert ("--output" in printed) == command.startswith("predict")
    assert len(printed.splitlines()) < 180


def test_no_line_is_wider_than_the_terminal(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    printed = show("predict --config quickstart --help", capsys)
    assert max(map(len, printed.splitlines())) <= 80
    assert "--rotations N" in printed


def test_a_class_of_ones_own_is_read_from_its_file(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_task.py").write_text(
        "from sharedmlp.train import ClassificationTask\n"
        "class Mine(ClassificationTask):\n"
        '    """A task.\n\n    Args:\n        margin: How far apart.\n    """\n'
        "    def __init__(self, class_names, margin: float = 0.5, **options):\n"
        "        super().__init__(class_names, **options)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    printed = show("fit --model my_task.Mine --help", capsys)
    assert value_of("--model.margin", printed) == "0.5"
    assert "How far apart." in printed
    assert value_of("--model.optimizer", printed) == "adamw"
    assert "my_task" not in sys.modules


def test_an_unknown_class_is_one_line(capsys):
    with pytest.raises(SystemExit) as error:
        main(["fit", "--data", "ShapeDataModule", "--help"])
    assert error.value.code == 2
    printed = capsys.readouterr().err
    assert "unknown class ShapeDataModule for --data; did you mean ShapesDataModule?" in printed
    assert printed.count("\n") == 1


def test_the_named_options_of_the_trainer_exist():
    assert set(_TRAINER) <= set(inspect.signature(Trainer).parameters)


def test_the_configs_of_the_clone_have_help(capsys):
    for path in (Path(__file__).parents[2] / "configs").glob("*.yaml"):
        assert "--help all" in show(f"fit --config {path} --help", capsys)
