"""`load_cloud` for tests, which know of each cloud which arrays it has."""

from typing import Any

from sharedmlp import data

load_cloud: Any = data.load_cloud
