"""What stands in the file; what a browser makes of it is in test_page_browser.py."""

import base64
import hashlib
import re

import numpy as np
import pytest
import torch

from sharedmlp.viz import ColoredCloud, Coloring, Outline, Screen, clouds_page, screens_page
from tests.viz.pages import blocks, given, policy_of, screens_of, unpack, upright

LINE = np.array([[0.0, 0.0, -1.0], [0.0, 0.0, 1.0], [0.25, 0.0, 0.0]])


def one(**options):
    """The packed cloud of a page with one."""
    page = screens_page([Screen("a", [ColoredCloud(LINE, **options)])])
    return screens_of(page)[0]["clouds"][0]


def test_a_row_of_panels_is_a_screen_in_one_scale():
    titles = ["a\nchair", "b", "c"]
    page = clouds_page([LINE, LINE / 2, 3 * LINE], titles, marked=[None, 2, None], columns=2)
    first, second = screens_of(page)
    assert [cloud["title"] for cloud in first["clouds"] + second["clouds"]] == titles
    assert [cloud["marked"] for cloud in first["clouds"]] == [None, 2]
    whole, half = (upright(cloud["points"]) for cloud in first["clouds"])
    np.testing.assert_allclose(half - half[0], (whole - whole[0]) / 2, atol=1e-4)
    assert first["scale"] < 1.1 < 3 < second["scale"]
    assert blocks(page)["index"] == ["a \u00b7 chair; b", "c"]


@pytest.mark.parametrize("factor", [1e-3, 1.0, 1e6])
@pytest.mark.parametrize(("up_axis", "column"), [("x", 0), ("y", 1), ("z", 2)])
def test_clouds_stand_upright_and_labels_have_their_own_coordinates(up_axis, column, factor):
    rng = np.random.default_rng(0)
    points = factor * (rng.normal(size=(50, 3)) * [1, 2, 3] + [5, 0, -7])
    page = screens_page([Screen("a", [ColoredCloud(torch.tensor(points))])], up_axis=up_axis)
    (screen,) = screens_of(page)
    drawn = upright(screen["clouds"][0]["points"])
    np.testing.assert_allclose(np.argsort(drawn[:, 2]), np.argsort(points[:, column]))
    assert np.linalg.norm(drawn, axis=1).max() == pytest.approx(1, abs=1e-4)
    found = given(screen, screen["clouds"][0]["points"])
    np.testing.assert_allclose(found, points, atol=1e-3 * factor)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([0, 1, 255], "u1"),
        ([0.0, 1.0, 256.0], "u2"),
        ([0, 1, 70000], "u4"),
        ([-1, 0, 1], "f4"),
        ([0.5, 0, 1], "f4"),
        ([np.nan, 0, 1], "f4"),
    ],
)
def test_values_are_kept_in_the_smallest_type_that_has_them(values, kind):
    packed = one(colorings=[Coloring("a", values)])["colorings"][0]["values"]
    assert packed["type"] == kind
    np.testing.assert_array_equal(unpack(packed), np.array(values, dtype=np.float32))


def test_a_cloud_has_several_colorings_neighbors_and_an_outline():
    neighbors = [[0, 1], [1, 2], [2, 0]]
    truth = Coloring("truth", torch.tensor([0, 1, 1]), ["leg", "seat"], background=[1])
    cloud = one(
        colorings=[truth, Coloring("confidence", [0.5, 1, 0.25], neighbors=neighbors)],
        outline=Outline("shape", 2 * LINE, 0.5),
    )
    classes, numbers = cloud["colorings"]
    assert (classes["name"], classes["classes"]) == ("truth", ["leg", "seat"])
    assert classes["background"] == [1]
    assert unpack(classes["values"]).tolist() == [0, 1, 1]
    assert numbers["width"] == 2
    assert unpack(numbers["neighbors"]).tolist() == [0, 1, 1, 2, 2, 0]
    shape = upright(cloud["outline"]["points"])
    assert np.linalg.norm(shape, axis=1).max() == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(upright(cloud["points"])[1, 2] * 2, shape[1, 2], atol=1e-3)


