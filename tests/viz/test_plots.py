from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from sharedmlp.viz import plot_confusion, plot_runs, save_figure


def test_every_count_is_in_its_cell_and_rows_are_shares():
    confusion = np.array([[8, 2, 0], [0, 4, 0], [0, 0, 0]])
    axes = plot_confusion(confusion, ["a", "b", "c"]).axes[0]
    cells = {
        (text.get_position()[1], text.get_position()[0]): text.get_text() for text in axes.texts
    }
    assert cells == {(0, 0): "8", (0, 1): "2", (1, 1): "4"}
    shown: Any = axes.images[0].get_array()
    np.testing.assert_allclose(shown, np.array([[0.8, 0.2, 0], [0, 1, 0], [0, 0, 0]]))
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c"]


def test_the_picture_is_a_whole_png_without_a_display(tmp_path, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    path = tmp_path / "new" / "confusion.png"
    save_figure(plot_confusion(np.eye(40, dtype=int), [f"class {n}" for n in range(40)]), path)
    assert imread(path).ndim == 3
    assert [p.name for p in path.parent.iterdir()] == ["confusion.png"]


def test_a_matrix_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"\(2, 2\).*got shape \(3, 3\)"):
        plot_confusion(np.eye(3), ["a", "b"])


def test_each_run_is_a_line_and_each_group_a_colour():
    runs = {"fused": [[0.5, 0.75, 0.875], [0.25, 0.5]], "conv1d": [[0.5, 0.625]]}
    axes: Any = plot_runs(runs, "accuracy").axes[0]
    drawn = [line.get_xydata().tolist() for line in axes.lines]
    assert drawn == [
        [[1, 0.5], [2, 0.75], [3, 0.875]],
        [[1, 0.25], [2, 0.5]],
        [[1, 0.5], [2, 0.625]],
    ]
    first, second, other = (line.get_color() for line in axes.lines)
    assert first == second != other
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(runs)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "accuracy")
