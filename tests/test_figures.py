"""The scripts behind the figures of docs/equivalences.md draw what the page shows."""

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.image import imread

ROOT = Path(__file__).parents[1]
SHOWN = set(re.findall(r"\((equivalences/\w+\.png)\)", (ROOT / "docs/equivalences.md").read_text()))


def run_script(monkeypatch, name, *arguments):
    monkeypatch.setattr("sys.argv", [name, *map(str, arguments)])
    runpy.run_path(str(ROOT / "scripts" / name), run_name="__main__")


def check_picture(drawn):
    """A drawing is neither empty nor heavy, and of the size of the one in docs."""
    picture = imread(drawn)[..., :3]
    inked: Any = (picture < 0.95).any(-1)
    assert 0.02 < inked.mean() < 0.9
    assert not inked[[0, -1]].any()  # nothing is cut off at the top and the bottom
    assert drawn.stat().st_size < 150_000
    assert picture.shape == imread(ROOT / "docs/equivalences" / drawn.name)[..., :3].shape


def test_the_figures_of_the_statements(monkeypatch, tmp_path):
    run_script(monkeypatch, "draw_equivalences.py", "--output", tmp_path / "new")
    drawn = sorted((tmp_path / "new").iterdir())
    assert {f"equivalences/{path.name}" for path in drawn} == SHOWN - {"equivalences/digits.png"}
    for path in drawn:
        check_picture(path)


def test_the_class_maps_of_the_digits(monkeypatch, tmp_path, capsys):
    drawn = tmp_path / "new" / "digits.png"
    run_script(monkeypatch, "draw_digits.py", "--epochs", 4, "--output", drawn)
    check_picture(drawn)
    printed = capsys.readouterr().out
    (accuracy,) = re.findall(r"accuracy on 300 single digits: (\d+\.\d)%", printed)
    # Few epochs learn something (chance is 10%), but less than many: the figure is measured.
    assert 30 < float(accuracy) < 96
    assert "map (11, 5, 41)" in printed


@pytest.fixture(scope="module")
def digits():
    return runpy.run_path(str(ROOT / "scripts" / "draw_digits.py"))


def test_only_windows_that_miss_a_part_of_every_digit_are_called_nothing(digits):
    inks = torch.arange(1.0, 41)  # each digit a full square of an ink of its own
    images = inks[:, None, None, None].expand(-1, 1, 8, 8)
    generator = torch.Generator().manual_seed(0)
    windows, targets = digits["draw_windows"](images, inks.long() % 10, generator)
    seen = torch.stack([(windows == ink).flatten(1).sum(1) for ink in inks]).amax(0)
    assert (seen[targets < 10] == 64).all()
    assert (seen[targets == 10] <= 6 * 8).all()  # two rows or columns are missing at least
    assert (targets < 10).sum() == 40
    assert (targets == 10).sum() > 80


@pytest.mark.filterwarnings("ignore:.*hook")
def test_a_map_that_differs_from_the_classifier_is_noticed(digits):
    model = digits["make_lenet"]().eval()
    canvas = digits["make_canvas"](torch.rand(2, 1, 8, 8), [2, 4])
    logits, windows, away = digits["run_on_canvas"](model, canvas, [2, 4])
    assert logits.shape == (11, 5, 11)
    assert windows[away == 0][:, :2].tolist() == [[2, 4], [4, 16]]

    # A hook on the whole model runs in the classifier and is not in the map.
    model.register_forward_hook(lambda model, args, output: output + 1)
    with pytest.raises(AssertionError, match="Tensor-likes are not close"):
        digits["run_on_canvas"](model, canvas, [2, 4])
