from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from sharedmlp.viz import clouds_page, plot_clouds, save_figure

LINE = np.array([[0.0, 0.0, -1.0], [0.0, 0.0, 1.0], [0.25, 0.0, 0.0]])
HALF = LINE / 2


def drawn(figure):
    return [np.stack(axes.collections[0]._offsets3d, axis=1) for axes in figure.axes]


def test_all_panels_have_one_scale_and_their_titles():
    figure = plot_clouds([LINE, HALF], ["a\nchair", "b"], columns=2)
    assert [text.get_text() for text in figure.texts] == ["a\nchair", "b"]
    for found, points in zip(drawn(figure), [LINE, HALF], strict=True):
        np.testing.assert_allclose(found, points)


def test_clouds_in_any_unit_fill_the_panels_alike():
    for factor in (1e-3, 1e4):
        np.testing.assert_allclose(drawn(plot_clouds([factor * LINE], ["a"]))[0], LINE)


@pytest.mark.parametrize(("up_axis", "column"), [("x", 0), ("y", 1), ("z", 2)])
def test_the_up_axis_points_up(up_axis, column):
    points = np.zeros((2, 3))
    points[1, column] = 1.0
    expected = [[0, 0, 0], [0, 0, 1]]
    np.testing.assert_allclose(drawn(plot_clouds([points], ["a"], up_axis=up_axis))[0], expected)


def test_the_picture_shows_every_title_whole():
    title = "predicted a\ntrue b\nname of a file.off"
    figure = plot_clouds([LINE] * 5, [title] * 4 + ["short"], columns=3)
    figure.draw_without_rendering()
    edges = figure.bbox
    for text, axes in zip(figure.texts, figure.axes, strict=True):
        box = text.get_window_extent()
        assert box.y0 >= axes.bbox.y1 - 1
        assert box.y1 <= edges.y1
        assert axes.bbox.x0 < (box.x0 + box.x1) / 2 < axes.bbox.x1
        for other in figure.axes:
            assert not box.overlaps(other.bbox.padded(-2))


def test_the_picture_shows_every_cloud_whole(tmp_path):
    """A sphere touches its panel's edge nowhere."""
    rng = np.random.default_rng(0)
    sphere = rng.normal(size=(2000, 3))
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    save_figure(plot_clouds([sphere] * 5, ["a"] * 5, columns=3), tmp_path / "a.png")
    picture = imread(tmp_path / "a.png")[..., :3].min(axis=2)
    height, width = picture.shape
    for row, column in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]:
        panel = picture[
            row * height // 2 : (row + 1) * height // 2,
            column * width // 3 : (column + 1) * width // 3,
        ]
        ink = np.argwhere(panel < 0.95)
        assert len(ink) > 1000
        assert (ink[:, 1] > 0).all()
        assert (ink[:, 1] < panel.shape[1] - 1).all()
        assert (ink[:, 0] < panel.shape[0] - 1).all()
    assert (picture[height // 2 :, 2 * width // 3 :] > 0.95).all()


def test_a_cloud_without_points_is_an_empty_panel(tmp_path):
    figure = plot_clouds([LINE, np.empty((0, 3))], ["a", "none"])
    save_figure(figure, tmp_path / "a.png")


def test_values_color_the_points_and_one_is_marked(tmp_path):
    options: Any = {"values": [[5.0, np.nan, 9.0], None], "marked": [2, None]}
    figure = plot_clouds([LINE, HALF], ["a", "b"], **options)
    collections: Any = figure.axes[0].collections
    colored, gray, marked = collections
    np.testing.assert_allclose(colored.get_array(), [5, 9])
    np.testing.assert_allclose(np.stack(gray._offsets3d, axis=1), LINE[1:2])
    np.testing.assert_allclose(np.stack(marked._offsets3d, axis=1), LINE[2:])
    other: Any = figure.axes[1].collections[0]
    np.testing.assert_allclose(other.get_array(), HALF[:, 2])
    save_figure(figure, tmp_path / "a.png")


@pytest.mark.parametrize("draw", [plot_clouds, clouds_page])
@pytest.mark.parametrize(
    ("clouds", "titles", "options", "message"),
    [
        ([], [], {}, "got 0 clouds and 0 titles"),
        ([LINE], ["a", "b"], {}, "got 1 clouds and 2 titles"),
        ([LINE, LINE[0]], ["a", "b"], {}, r"cloud 1: expected points .*got \(3,\)"),
        ([LINE[:, :2]], ["a"], {}, r"got \(3, 2\)"),
        ([LINE, LINE * np.nan], ["a", "b"], {}, "cloud 1: point 0 is not finite"),
        ([LINE], ["a"], {"up_axis": "up"}, "got 'up'"),
        ([LINE], ["a"], {"values": []}, "values for each of 1 clouds, got 0"),
        ([LINE], ["a"], {"values": [[1.0]]}, r"cloud 0: expected 3 values.* got \(1,\)"),
    ],
)
def test_bad_arguments_say_what_was_expected(draw, clouds, titles, options, message):
    with pytest.raises(ValueError, match=message):
        draw(clouds, titles, **options)
