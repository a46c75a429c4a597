"""Names of any script in pictures."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.font_manager import fontManager

from sharedmlp.viz import labels, plot_clouds, plot_confusion, read_picture, save_figure
from sharedmlp.viz.labels import axis_names, label_style, text_width

NAMES = ["椅子", "كرسي", "стул", "🪑", "$a_b$ $", r"\frac{", "कुर्सी", "a\nb", ""]


def test_any_name_is_drawn_without_a_word_on_the_terminal(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("sharedmlp.viz.plots._DPI", 50)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_figure(plot_confusion(np.eye(len(NAMES), dtype=int), NAMES), tmp_path / "a.png")
        save_figure(plot_clouds([np.eye(3)], [" ".join(NAMES)]), tmp_path / "b.png")
    assert capfd.readouterr() == ("", "")
    assert read_picture(tmp_path / "a.png").std() > 0


def test_signs_of_formulas_are_signs():
    axes = plot_confusion(np.eye(2, dtype=int), ["$a_b$", "c"]).axes[0]
    assert not any(label.get_parse_math() for label in axes.get_xticklabels())
    assert [label.get_text() for label in axes.get_xticklabels()] == ["$a_b$", "c"]


@pytest.fixture
def fonts(monkeypatch):
    """The default font draws Latin letters, and another one the rest of these."""
    drawn = {"latin": set("abcd "), "other": set("椅子🪑")}
    named = [("Latin", "latin", "400"), ("Other", "other", "700"), ("Other", "other", "400")]
    monkeypatch.setattr(
        fontManager,
        "ttflist",
        [SimpleNamespace(name=n, fname=f, style="normal", weight=w) for n, f, w in named],
    )
    monkeypatch.setattr(labels, "_default_font", lambda: "latin")
    monkeypatch.setattr(labels, "_draws", lambda path, character: character in drawn[path])
    labels._find_family.cache_clear()
    yield
    labels._find_family.cache_clear()


def test_a_character_that_the_default_font_lacks_is_taken_from_one_that_has_it(fonts):
    assert label_style(["abc"])["fontfamily"] == ["sans-serif"]
    assert label_style(["a 椅", "🪑", "?"])["fontfamily"] == ["sans-serif", "Other"]


def test_names_that_cannot_be_told_apart_have_their_number(fonts):
    names = ["a  b\n", "椅子", "??", "a" * 28, "b" * 29]
    shown = ["a b", "椅子", "2: ??", "a" * 28, f"4: {'b' * 24}…"]
    assert axis_names(names) == shown


def test_a_font_that_cannot_be_opened_draws_nothing(tmp_path):
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    assert not labels._draws(str(tmp_path / "broken.ttf"), "a")
    assert labels._draws(labels._default_font(), "a")
    assert not labels._draws(labels._default_font(), "椅")


def test_wide_characters_count_twice():
    assert [text_width(text) for text in ("abc", "椅子", "стул")] == [3, 4, 4]
