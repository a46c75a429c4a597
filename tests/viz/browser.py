"""A page in Chromium without a window, driven by selenium: what a person does, and sees."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread
from numpy.typing import NDArray

# Drawn by the processor, so that no graphics card is needed; without it there is no WebGL at all.
_FLAGS = {
    "WebGL": ["--use-angle=swiftshader", "--enable-unsafe-swiftshader"],
    "canvas": ["--disable-3d-apis"],
}
_START = np.radians([-57, 22])
# Pointing is answered in one frame and drawn in the next, and both may lie ahead.
_SETTLE = """
const done = arguments[0];
let frames = 4;
const next = () => frames-- ? requestAnimationFrame(next) : done();
next();
"""
_OVERLAYS = "#panes, #top, #pages, #hint, #label, #ring"


@contextmanager
def open_browser(renderer: str) -> Iterator[Any]:
    """Start a browser with or without WebGL; skip the test if there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    chromedriver = shutil.which("chromedriver")
    if browser is None or chromedriver is None:
        pytest.skip("needs a browser and its driver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", *_FLAGS[renderer]):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=chromedriver)
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_script_timeout(60)
    try:
        yield driver
    finally:
        driver.quit()


class Page:
    """One page, as a person has it before them."""

    def __init__(self, driver: Any, path: Path) -> None:
        self.driver = driver
        self.path = path
        self.width = self.height = 0

    def open(self, width: int = 900, height: int = 700, *, dark: bool = False, phone: bool = False):
        """Open the page anew in a window of a size."""
        self.width, self.height = width, height
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": phone})
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.driver.get("about:blank")
        self.driver.get_log("browser")
        self.driver.get(self.path.as_uri())
        self.settle()
        return self

    def run(self, script: str, *args: Any) -> Any:
        """Return what a script in the page returns."""
        return self.driver.execute_script(script, *args)

    def settle(self) -> None:
        """Wait until what was done is drawn."""
        self.driver.execute_async_script(_SETTLE)

    def see(self) -> NDArray[np.float64]:
        """Return what is drawn, without titles, legends and buttons, `(height, width, 3)`."""
        hide = f"document.querySelectorAll('{_OVERLAYS}').forEach((e) => e.style.visibility = "
        self.run(hide + "'hidden')")
        self.settle()
        picture = imread(io.BytesIO(self.driver.get_screenshot_as_png()))[..., :3]
        self.run(hide + "'')")
        return np.asarray(picture, dtype=np.float64)

    def text(self, query: str) -> str:
        """Return the text of an element, empty if it is hidden."""
        self.settle()
        found = "const found = document.querySelector(arguments[0]);"
        return str(
            self.run(f"{found} return found.checkVisibility() ? found.innerText : ''", query)
        )

    def click(self, query: str) -> None:
        """Click an element; `query` may end in `>> text`, which its text has to contain."""
        query, _, text = query.partition(" >> ")
        found = self.driver.find_elements("css selector", query)
        next(element for element in found if text in element.text).click()
        self.settle()

    def drag(self, x: float, y: float, by: tuple[int, int], button: int = 0, key: str = "") -> None:
        """Drag from a place with a mouse button: 0 left, 2 right."""
        from selenium.webdriver import ActionChains

        if key:
            ActionChains(self.driver).key_down(key).perform()
        actions = ActionChains(self.driver, duration=20)
        pointer = actions.w3c_actions.pointer_action
        pointer.move_to_location(round(x), round(y))
        pointer.pointer_down(button=button)
        for share in (0.25, 0.5, 0.75, 1.0):
            pointer.move_to_location(round(x + share * by[0]), round(y + share * by[1]))
        pointer.pointer_up(button=button)
        actions.perform()
        if key:
            ActionChains(self.driver).key_up(key).perform()
        self.settle()

    def point_at(self, x: float, y: float, *, clicks: int = 0) -> None:
        """Move the mouse to a place, and click."""
        from selenium.webdriver import ActionChains

        actions = ActionChains(self.driver, duration=20)
        actions.w3c_actions.pointer_action.move_to_location(round(x), round(y))
        for _ in range(clicks):
            actions.w3c_actions.pointer_action.click()
        actions.perform()
        self.settle()

    def wheel(self, x: float, y: float, by: int) -> None:
        """Turn the wheel at a place; negative is away from the person."""
        event = {"type": "mouseWheel", "x": x, "y": y, "deltaX": 0, "deltaY": by}
        self.driver.execute_cdp_cmd("Input.dispatchMouseEvent", event)
        self.settle()

    def press(self, *keys: str) -> None:
        """Press keys one after the other."""
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()
        self.settle()

    def touch(self, *frames: list[tuple[float, float]]) -> None:
        """Put fingers down at the places of the first frame, move them through the others, lift."""
        kinds = ["touchStart", *["touchMove"] * (len(frames) - 1)]
        for kind, places in zip(kinds, frames, strict=True):
            points = [{"x": x, "y": y, "id": n} for n, (x, y) in enumerate(places)]
            event = {"type": kind, "touchPoints": points}
            self.driver.execute_cdp_cmd("Input.dispatchTouchEvent", event)
            self.settle()
        self.driver.execute_cdp_cmd(
            "Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []}
        )
        self.settle()

    def spot(
        self, upright: Any, turned: tuple[float, float] = (0, 0), zoom: float = 1, pane: int = 0
    ):
        """Return where a point is drawn, x and y, by the formula that the page is meant to follow.

        Args:
            upright: The point, z up, with the farthest of its cloud at distance 1.
            turned: Radians that the clouds were turned by, to the right and down.
            zoom: How much larger the cloud is.
            pane: Which of several clouds.
        """
        rect = self.run("return panes[arguments[0]].rect", pane)
        a, e = _START[0] - turned[0], _START[1] + turned[1]
        x, y, z = upright
        towards = np.cos(a) * x + np.sin(a) * y
        near = np.cos(e) * towards + np.sin(e) * z
        scale = 0.46 * zoom * min(rect["width"], rect["height"]) / (1 - 0.22 * near)
        return (
            rect["x"] + rect["width"] / 2 + scale * (np.cos(a) * y - np.sin(a) * x),
            rect["y"] + rect["height"] / 2 - scale * (np.cos(e) * z - np.sin(e) * towards),
        )

    def side(self, pane: int = 0) -> float:
        """Return the side of the square that a cloud is drawn in."""
        rect = self.run("return panes[arguments[0]].rect", pane)
        return float(min(rect["width"], rect["height"]))

    def problems(self) -> list[str]:
        """Return what the console says."""
        return [entry["message"] for entry in self.driver.get_log("browser")]


def warm(picture: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which pixels are of the first class's color, orange."""
    return np.asarray(picture[..., 0] - picture[..., 2] > 0.15)


def cold(picture: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which pixels are of the second class's color, blue."""
    return np.asarray(picture[..., 2] - picture[..., 0] > 0.15)


def middle(mask: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the middle of some pixels, x and y."""
    rows, columns = np.nonzero(mask)
    assert len(rows)
    return float(columns.mean() + 0.5), float(rows.mean() + 0.5)
