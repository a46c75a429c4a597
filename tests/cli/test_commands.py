"""The subcommands on single files, called in this process on a network of a moment's training."""

import csv
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from sharedmlp.__main__ import main
from sharedmlp.inference.checkpoint import load_trained
from sharedmlp.inference.predict import classify_files, predict_files
from sharedmlp.models import PointNet, create_model, save_safetensors
from sharedmlp.viz import ColoredCloud, Screen, find_critical_sets
from tests.data.io.meshes import TETRAHEDRON, TWO_TRIANGLES
from tests.train.tiny import CLASSES, ArrayDataModule, make_task, make_trainer

coarse_sets = partial(find_critical_sets, resolution=9)  # or most of the time goes there


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("trained") / "best.ckpt"
    trainer = make_trainer(max_epochs=1)
    data = ArrayDataModule(up_axis="z")
    data.preprocessing |= {"centre": "mean", "scale": "unit sphere"}
    trainer.fit(make_task(learning_rate=0.01), data)
    trainer.save_checkpoint(path)
    main(["export", "--ckpt_path", str(path), "--format", "safetensors"])
    return path


@pytest.fixture
def inside(trained, tmp_path, monkeypatch):
    """A folder with the checkpoint, the exported file, and a folder with two meshes."""
    monkeypatch.chdir(tmp_path)
    for module in ("views", "network_screen"):
        monkeypatch.setattr(f"sharedmlp.viz.{module}.find_critical_sets", coarse_sets)
    for suffix in (".ckpt", ".safetensors"):
        shutil.copy(trained.with_suffix(suffix), tmp_path)
    (tmp_path / "meshes" / "deeper").mkdir(parents=True)
    (tmp_path / "meshes" / "deeper" / "a.off").write_text(TETRAHEDRON)
    (tmp_path / "meshes" / "b.off").write_text(TWO_TRIANGLES)
    return tmp_path


def read_csv(path):
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def expect_exit(arguments):
    with pytest.raises(SystemExit) as error:
        main(arguments)
    return error.value.code


@pytest.mark.parametrize("ckpt_path", ["best.ckpt", "best.safetensors"])
def test_predict_names_files_on_the_terminal_and_in_csv(inside, capsys, ckpt_path):
    arguments = ["predict", "meshes", "--ckpt_path", ckpt_path, "--output", "new/p.csv"]
    assert main([*arguments, "--seed", "3", "--up_axis", "y"]) is None
    rows = read_csv("new/p.csv")
    files = ["meshes/b.off", "meshes/deeper/a.off"]
    assert [row["file"] for row in rows] == files
    expected = predict_files(load_trained("best.ckpt"), files, seed=3, up_axis="y")
    *lines, last = capsys.readouterr().out.splitlines()
    assert last.split() == ["predictions", "new/p.csv"]
    for row, line, (_, probabilities) in zip(rows, lines, expected, strict=True):
        assert list(row) == ["file", "prediction", *(f"p({name})" for name in CLASSES)]
        found = torch.tensor([float(row[f"p({name})"]) for name in CLASSES])
        assert isinstance(probabilities, torch.Tensor)
        torch.testing.assert_close(found, probabilities, rtol=0, atol=1e-5)
        assert row["prediction"] == CLASSES[int(probabilities.argmax())]
        order = probabilities.argsort(descending=True).tolist()
        shown = [word for n in order for word in (CLASSES[n], f"{float(probabilities[n]):.1%}")]
        assert line.split() == [row["file"], *shown]


def test_predict_counts_what_it_leaves_out_of_a_folder(inside, capsys):
    for name in ("a.txt", "b.txt", "deeper/c.png", ".DS_Store", "README"):
        (inside / "meshes" / name).write_text("")
    main(["predict", "meshes", "--ckpt_path", "best.ckpt"])
    first, *_ = capsys.readouterr().err.splitlines()
    assert first == "meshes: 4 left out: 2 .txt, 1 no suffix, 1 .png"


def test_predict_says_which_network_answers_and_nothing_else_on_stdout(inside, capsys):
    main(["predict", "meshes", "--ckpt_path", "best.ckpt"])
    printed = capsys.readouterr()
    network, classes, up = printed.err.splitlines()
    assert network == "pointnet_vanilla of best.ckpt, trained on 21 clouds (16 points, z up)"
    assert classes.startswith("  3 classes: box, capsule, sphere; ")
    assert classes.endswith("% of 3 validation clouds right")
    assert up.startswith("note: 2 of 2 files do not say which axis is up: z is taken, as in train")
    assert [line.split()[0] for line in printed.out.splitlines()] == [
        "meshes/b.off",
        "meshes/deeper/a.off",
    ]
    main(["predict", "meshes", "--ckpt_path", "best.ckpt", "--up_axis", "y"])
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_predict_warns_of_clouds_unlike_those_of_training(inside, capsys):
    model = load_trained("best.ckpt")
    model.metadata |= {
        "num_points": 50,
        "temperature": 100.0,
        "validation": {"clouds": 100, "accuracy": 0.9, "confidence": 0.9},
    }
    save_safetensors(model, Path("sure.safetensors"))
    np.save("few.npy", np.random.default_rng(0).normal(size=(9, 3)))
    files = ["few.npy", *["meshes/b.off"] * 29]
    main(["predict", *files, "--ckpt_path", "sure.safetensors", "--up_axis", "z"])
    few, unsure = capsys.readouterr().err.splitlines()[2:]
    assert few.startswith("warning: 1 of 30 clouds have less than half of the network's 50 points")
    assert unsure.startswith("warning: mean confidence 3")
    main(["predict", *files, "--ckpt_path", "best.ckpt", "--up_axis", "z"])
    assert "warning" not in capsys.readouterr().err


