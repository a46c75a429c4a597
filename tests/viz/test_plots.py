from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import imread

from sharedmlp.viz import plot_confusion, plot_runs, save_figure


def test_every_cell_has_its_share_and_count_and_the_title_the_accuracies():
    confusion = np.array([[898, 2, 0], [0, 4, 0], [0, 0, 0], [1, 999, 0]])
    confusion = np.hstack([confusion, [[0], [0], [0], [1000]]])
    figure = plot_confusion(confusion, ["a", "b", "c", "d"])
    axes = figure.axes[0]
    cells = {
        (text.get_position()[1], text.get_position()[0]): text.get_text() for text in axes.texts
    }
    assert cells == {
        (0, 0): ">99%\n(898)",
        (0, 1): "<1%\n(2)",
        (1, 1): "100%\n(4)",
        (3, 0): "<1%\n(1)",
        (3, 1): "50%\n(999)",
        (3, 3): "50%\n(1000)",
    }
    shown: Any = axes.images[0].get_array()
    np.testing.assert_allclose(shown[0], [898 / 900, 2 / 900, 0, 0])
    np.testing.assert_allclose(shown[2], 0)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true (clouds)")
    rows = [label.get_text() for label in axes.get_yticklabels()]
    assert rows == ["a (900)", "b (4)", "c (0)", "d (2000)"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b", "c", "d"]
    title: Any = figure.get_suptitle()
    assert title == (
        "confusion matrix of 2904 clouds\noverall accuracy 65.5%, mean class accuracy 83.3%"
    )


@pytest.mark.parametrize("num_classes", [2, 17, 45])
def test_all_labels_lie_within_the_picture_and_apart(num_classes):
    """With the longest names that are shown whole."""
    names = [f"{n:02} a name of twenty-eight cha" for n in range(num_classes)]
    figure = plot_confusion(np.eye(num_classes, dtype=int), names)
    figure.set_dpi(40)
    axes: Any = figure.axes[0]
    width, height = figure.get_size_inches() * figure.dpi
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    for labels, step in ((axes.get_yticklabels(), "y"), (axes.get_xticklabels(), "x")):
        boxes = [label.get_window_extent(renderer) for label in labels]
        sizes = [box.height if step == "y" else box.width for box in boxes]
        starts = sorted(getattr(box, f"{step}0") for box in boxes)
        assert all(np.diff(starts) > max(sizes))
    everything = [*axes.get_yticklabels(), *axes.get_xticklabels(), axes.xaxis.label]
    everything += [axes.yaxis.label, *figure.texts]
    for text in everything:
        box = text.get_window_extent(renderer)
        assert 0 <= box.x0 <= box.x1 <= width, text
        assert 0 <= box.y0 <= box.y1 <= height, text


def test_no_clouds_are_no_error():
    assert plot_confusion(np.zeros((2, 2), int), ["a", "b"]).get_suptitle().endswith("no clouds")


def test_the_picture_is_a_whole_png_without_a_display(tmp_path, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.setattr("sharedmlp.viz.plots._DPI", 20)
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
