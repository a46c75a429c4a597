"""`sharedmlp prepare modelnet10 | modelnet40`, against a server on this machine."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from sharedmlp.__main__ import main
from sharedmlp.data import MODELNETS, TERMS
from sharedmlp.train import MeshTreeDataModule
from tests.data.tiny_modelnet import ZIP, describe, written
from tests.data.web import serve
from tests.train.tiny import write_hdf5


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


def write_sets(root):
    """A folder without splits, and a set in HDF5 files that is neither centered nor scaled."""
    rng = np.random.default_rng(0)
    for name in ("Stühle groß", "b"):
        (root / "flat" / name).mkdir(parents=True)
        for number in range(4):
            points = rng.normal(size=(20, 3))
            np.savetxt(root / "flat" / name / f"{number}.xyz", points)
    (root / "flat" / "b" / "x.png").write_text("")
    (root / "flat" / "empty").mkdir()
    write_hdf5(root / "set", pool_size=20)
    return root


def test_the_summary_says_what_was_found_and_left_out(tmp_path, capsys):
    write_sets(tmp_path)
    prepare(tmp_path / "flat")
    lines = capsys.readouterr().out.splitlines()
    picture = tmp_path / "flat" / ".sharedmlp_cache" / "classes.png"
    assert [line.split(maxsplit=1) for line in lines[:5]] == [
        ["layout", "<class>, split by the seed 0"],
        ["classes", "2"],
        ["formats", "8 .xyz"],
        ["points", "16 a cloud: x y z"],
        ["up", "axis     z; another one by --up_axis, and in training by --data.up_axis"],
    ]
    assert lines[5].startswith("extents")
    assert "after each is centered and scaled" in lines[5]
    assert lines[6:9] == [
        "left out    1 .png, no format that is read here (b/x.png)",
        "left out    1 class folder without files (empty/)",
        f"picture     {picture}",
    ]
    assert lines[10].split() == ["class", "train", "test"]
    assert lines[11].split() == ["Stühle", "groß", "3", "1"]
    assert lines[13:] == [
        "train: 6 clouds in 2 classes",
        "test: 2 clouds in 2 classes",
        "val: none, a share of train is carved out by --data.val_fraction",
    ]
    assert imread(picture).ndim == 3


def test_names_that_are_no_text_can_be_printed_and_drawn(tmp_path, capsys):
    for name in (b"caf\xe9", b"$x_{$"):
        folder = os.fsencode(tmp_path) + b"/" + name
        Path(os.fsdecode(folder)).mkdir()
        for number in range(3):
            path = os.fsdecode(folder + b"/\xe9%d.xyz" % number)
            np.savetxt(path, np.random.default_rng(number).normal(size=(20, 3)))
        Path(os.fsdecode(folder + b"/\xe9.png")).touch()
    prepare(tmp_path)
    out = capsys.readouterr().out
    assert "\ncaf\\xe9       2       1\n" in out
    assert r"2 .png, no format that is read here ($x_{$/\xe9.png, caf\xe9/\xe9.png)" in out


def test_hdf5_files_are_one_class_or_count_from_1(tmp_path, capsys):
    write_sets(tmp_path)
    h5py = pytest.importorskip("h5py")
    for split in ("train", "test"):
        with h5py.File(tmp_path / "set" / f"ply_data_{split}0.h5", "r+") as file:
            file["label"][...] += 1
    prepare(tmp_path / "set")
    assert capsys.readouterr().out.count("the labels count from 1 to 3") == 1
    (tmp_path / "set" / "shape_names.txt").write_text("box\n")
    with pytest.raises(SystemExit, match=r"there is one class alone \(box\)"):
        prepare(tmp_path / "set")


def test_the_summary_of_hdf5_files(tmp_path, capsys):
    write_sets(tmp_path)
    (tmp_path / "set" / "test_files.txt").unlink()
    prepare(tmp_path / "set")
    out = capsys.readouterr().out
    assert "layout      HDF5 files" in out
    assert "as they are: not all are centered and in the unit sphere" in out
    assert "train: 18 clouds in 3 classes" in out
    assert "test: none" in out


def test_features_that_files_lack_are_one_line(tmp_path):
    write_sets(tmp_path)
    with pytest.raises(SystemExit) as error:
        prepare(tmp_path / "flat", "--features", "colors")
    message = str(error.value.code)
    assert message.startswith("sharedmlp: error: 6 of 6 train files")
    assert ".xyz: has no colors" in message
    assert "\n" not in message
