"""Recipes by name: in a clone, in a wheel, and beside files of the same name."""

import shutil
from pathlib import Path

import pytest

import sharedmlp
from sharedmlp.__main__ import main
from sharedmlp.cli.recipes import find_recipes, resolve_recipes

CONFIGS = Path(__file__).parents[2] / "configs"


def test_every_recipe_of_the_clone_is_found_by_its_name():
    assert find_recipes() == {path.stem: path for path in CONFIGS.glob("*.yaml")}
    assert "quickstart" in find_recipes()


@pytest.mark.parametrize("arguments", [["--config", "{}"], ["--config={}"], ["-c", "{}"]])
@pytest.mark.parametrize("name", ["quickstart", "quickstart.yaml"])
def test_a_name_becomes_the_file_from_any_folder(arguments, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = ["fit", *(part.format(name) for part in arguments), "--data.root", "quickstart"]
    expected = [part.format(CONFIGS / "quickstart.yaml") for part in arguments]
    assert resolve_recipes(given) == ["fit", *expected, "--data.root", "quickstart"]


def test_a_wheel_brings_its_own(tmp_path, monkeypatch):
    """And a folder `configs` next to the package is somebody else's."""
    for folder in ("configs", "sharedmlp/configs"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.yaml").touch()
    monkeypatch.setattr(sharedmlp, "__file__", str(tmp_path / "sharedmlp" / "__init__.py"))
    assert find_recipes() == {"a": tmp_path / "sharedmlp" / "configs" / "a.yaml"}
    shutil.rmtree(tmp_path / "sharedmlp" / "configs")
    assert find_recipes() == {"a": tmp_path / "configs" / "a.yaml"}


@pytest.mark.parametrize("path", ["quickstart", "quickstart.yaml", "configs/quickstart.yaml"])
def test_a_path_that_exists_wins(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(path).parent.mkdir(exist_ok=True)
    Path(path).touch()
    assert resolve_recipes(["fit", "--config", path]) == ["fit", "--config", path]


def test_a_folder_of_the_name_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("quickstart").mkdir()
    assert resolve_recipes(["-c", "quickstart"]) == ["-c", str(CONFIGS / "quickstart.yaml")]


@pytest.mark.parametrize("value", ["{seed_everything: 1}", "https://host/a.yaml", "trainer: null"])
def test_what_is_no_name_is_left_alone(value):
    assert resolve_recipes(["fit", "--config", value]) == ["fit", "--config", value]


@pytest.mark.parametrize("name", ["quickest", "configs/none.yaml", "elsewhere/quickstart.yaml"])
def test_an_unknown_name_is_one_line_that_lists_the_recipes(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as error:
        main(["fit", "--config", name])
    assert error.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"sharedmlp: error: --config {name}: no such file, nor a recipe")
    assert "mesh_folder, modelnet10, modelnet40, modelnet40_dgcnn, modelnet40_normals" in printed
    assert printed.count("\n") == 1
