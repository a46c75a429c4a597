"""Curves of whatever was logged."""

from typing import Any

import pytest

from sharedmlp.viz import plot_learning_curves


def panels(rows):
    """Of each panel in their order: the lines by label."""
    return {
        axes.get_title(): {
            str(line.get_label()): line.get_xydata().tolist()  # type: ignore[union-attr]
            for line in axes.lines
        }
        for axes in plot_learning_curves(rows).axes
    }


def test_stages_share_a_panel_and_epochs_count_from_one():
    rows = [
        {"epoch": 0, "step": 2, "learning_rate": 0.5, "val/loss": 2.0, "train/loss": 3.0},
        {"epoch": 1, "step": 5, "learning_rate": 0.25, "train/loss": 1.0},
        {"epoch": 4, "step": 14, "val/loss": 0.5, "val/overall_accuracy": 0.75},
    ]
    drawn = panels(rows)
    assert list(drawn) == ["loss", "overall accuracy", "learning rate"]
    assert drawn["loss"] == {"train": [[1, 3], [2, 1]], "val": [[1, 2], [5, 0.5]]}
    assert drawn["overall accuracy"] == {"val": [[5, 0.75]]}
    assert list(drawn["learning rate"].values()) == [[[1, 0.5], [2, 0.25]]]


def test_what_a_task_of_ones_own_logs_is_drawn_too():
    rows = [
        {
            "epoch": 0,
            "learning_rate": 1.0,
            "my_$score": 1.0,
            "val_iou": 0.5,
            "train_iou_epoch": 0.25,
            "train_iou_step": 0.125,
            "train/mean_class_accuracy": 0.5,
        }
    ]
    drawn = panels(rows)
    assert list(drawn) == ["mean class accuracy", "my $score", "iou", "learning rate"]
    assert drawn["iou"] == {"train": [[1, 0.25]], "val": [[1, 0.5]]}


def test_any_number_of_panels_lies_side_by_side():
    figure = plot_learning_curves([{"epoch": 0, **{f"m{n}": 1.0 for n in range(8)}}])
    boxes: Any = [axes.get_position() for axes in figure.axes]
    assert len(boxes) == 8
    for number, box in enumerate(boxes):
        assert 0 < box.x0 < box.x1 < 1
        assert 0 < box.y0 < box.y1 < 1
        assert not any(box.overlaps(other) for other in boxes[:number])


def test_nothing_to_draw_is_an_error():
    with pytest.raises(ValueError, match="expected rows with a metric"):
        plot_learning_curves([{"epoch": 0, "step": 1}])
