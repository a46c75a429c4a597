"""The page in a real browser: it is dragged, zoomed and looked at, with WebGL and without.

Slow, and skipped without Chromium, its driver and selenium (CONTRIBUTING.md says how to get them).
"""

import numpy as np
import pytest

from sharedmlp.viz import ColoredCloud, Coloring, Outline, Screen, screens_page
from tests.viz.browser import Page, cold, middle, open_browser, warm
from tests.viz.test_page import HOSTILE as _HOSTILE

pytestmark = pytest.mark.slow

HOSTILE = _HOSTILE.replace("\udc80", "")  # which the driver cannot return

# Two points a class and opposite each other, so that the middle of the cloud is at the origin.
PAIRS = np.array([[0.6, 0.0, 0.8], [-0.6, 0.0, -0.8], [0.0, 1.0, 0.0], [0.0, -1.0, 0.0]])
KINDS = Coloring("part", [0, 2, 1, 2], ["seat", "leg", "rest"], background=[2])


def grid_outline():
    edge = np.linspace(-0.5, 0.5, 5)
    return Outline("shape", np.stack(np.meshgrid(edge, edge, edge), -1).reshape(-1, 3), 0.25)


def pairs(points=PAIRS, **options):
    return ColoredCloud(points, colorings=[KINDS], **options)


@pytest.fixture(scope="module", params=["WebGL", "canvas"])
def renderer(request):
    return request.param


@pytest.fixture(scope="module")
def driver(renderer):
    with open_browser(renderer) as opened:
        yield opened


@pytest.fixture
def page_of(driver, tmp_path):
    """A function that writes screens as a page; in the end the console has to be empty."""
    pages = []

    def make(*screens, **options):
        path = tmp_path / "page.html"
        path.write_text(screens_page(screens, **options), encoding="utf-8")
        pages.append(Page(driver, path))
        return pages[-1]

    yield make
    for page in pages:
        assert page.problems() == []


def assert_near(found, expected, by=3.0):
    np.testing.assert_allclose(found, expected, atol=by)


def test_points_stand_where_they_should_and_a_drag_turns_them(page_of, renderer):
    page = page_of(Screen("a", [pairs()])).open()
    assert page.run("return document.documentElement.dataset.renderer") == renderer
    before = page.see()
    assert_near(middle(warm(before)), page.spot(PAIRS[0]))
    assert_near(middle(cold(before)), page.spot(PAIRS[2]))
    page.drag(450, 400, (100, 40))
    # The first pixels tell a drag from a click, and turn nothing.
    angles = np.pi * np.array([100, 40]) / page.side()
    after = page.see()
    assert_near(middle(warm(after)), page.spot(PAIRS[0], angles))
    assert_near(middle(cold(after)), page.spot(PAIRS[2], angles))
    assert np.hypot(*np.subtract(middle(warm(after)), middle(warm(before)))) > 20
    page.point_at(450, 650, clicks=2)
    assert np.abs(page.see() - before).max() < 0.02


def test_the_wheel_zooms_about_the_pointer_and_the_right_button_moves(page_of):
    page = page_of(Screen("a", [pairs()])).open()
    start = {"warm": page.spot(PAIRS[0]), "cold": page.spot(PAIRS[2])}
    page.wheel(*start["warm"], -200)
    grown = np.exp(0.3)
    seen = page.see()
    assert_near(middle(warm(seen)), start["warm"])  # what is under the pointer stays
    expected = np.add(start["warm"], grown * np.subtract(start["cold"], start["warm"]))
    assert_near(middle(cold(seen)), expected)
    assert warm(seen).sum() > 1.15 * warm(page_of(Screen("a", [pairs()])).open().see()).sum()
    for button, key in ((2, ""), (0, "\ue008")):  # Shift
        page.open()
        page.drag(450, 600, (60, -50), button, key)
        seen = page.see()
        assert_near(middle(warm(seen)), np.add(start["warm"], (60, -50)))
        assert_near(middle(cold(seen)), np.add(start["cold"], (60, -50)))