def test_the_most_confident_turn_is_on_the_terminal_and_in_csv(inside, capsys):
    options = ["--ckpt_path", "best.ckpt", "--output", "p.csv"]
    main(["predict", "meshes", *options, "--rotations", "5"])
    rows, model = read_csv("p.csv"), load_trained("best.ckpt")
    files = ["meshes/b.off", "meshes/deeper/a.off"]
    lines = capsys.readouterr().out.splitlines()
    answers = dict(classify_files(model, files, rotations=5))
    for row, line, (_, probabilities) in zip(
        rows, lines, predict_files(model, files, rotations=5), strict=False
    ):
        assert list(row)[:4] == ["file", "prediction", "rotation", "p(box)"]
        assert row["prediction"] == CLASSES[int(torch.as_tensor(probabilities).argmax())]
        answer: Any = answers[Path(row["file"])]
        assert float(row["rotation"]) == answer.degrees
        assert answer.degrees in (0, 72, 144, 216, 288)
        assert line.endswith(f"turned {answer.degrees:.0f}°")
        one = dict(predict_files(model, [row["file"]]))[Path(row["file"])]
        assert answer.probabilities.max() >= torch.as_tensor(one).max() - 1e-5
    main(["predict", "meshes", *options])
    assert "rotation" not in read_csv("p.csv")[0]


def test_the_rows_of_other_turns_are_not_gone_on_with(inside, capsys):
    (inside / "p.csv.part").write_text(
        json.dumps({"columns": [], "rotations": 1})
        + "\n"
        + json.dumps(["meshes/b.off", "-"])
        + "\n"
    )
    arguments = ["meshes", "--ckpt_path", "best.ckpt", "--output", "p.csv", "--rotations", "2"]
    assert expect_exit(["predict", *arguments]) == 2
    assert "another rotations" in capsys.readouterr().err


def test_turns_need_an_up_axis_and_a_number(inside, capsys):
    model = PointNet(3, transforms=False)
    model.metadata = {"class_names": list(CLASSES)}
    save_safetensors(model, Path("no_axis.safetensors"))
    arguments = ["predict", "meshes", "--ckpt_path", "no_axis.safetensors", "--rotations"]
    assert expect_exit([*arguments, "3"]) == 2
    assert "leave rotations out" in capsys.readouterr().err
    assert expect_exit([*arguments, "0"]) == 2
    assert "--rotations is at least 1" in capsys.readouterr().err


def test_predict_writes_nothing_but_what_it_is_told(inside):
    before = sorted(inside.rglob("*"))
    main(["predict", "meshes/b.off", "--ckpt_path", "best.ckpt"])
    assert sorted(inside.rglob("*")) == before


@pytest.mark.parametrize("command", ["predict", "show"])
def test_bad_files_do_not_stop_the_others_but_count(inside, capsys, command):
    (inside / "meshes" / "a.off").write_text("OFF\n")
    code = expect_exit([command, "no.off", "meshes", "--ckpt_path", "best.ckpt"])
    printed = capsys.readouterr().out
    assert "meshes/b.off" in printed
    assert "meshes/deeper/a.off" in printed
    assert code.splitlines()[0] == "2 of 4 files could not be read:"  # so the status is 1
    assert "no.off: cannot be opened" in code
    assert "meshes/a.off: line 1: the file ends" in code


@pytest.mark.parametrize("command", ["predict", "show"])
def test_with_bad_files_alone_nothing_is_written(inside, command):
    code = expect_exit([command, "no.off", "--ckpt_path", "best.ckpt", "--output", "out.png"])
    assert "1 of 1 files could not be read" in code
    assert not (inside / "out.png").exists()


