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
from sharedmlp.data import write_shapes
from sharedmlp.models import create_model, list_models
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


def test_commands_in_their_order(capsys):
    for line in COMMANDS:
        # of fewer meshes, the first for the test
        arguments = shlex.split(line.replace("chair_0061", "chair_0005"))[1:]
        if arguments[0] == "fit":  # as written, but short
            epochs = "2" if "--ckpt_path" in arguments else "1"
            arguments += ["--trainer.max_epochs", epochs]
        if "--config" in arguments:
            arguments += ["--data.pool_size", "300"]
        main(arguments)
    printed = capsys.readouterr().out
    assert "overall accuracy" in printed
    (predictions,) = Path("runs").rglob("predictions.csv")
    assert len(predictions.read_text().splitlines()) > 1


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
