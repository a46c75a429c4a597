"""`sharedmlp compare` on the files that runs leave."""

import json

import pytest
from matplotlib.image import imread

from sharedmlp.__main__ import main

# As Lightning's CSV logger writes it: several rows an epoch, each with some of the values.
PARTIAL = """\
epoch,step,test/overall_accuracy,train/loss,val/overall_accuracy
0,1,,,0.25
0,1,,1.5,
1,3,,,0.75
1,3,,1.2,
2,5,,,0.5
2,5,,1.1,
3,6,0.9,,
"""
ONE_ROW = "epoch,train/loss,val/overall_accuracy\n0,1.5,0.25\n1,1.2,0.35\n2,1.1,0.5\n"


def write_run(folder, metrics, test=None):
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text(metrics)
    if test:
        names = ("overall_accuracy", "mean_class_accuracy")
        (folder / "test_metrics.json").write_text(json.dumps(dict(zip(names, test, strict=True))))


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "a", PARTIAL, (0.5, 0.25))
    write_run(tmp_path / "b", ONE_ROW, (0.75, 0.5))
    write_run(tmp_path / "untested" / "version_0", ONE_ROW)
    return tmp_path


def test_runs_and_groups_of_runs_in_a_table(capsys):
    main(["compare", "a", "both=a,b", "untested/version_0"])
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| a | 1 | 50.0% | 25.0% | 75.0% |",
        "| both | 2 | 62.5% (50.0% to 75.0%) | 37.5% (25.0% to 50.0%) | 62.5% (50.0% to 75.0%) |",
        "| untested/version_0 | 1 |  |  | 50.0% |",
    ]


def test_the_curves_have_one_point_an_epoch(inside, monkeypatch, capsys):
    from sharedmlp.viz import plot_runs

    drawn = []
    monkeypatch.setattr(
        "sharedmlp.viz.plot_runs",
        lambda curves, label: (drawn.append(curves), plot_runs(curves, label))[1],
    )
    main(["compare", "a", "pair=a,b", "--picture", "curves.png"])
    a, b = [0.25, 0.75, 0.5], [0.25, 0.35, 0.5]
    assert drawn == [{"a": [a], "pair": [a, b]}]
    assert imread("curves.png").ndim == 3
    assert capsys.readouterr().out.splitlines()[-1].split() == ["picture", "curves.png"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere"], 1, "nowhere/metrics.csv: no such file; `sharedmlp fit` writes it"),
        (["untested"], 1, "untested/metrics.csv: no such file; name runs in it: version_0"),
        (["other"], 1, "other/metrics.csv has no val/overall_accuracy"),
        (["damaged"], 1, "damaged/test_metrics.json is no report of a test"),
        (["a", "a"], 2, "a is there twice"),
    ],
)
def test_what_cannot_be_compared_is_one_line(inside, capsys, arguments, code, message):
    write_run(inside / "other", "epoch,val/loss\n0,1.0\n")
    write_run(inside / "damaged", ONE_ROW)
    (inside / "damaged" / "test_metrics.json").write_text("{")
    with pytest.raises(SystemExit) as error:
        main(["compare", *arguments])
    said = error.value.code if code == 1 else capsys.readouterr().err
    assert message in str(said)
    assert str(said).strip().count("\n") == 0