def test_empty_clouds_and_single_points_are_screens():
    page = clouds_page([LINE, np.empty((0, 3))], ["a", "none"], columns=1)
    assert upright(screens_of(page)[1]["clouds"][0]["points"]).shape == (0, 3)
    (screen,) = screens_of(clouds_page([[[5.0, 6.0, 7.0]]], ["a"]))
    np.testing.assert_allclose(given(screen, screen["clouds"][0]["points"]), [[5, 6, 7]])


def test_the_page_needs_nothing_but_itself():
    page = clouds_page([LINE], ["a"])
    for outside in ("http:", "https:", "//cdn", "src=", "@import", "url(", "import(", "fetch("):
        assert outside not in page
    assert re.findall(r'href="([^"]*)"', page) == ["data:,"]
    assert "__" not in page  # every placeholder is filled
    assert len(page) < 55_000


def test_a_thousand_clouds_take_the_room_of_their_points():
    points = np.random.default_rng(0).normal(size=(1024, 3))
    one, many = (
        len(screens_page(Screen("a", [ColoredCloud(points)]) for _ in range(count)))
        for count in (1, 11)
    )
    assert (many - one) / 10 < 1024 * 6 * 4 / 3 + 500


def test_the_policy_allows_the_script_and_the_style_and_nothing_else():
    page = clouds_page([LINE], ["a"])
    rules = dict(rule.split(" ", 1) for rule in policy_of(page).split("; "))
    assert rules["default-src"] == "'none'"
    for name, tag in (("script-src", "script"), ("style-src", "style")):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[name] == f"'sha256-{digest}'"


HOSTILE = '</script><script>alert("x")</script><!--<b>&amp;\u2028 __SCRIPT__ \u05d0\u6905\udc80'


def test_a_name_cannot_leave_its_place():
    plain = clouds_page([LINE], ["a"])
    cloud = ColoredCloud(LINE, HOSTILE, [Coloring(HOSTILE, [0, 0, 0], [HOSTILE])])
    page = screens_page([Screen(HOSTILE, [cloud])])
    for tag in ("<script", "</script", "<!--", "<b"):
        assert page.count(tag) == plain.count(tag)
    (screen,) = screens_of(page)
    assert screen["title"] == screen["clouds"][0]["title"] == HOSTILE
    assert screen["clouds"][0]["colorings"][0]["classes"] == [HOSTILE]
    page.encode()  # names of files may be no valid text


@pytest.mark.parametrize(
    ("coloring", "message"),
    [
        (Coloring("a", [1, 2]), r"coloring 'a': expected 3 values, .* got shape \(2,\)"),
        (Coloring("a", [0, 1, 2], ["b", "c"]), "classes are from 0 to 1, got 0 to 2"),
        (Coloring("a", [0, -1, 1], ["b", "c"]), "classes are from 0 to 1, got -1 to 1"),
        (Coloring("a", [0.0, 1, 1], ["b", "c"]), "classes are integers, got float64"),
        (Coloring("a", None, ["b"]), "expected a class of each point, got None"),
        (Coloring("a", neighbors=[[0], [1]]), r"expected neighbors \(3, .* got shape \(2, 1\)"),
        (Coloring("a", neighbors=[[0], [1], [3]]), "neighbors are from 0 to 2, got 0 to 3"),
    ],
)
def test_bad_colorings_say_what_was_expected(coloring, message):
    with pytest.raises(ValueError, match=message):
        one(colorings=[coloring])


def test_a_page_has_screens():
    with pytest.raises(ValueError, match="one or more screens, got none"):
        screens_page([])
    with pytest.raises(ValueError, match="got 0 clouds and 0 titles"):
        screens_page([Screen("a", [])])