def test_keys_turn_zoom_and_move(page_of):
    page = page_of(Screen("a", [pairs()])).open()
    before, angle = page.see(), np.pi / 24
    page.press("\ue014", "\ue015")  # right, down
    assert_near(middle(warm(page.see())), page.spot(PAIRS[0], (angle, angle)))
    page.press("r", "+")
    assert_near(middle(cold(page.see())), page.spot(PAIRS[2], zoom=1.25))
    page.press("-")
    assert np.abs(page.see() - before).max() < 0.02


def test_points_are_round(page_of):
    page = page_of(Screen("a", [pairs()])).open()
    for _ in range(4):
        page.wheel(*page.spot(PAIRS[0]), -300)
    seen = warm(page.see())
    rows, columns = np.nonzero(seen)
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert height >= 15
    assert abs(height - width) <= 2
    assert seen.sum() == pytest.approx(np.pi / 4 * height * width, rel=0.12)


def test_a_label_says_what_a_point_is(page_of):
    cloud = ColoredCloud(10 * PAIRS + 5, colorings=[KINDS, Coloring("votes", [0.5, np.nan, 7, 1])])
    page = page_of(Screen("chair.off\n91%", [cloud], side_by_side=False)).open()
    assert page.text("#label") == ""
    page.point_at(*page.spot(PAIRS[0]))
    assert page.text("#label").split("\n") == [
        "chair.off",
        "point 0 of 4",
        "x 11.00\u2003y 5.00\u2003z 13.00",
        "part: seat",
        "votes: 0.5",
    ]
    page.point_at(*page.spot(PAIRS[1]))
    assert page.text("#label").split("\n")[2:] == [
        "x \u22121.00\u2003y 5.00\u2003z \u22123.00",
        "part: rest",
        "votes: none",
    ]
    page.point_at(20, 650)
    assert page.text("#label") == ""


def test_labels_of_turned_clouds_have_the_files_coordinates(page_of):
    points = PAIRS[:, [0, 2, 1]] * [1, 1, -1]  # the same with y up
    page = page_of(Screen("a", [pairs(points)]), up_axis="y").open()
    page.point_at(*page.spot(PAIRS[0]))
    assert "x 0.600\u2003y 0.800\u2003z 0.000" in page.text("#label")


def test_the_legend_names_the_classes_and_hides_them(page_of):
    page = page_of(Screen("a", [pairs(outline=grid_outline())])).open()
    assert page.text(".legend").split() == ["seat", "1", "leg", "1", "rest", "2", "shape"]
    blue = cold(page.see())
    page.click(".legend button >> shape")
    assert 0 < cold(page.see()).sum() < 0.5 * blue.sum()
    page.click(".legend button >> leg")
    assert cold(page.see()).sum() == 0
    assert warm(page.see()).sum() > 0
    page.point_at(*page.spot(PAIRS[2]))
    assert page.text("#label") == ""  # nobody reads about what is hidden
    page.click(".legend button >> leg")
    assert_near(middle(cold(page.see())), page.spot(PAIRS[2]))


def test_what_is_faint_lies_below(page_of):
    """Critical points are seen through the cloud, even from its other side."""
    rng = np.random.default_rng(0)
    front = rng.normal(size=(500, 3)) * 0.02 + [0.3, -0.5, 0.2]  # towards the viewer
    points = np.concatenate([front, [[-0.3, 0.5, -0.2]]])
    kinds = Coloring("a", [0] * 500 + [1], ["cloud", "critical"], background=[0])
    page = page_of(Screen("a", [ColoredCloud(points, colorings=[kinds])])).open()
    page.run("[camera.azimuth, camera.elevation] = arguments; redraw()", np.arctan2(-5, 3), 0.33)
    assert warm(page.see()).sum() > 20


def test_a_click_shows_the_neighborhood_of_a_point(page_of):
    rows = Coloring("rank", [0, 1, 2, 3], neighbors=[[0, 0], [1, 1], [2, 3], [3, 3]])
    page = page_of(Screen("a", [ColoredCloud(PAIRS, colorings=[rows])])).open()
    page.point_at(*page.spot(PAIRS[2]), clicks=1)
    assert page.text(".legend").split("\n")[:2] == ["center", "its neighborhood"]
    seen = page.see()
    assert_near(middle(warm(seen)), page.spot(PAIRS[2]))
    assert_near(middle(cold(seen)), page.spot(PAIRS[3]))
    assert "the center" in page.text("#label")
    page.press("\ue00c")  # Escape
    assert "rank" in page.text(".legend")


