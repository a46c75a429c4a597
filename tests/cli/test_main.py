"""`sharedmlp` finds its commands, and imports for one nothing of the others."""

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

import sharedmlp
from sharedmlp.__main__ import main
from sharedmlp.cli.main import COMMANDS

NAMES = ("fit", "predict", "show", "prepare", "export", "compare", "benchmark")
HEAVY = {
    "pytorch_lightning",
    "jsonargparse",
    "torchmetrics",
    "matplotlib",
    "trimesh",
    "h5py",
    "onnx",
}


def test_help_imports_nothing_heavy():
    """What is asked for help comes in one process: each is measured with those before it."""
    code = f"""
import sys
from sharedmlp.__main__ import main
for args in (["--help"], *([name, "--help"] for name in {NAMES!r})):
    try:
        main(args)
    except SystemExit as error:
        assert error.code == 0, args
    print("heavy:", args, sorted({HEAVY!r} & set(sys.modules)))
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
    )
    lines = [line for line in result.stdout.splitlines() if line.startswith("heavy:")]
    assert len(lines) == 1 + len(NAMES)
    assert [line for line in lines if not line.endswith("[]")] == []
    for usage in ("sharedmlp COMMAND", "sharedmlp predict", "sharedmlp show", "sharedmlp export"):
        assert f"usage: {usage}" in result.stdout


def test_help_lists_every_command(capsys):
    with pytest.raises(SystemExit) as error:
        main(["--help"])
    assert error.value.code == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line[:2] == "  "]
    assert listed == list(COMMANDS)
    lightning = {"fit", "validate", "test", "predict"}
    assert lightning | {"prepare", "export", "show", "compare", "benchmark"} == set(listed)


def test_without_a_command_it_is_help_and_an_error(capsys):
    with pytest.raises(SystemExit) as error:
        main([])
    assert error.value.code == 2
    assert "sharedmlp COMMAND" in capsys.readouterr().out


def test_an_unknown_command_is_one_line(capsys):
    with pytest.raises(SystemExit) as error:
        main(["train"])
    assert error.value.code == 2
    printed = capsys.readouterr().err
    assert "unknown command 'train': choose one of fit, validate" in printed
    assert printed.count("\n") == 1


def test_fit_help_all_is_lightnings(capsys):
    with pytest.raises(SystemExit) as error:
        main(["fit", "--help", "all"])
    assert error.value.code == 0
    printed = capsys.readouterr().out
    for option in ("--trainer.max_epochs", "--model.help", "--data.help", "--best_checkpoint"):
        assert option in printed


def test_the_arguments_of_the_task_are_listed(capsys):
    with pytest.raises(SystemExit) as error:
        main(["fit", "--model.help", "ClassificationTask"])
    assert error.value.code == 0
    assert "--model.backend" in capsys.readouterr().out.replace("init_args.", "")


def test_the_version_is_that_of_the_package(capsys):
    main(["--version"])
    assert capsys.readouterr().out == f"sharedmlp {sharedmlp.__version__}\n"


def test_a_command_is_a_line_and_a_module(monkeypatch, capsys):
    seen: list[Any] = []
    toy = SimpleNamespace(run=seen.append)
    monkeypatch.setitem(sys.modules, "sharedmlp.cli.toy", toy)
    monkeypatch.setitem(COMMANDS, "toy", ("toy", "play"))
    main(["toy", "--with", "it"])
    assert seen == [["--with", "it"]]
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "\n  toy        play\n" in capsys.readouterr().out