@pytest.mark.parametrize("command", ["predict", "show"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ckpt_path", "best.ckpt"], "required: FILE_OR_FOLDER"),
        (["b.off", "--ckpt_path", "meshes/b.off"], "cannot be read as a checkpoint"),
        (["b.off", "--ckpt_path", "bad.safetensors"], "is no safetensors file"),
        (["b.off", "--ckpt_path", "nameless.safetensors"], "does not name its classes"),
        (["meshes", "--ckpt_path", "no_axis.safetensors", "--up_axis", "y"], "does not know which"),
    ],
)
def test_wrong_arguments_are_one_message(inside, capsys, command, arguments, message):
    (inside / "bad.safetensors").write_text("nothing")
    model = PointNet(3, transforms=False)
    save_safetensors(model, Path("nameless.safetensors"))
    model.metadata = {"class_names": list(CLASSES)}
    save_safetensors(model, Path("no_axis.safetensors"))
    assert expect_exit([command, *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", ["predict", "show"])
def test_without_a_checkpoint_the_network_of_the_package_answers(inside, capsys, command):
    output = [] if command == "predict" else ["--output", "a.png"]
    main([command, "meshes/b.off", *output])
    file, best, share, *_ = capsys.readouterr().out.splitlines()[0].split()
    assert file == "meshes/b.off"
    assert best in create_model("pointnet_vanilla", pretrained="modelnet40").metadata["class_names"]
    assert share.endswith("%")


@pytest.mark.parametrize("command", ["predict", "show"])
@pytest.mark.parametrize("ckpt_path", ["no.ckpt", "no.safetensors"])
def test_a_missing_checkpoint_is_one_line(inside, capsys, command, ckpt_path):
    assert expect_exit([command, "meshes", "--ckpt_path", ckpt_path]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"sharedmlp: error: there are no weights '{ckpt_path}': expected")


def test_coordinates_that_stay_as_they_are_are_mentioned(inside, capsys):
    model = PointNet(3, transforms=False)
    model.metadata = {"class_names": list(CLASSES)}
    save_safetensors(model, Path("other.safetensors"))
    main(["predict", "meshes", "--ckpt_path", "other.safetensors"])
    assert "coordinates of the files are taken as they are" in capsys.readouterr().err
    main(["predict", "meshes", "--ckpt_path", "best.ckpt"])
    assert "as they are" not in capsys.readouterr().err


def test_show_makes_a_screen_of_each_file(inside, capsys, monkeypatch):
    made = []
    monkeypatch.setattr(
        "sharedmlp.viz.screens_page",
        lambda screens, **options: made.append((screens, options)) or "page",
    )
    np.save("c.npy", np.random.default_rng(0).normal(size=(16, 3)))
    main(["show", "c.npy", "meshes/b.off", "--ckpt_path", "best.ckpt", "--output", "new/a.html"])
    assert (inside / "new" / "a.html").read_text() == "page"
    ((screens, options),) = made
    assert options == {"up_axis": "z"}
    assert len(screens) == 2
    (cloud,) = screens[0].clouds
    model = load_trained("best.ckpt")
    sets = coarse_sets(model, cloud.points)
    assert torch.equal(cloud.points[cloud.colorings[0].values == 1], sets.critical)
    assert cloud.outline.spacing == sets.spacing
    with torch.no_grad():
        logits = model(cloud.points[None])[0]
    probabilities = (logits / model.metadata["temperature"]).softmax(0)
    answer, share = CLASSES[int(probabilities.argmax())], f"{float(probabilities.max()):.1%}"
    assert screens[0].title.split("\n") == ["c.npy", f"{answer} {share}"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["c.npy", answer, share]
    assert lines[-1].split() == ["clouds", "new/a.html"]


def test_a_page_of_many_files_leaves_out_what_is_large(inside, monkeypatch):
    seen = []

    def find_screen(model, points, title, *, details, **choice):
        seen.append(details)
        return Screen(title, [ColoredCloud(points)])

    monkeypatch.setattr("sharedmlp.viz.find_screen", find_screen)
    for count in (32, 33):
        main(["show", *["meshes/b.off"] * count, "--ckpt_path", "best.ckpt", "--output", "a.html"])
        assert (inside / "a.html").read_text().count('id="screen-') == count
    assert seen == [True] * 32 + [False] * 33


def test_show_writes_a_picture_unless_told_otherwise(inside):
    main(["show", "meshes/b.off", "--ckpt_path", "best.safetensors"])
    assert imread("clouds.png").ndim == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["meshes/b.off", "--output", "a.pdf"], "ends in .png or .html, got a.pdf"),
        (["meshes/b.off"] * 17, "17 files are too many for a picture: name at most 16"),
        (["meshes/b.off", "--ckpt_path", "normals.safetensors"], "got in_channels=6"),
    ],
)
def test_what_cannot_be_shown_is_said(inside, capsys, arguments, message):
    model = PointNet(3, 6, transforms=False)
    model.metadata = {"class_names": list(CLASSES)}
    save_safetensors(model, Path("normals.safetensors"))
    assert expect_exit(["show", "--ckpt_path", "best.ckpt", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--config", "--data", "--data.root", "--trainer.devices"])
def test_predict_on_data_is_lightnings(option, monkeypatch):
    seen: list[Any] = []
    monkeypatch.setattr("sharedmlp.cli.lightning.run", seen.append)
    for arguments in (["predict", "--ckpt_path", "a", option, "b"], ["predict", f"{option}=b"]):
        main(arguments)
        assert seen.pop() == arguments


def test_the_metadata_that_files_are_read_by_is_in_both_kinds_of_checkpoint(trained):
    from sharedmlp.models import load_safetensors

    expected = load_trained(trained).metadata
    found = load_safetensors(trained.with_suffix(".safetensors")).metadata
    assert json.loads(json.dumps(expected)).items() <= found.items()
    assert {"class_names", "num_points", "up_axis", "scale"} <= expected.keys()
    assert {"trained_on", "temperature", "validation"} <= expected.keys()
