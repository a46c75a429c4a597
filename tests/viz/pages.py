"""What a page carries, read as its script reads it."""

import base64
import html
import json
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray


def blocks(page: str) -> dict[str, Any]:
    """Return the blocks of data by their ids."""
    found = re.findall(r'<script type="application/json" id="([^"]*)">([^<]*)</script>', page)
    return {name: json.loads(text) for name, text in found}


def screens_of(page: str) -> list[Any]:
    """Return the screens, in their order."""
    return [block for name, block in blocks(page).items() if name.startswith("screen-")]


def unpack(packed: dict[str, str]) -> NDArray[Any]:
    """Return an array."""
    return np.frombuffer(base64.b64decode(packed["data"]), f"<{packed['type']}")


def upright(packed: dict[str, str]) -> NDArray[np.float64]:
    """Return points as they are drawn, `(N, 3)`, the farthest at distance 1."""
    return unpack(packed).reshape(-1, 3) / 32767


def given(screen: Any, packed: dict[str, str]) -> NDArray[np.float64]:
    """Return points as they were given."""
    turned = upright(packed) * screen["scale"] + screen["center"]
    return turned @ np.array(screen["axes"]).T


def policy_of(page: str) -> str:
    """Return the Content-Security-Policy."""
    found = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert found is not None
    return html.unescape(found[1])
