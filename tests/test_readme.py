"""Every snippet of the README is run as it stands there."""

import json
import re
import shlex
import shutil
from functools import partial
from pathlib import Path

import pytest
import yaml

import sharedmlp.train.datamodules.meshes
from sharedmlp.__main__ import main
from sharedmlp.benchmark import format_results, format_summary
from sharedmlp.cli.recipes import find_recipes
from sharedmlp.data import write_shapes
from sharedmlp.models import create_model, list_models
from sharedmlp.train.lightning_internals import read_hyperparameters
from tests.environment import own_environment

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"^```(\w+)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
PYTHON = [code for language, code in SNIPPETS if language == "python"]
COMMANDS = [
    line
    for language, code in SNIPPETS
    if language == "bash"
    for line in code.splitlines()
    if line.startswith("sharedmlp ")
]


@pytest.fixture(autouse=True)
def _in_a_fresh_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    few = partial(write_shapes, train_per_class=4, test_per_class=1)
    monkeypatch.setattr(sharedmlp.train.datamodules.meshes, "write_shapes", few)
    own_environment(monkeypatch)


def test_there_is_something_to_run():
    assert len(PYTHON) >= 3
    assert len(COMMANDS) >= 4


@pytest.mark.parametrize("code", PYTHON, ids=range(len(PYTHON)))
def test_python(code):
    exec(compile(code, "README.md", "exec"), {})


class ParsedError(Exception):
    """Raised in place of running a command that was understood."""


def test_every_command_is_understood(monkeypatch):
    from sharedmlp.cli.arguments import CommandParser
    from sharedmlp.cli.lightning import SharedMLPCLI

    parse_args = CommandParser.parse_args

    def stop(*_):
        raise ParsedError

    def parse_and_stop(self, args):
        parse_args(self, args)
        raise ParsedError

    monkeypatch.setattr(SharedMLPCLI, "merge_checkpoint", stop)
    monkeypatch.setattr(CommandParser, "parse_args", parse_and_stop)
    for line in COMMANDS:
        with pytest.raises(ParsedError):
            main(shlex.split(line)[1:])


@pytest.mark.slow
def test_the_walk_line_by_line(monkeypatch, capsys):
    """After the main job, as it is written, on fewer meshes and in fewer epochs."""
    recipes = find_recipes()
    quickstart = Path("configs/quickstart.yaml")
    text = quickstart.read_text()
    assert "max_epochs: 15" in text
    quickstart.write_text(
        text.replace("max_epochs: 15", "max_epochs: 2").replace(
            "    num_points: 256", "    pool_size: 300\n    num_points: 256"
        )
    )
    monkeypatch.setattr(
        "sharedmlp.cli.recipes.find_recipes", lambda: {**recipes, "quickstart": quickstart}
    )
    main(["fit", "--config", "configs/quickstart.yaml"])  # the main job
    printed = []
    for line in COMMANDS:
        # the first mesh for the test, and an epoch more than before
        line = line.replace("chair_0061", "chair_0005").replace("max_epochs 20", "max_epochs 3")
        capsys.readouterr()
        main(shlex.split(line)[1:])
        printed.append(capsys.readouterr().out)
    fit, test, predict, resumed, compare, files, packaged, show, export, prepare = printed[:10]
    tuned, validated, turned = printed[10:]
    run = Path("runs/conv1d/version_0")
    assert "epoch  2/2" in fit
    assert str(run / "checkpoints" / "best.ckpt") in fit
    assert read_hyperparameters(run / "checkpoints" / "best.ckpt")[1]["backend"] == "conv1d"
    assert "overall accuracy" in test
    (predictions,) = Path("runs").rglob("predictions.csv")
    assert str(predictions) in predict
    assert len(predictions.read_text().splitlines()) == 1 + 12
    assert [row.split(":")[0] for row in resumed.splitlines() if ": train loss" in row] == [
        "epoch  3/3"
    ]
    last = Path("runs/resumed/version_0/checkpoints/last.ckpt")
    assert read_hyperparameters(last)[1]["backend"] == "linear"
    assert f"| {run} | 1 |" in compare
    assert "| runs/resumed/version_0 | 1 |" in compare
    assert Path("curves.png").is_file()
    assert files.splitlines()[-1].split() == ["predictions", "predictions.csv"]
    assert len(Path("predictions.csv").read_text().splitlines()) == 1 + 1
    assert len(packaged.splitlines()) == 2
    assert Path("chair.html").is_file()
    assert "chair.html" in show
    assert run.joinpath("checkpoints", "best.safetensors").is_file()
    assert "best.safetensors" in export
    assert "train: 48 clouds in 12 classes" in prepare
    assert str(Path("runs/tuned/version_0/checkpoints/best.ckpt")) in tuned
    assert str(run / "checkpoints" / "best.safetensors") in validated
    assert "turned" in turned


def test_the_yaml_is_a_choice_of_model():
    (settings,) = [
        yaml.safe_load(code)["model"] for language, code in SNIPPETS if language == "yaml"
    ]
    assert settings["model"] in list_models()
    create_model(settings["model"], backend=settings["backend"])


def test_the_two_commands_install_what_they_need():
    main_job, tests = (
        code for language, code in SNIPPETS if language == "bash" and ".venv" in code
    )
    assert "-c constraints.txt -e '.[train]'" in main_job
    assert "sharedmlp fit --config configs/quickstart.yaml" in main_job
    assert (ROOT / "configs" / "quickstart.yaml").is_file()
    assert "-c constraints.txt -e '.[dev]'" in tests
    assert "pytest" in tests


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_table_of_the_benchmark_is_its_output():
    """Of the samples in docs/benchmark.json, by the function that lays them out."""
    results = json.loads((ROOT / "docs" / "benchmark.json").read_text())
    names = ["field_conv1d", "linear", "conv2d_compiled", "linear_fused"]
    names += ["linear_fused_compiled", "field_fused"]
    assert format_summary(results, names) in README


@pytest.mark.parametrize("path", sorted((ROOT / "docs").glob("benchmark*.json")))
def test_the_tables_of_the_benchmarks_are_their_output(path):
    page = (ROOT / "docs" / "performance.md").read_text()
    for line in format_results(json.loads(path.read_text())).splitlines():
        if line.startswith("| "):
            assert line in page