def test_screens_change_by_buttons_keys_and_the_list(page_of):
    screens = [Screen(f"cloud {n}", [pairs(PAIRS * [1, 1, (n + 1) / 9])]) for n in range(8)]
    page = page_of(*screens).open()
    first = page.see()
    place = [page.text("#title"), page.text("#place"), page.run("return document.title")]
    assert place == ["cloud 0", "1 / 8", "cloud 0"]
    assert page.run("return document.getElementById('previous').disabled")
    page.click("#next")
    assert page.text("#title") == "cloud 1"
    assert np.abs(page.see() - first).max() > 0.2
    page.press("\ue00f", "\ue00f")  # Page Down
    assert page.text("#title") == "cloud 3"
    page.press("\ue00e")  # Page Up
    assert page.text("#title") == "cloud 2"
    page.press("l", *"D 6")
    assert page.text("#entries").split() == ["7", "cloud", "6"]
    page.click("#entries button >> cloud 6")
    assert page.text("#place") == "7 / 8"
    page.press("\ue010", "\ue00f")  # End, and no farther
    assert page.text("#title") == "cloud 7"
    page.press("\ue011")  # Home: decoded anew, as it was left long ago
    assert page.text("#title") == "cloud 0"
    assert np.abs(page.see() - first).max() < 0.02


def test_clouds_side_by_side_turn_together(page_of):
    page = page_of(Screen("", [pairs(title="left\nfar"), pairs(title="right")])).open()
    half = page.width // 2
    page.drag(200, 400, (60, 0))
    seen, angles = page.see(), (np.pi * 60 / page.side(), 0)
    assert_near(middle(warm(seen[:, :half])), page.spot(PAIRS[0], angles))
    right = np.add(middle(warm(seen[:, half:])), (half, 0))
    assert_near(right, page.spot(PAIRS[0], angles, pane=1))
    page.point_at(*right)
    assert page.text("#label").split("\n")[:2] == ["right", "point 0 of 4"]


def test_colorings_of_one_cloud_are_tabs(page_of):
    cloud = ColoredCloud(PAIRS, colorings=[KINDS, Coloring("other", [1, 0, 0, 0], ["a", "b"])])
    page = page_of(Screen("a", [cloud])).open()
    assert page.text("#tabs").split() == ["all", "part", "other"]
    page.press("2")
    assert page.run("return panes.length") == 1
    assert_near(middle(cold(page.see())), page.spot(PAIRS[0]))
    page.click("#tabs button >> part")
    assert_near(middle(warm(page.see())), page.spot(PAIRS[0]))
    page.press("0")
    assert page.run("return panes.length") == 2


def test_on_a_phone_fingers_turn_zoom_and_read(page_of):
    cloud = ColoredCloud(PAIRS, colorings=[KINDS, Coloring("other", [1, 2, 3, 4])])
    screens = [Screen("a_long_name_of_a_file_from_a_scan_of_2026.off\nchair", [cloud], False)] * 2
    page = page_of(*screens).open(390, 700, phone=True)
    x, y = page.spot(PAIRS[0])
    page.touch([(x, y)])
    assert "point 0 of 4" in page.text("#label")
    page.touch([(200, 300)], [(210, 300)], [(260, 320)])
    assert_near(
        middle(warm(page.see())),
        page.spot(PAIRS[0], np.pi * np.array([60, 20]) / page.side()),
    )
    page.open(390, 700, phone=True)
    before = warm(page.see()).sum()
    rect = page.run("return panes[0].rect")
    cx, cy = rect["x"] + rect["width"] / 2, rect["y"] + rect["height"] / 2
    page.touch(*([(cx - d, cy), (cx + d, cy)] for d in (50, 55, 60)))
    seen = page.see()
    assert_near(middle(warm(seen)), page.spot(PAIRS[0], zoom=1.2), by=4)
    assert warm(seen).sum() > before


