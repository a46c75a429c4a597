"""`sharedmlp prepare modelnet10 | modelnet40`, against a server on this machine."""

import sys

import pytest

from sharedmlp.__main__ import main
from sharedmlp.data import MODELNETS, TERMS
from sharedmlp.train import MeshTreeDataModule
from tests.data.tiny_modelnet import ZIP, describe, written
from tests.data.web import serve


@pytest.fixture
def web(monkeypatch):
    with serve(ZIP) as web:
        monkeypatch.setitem(MODELNETS, "modelnet40", describe(ZIP, web.url))
        yield web


def prepare(*arguments):
    main(["prepare", *map(str, arguments), "--pool_size", "16", "--num_workers", "1"])


def test_one_command_from_nothing_to_a_cache_that_training_opens(web, tmp_path, capfd, monkeypatch):
    prepare("modelnet40", "--root", tmp_path / "sets")
    folder = tmp_path / "sets" / "Tiny"
    printed = capfd.readouterr()
    lines = printed.out.splitlines()
    assert lines[0] == TERMS
    assert lines[1].split() == ["layout", "<class>/{train,val,test}"]
    assert lines[-4:] == [
        "train: 6 clouds in 2 classes",
        "test: 4 clouds in 2 classes",
        "val: none, a share of train is carved out by --data.val_fraction",
        f"meshes      {folder}",
    ]
    assert "Tiny.zip: 100%" in printed.err
    assert len(web.asked) == 1
    monkeypatch.setattr("sharedmlp.data.mesh_tree.read_cloud", None)  # nothing is read again
    data = MeshTreeDataModule(str(folder), pool_size=16)
    assert (len(data.open_split("train")), len(data.open_split("test"))) == (6, 4)


def test_again_it_opens_what_is_there(web, tmp_path, capsys):
    for _ in range(2):
        prepare("modelnet40", "--root", tmp_path)
    assert len(web.asked) == 1


def test_without_a_root_it_goes_to_data(web, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prepare("modelnet40")
    assert (tmp_path / "data" / "Tiny" / "chair" / "train").is_dir()


def test_an_archive_that_one_has(web, tmp_path):
    (tmp_path / "mine.zip").write_bytes(ZIP)
    prepare("modelnet40", "--root", tmp_path / "sets", "--archive", tmp_path / "mine.zip")
    assert web.asked == []
    assert (tmp_path / "sets" / "Tiny").is_dir()


def test_a_dead_link_is_one_line_with_the_remedy(web, tmp_path):
    web.faults = ["status=404"]
    with pytest.raises(SystemExit) as error:
        prepare("modelnet40", "--root", tmp_path)
    message = str(error.value.code)
    assert message.startswith(f"sharedmlp: error: {web.url}: the server answers 404")
    assert "--archive" in message
    assert "\n" not in message
    assert written(tmp_path) == []


def test_the_missing_extra_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "requests", None)
    with pytest.raises(SystemExit, match=r"pip install 'sharedmlp\[download\]'"):
        prepare("modelnet10", "--root", tmp_path)


@pytest.mark.parametrize("option", ["--root", "--archive"])
def test_a_folder_is_not_fetched(option, tmp_path, capsys):
    with pytest.raises(SystemExit):
        prepare(tmp_path, option, tmp_path / "other")
    assert "go with modelnet10 or modelnet40, not with a folder" in capsys.readouterr().err