@pytest.mark.parametrize(("width", "height"), [(320, 568), (390, 700), (700, 360)])
def test_on_a_small_screen_everything_has_its_place(page_of, width, height):
    cloud = ColoredCloud(PAIRS, colorings=[KINDS, Coloring("other", [1, 2, 3, 4])])
    page = page_of(*[Screen("a_rather_long_name.off\nchair 91%", [cloud])] * 2)
    page.open(width, height, phone=True)
    assert page.run("return document.documentElement.scrollWidth") <= width
    boxes = page.run(
        "return [...document.querySelectorAll('#title, #top button, #pages button')]"
        ".map((e) => e.getBoundingClientRect().toJSON())"
    )
    for box in boxes:
        assert 0 <= box["left"] < box["right"] <= width
        assert 0 <= box["top"] < box["bottom"] <= height
    for number, box in enumerate(boxes):
        for other in boxes[number + 1 :]:
            apart = max(box["left"], other["left"]) >= min(box["right"], other["right"]) - 1
            assert apart or max(box["top"], other["top"]) >= min(box["bottom"], other["bottom"]) - 1
    for box in page.run("return panes.map((pane) => pane.rect)"):
        assert min(box["width"], box["height"]) > 80


def test_light_and_dark(page_of):
    page = page_of(Screen("a", [pairs()]))
    for dark in (False, True):
        page.open(dark=dark)
        seen = page.see()
        assert (seen[-50:].mean() < 0.2) == dark
        assert (seen[-50:].mean() > 0.9) != dark
        assert warm(seen).sum() > 20
        color = page.run("return getComputedStyle(document.body).color")
        bright = int(color.partition("(")[2].partition(",")[0])
        assert (bright > 200) == dark
    scheme = {"name": "prefers-color-scheme", "value": "light"}
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    assert page.see()[-50:].mean() > 0.9  # without opening it again


def test_names_are_text_and_nothing_from_elsewhere_runs_or_loads(page_of):
    named = Coloring(HOSTILE, [0, 0, 0, 0], [HOSTILE])
    page = page_of(Screen(HOSTILE, [ColoredCloud(PAIRS, HOSTILE, [named, KINDS])])).open()
    words = HOSTILE.split()
    assert page.text("#title").split() == words
    page.point_at(*page.spot(PAIRS[0]))
    assert page.text("#label").split()[: len(words)] == words
    assert page.run("return document.querySelectorAll('b b, h1 *, script').length") == 3
    assert page.run("return performance.getEntriesByType('resource').length") == 0
    assert page.problems() == []
    page.run(
        "const script = document.createElement('script'); script.textContent = 'window.ran = 1';"
        "document.body.append(script); new Image().src = 'http://127.0.0.1:9/a.png'"
    )
    assert page.run("return window.ran === undefined")
    assert all("Content Security Policy" in problem for problem in page.problems())


def test_large_clouds_and_many_of_them(page_of):
    rng = np.random.default_rng(0)
    sphere = rng.normal(size=(200_000, 3))
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    small = ColoredCloud(sphere[:1024])
    screens = [Screen("all", [ColoredCloud(sphere)]), *[Screen("some", [small])] * 300]
    page = page_of(*screens).open()
    before = page.see()
    ink = np.abs(before - before[-1, -1]).max(-1) > 0.05
    assert 0.7 < ink.sum() / (np.pi * (0.46 * page.side()) ** 2) < 1.1
    page.drag(450, 400, (80, 200))
    assert np.abs(page.see() - before).mean() > 0.02
    page.press("\ue010")
    assert page.text("#place") == "301 / 301"


def test_a_lost_drawing_context_comes_back(page_of, renderer):
    if renderer == "canvas":
        pytest.skip("a canvas loses nothing")
    page = page_of(Screen("a", [pairs()])).open()
    before = page.see()
    page.run(
        "window.loser = canvas.getContext('webgl2').getExtension('WEBGL_lose_context');"
        "loser.loseContext()"
    )
    page.drag(450, 400, (10, 10))
    page.run("loser.restoreContext()")
    page.press("r")
    inside = np.s_[4:-4, 4:-4]  # without the frame that shows where keys go
    assert np.abs(page.see()[inside] - before[inside]).max() < 0.02
