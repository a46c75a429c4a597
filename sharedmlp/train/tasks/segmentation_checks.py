"""Checks of the arguments of a segmentation that depend on its classes."""

from __future__ import annotations

import math
from collections.abc import Sequence


def check_class_weights(class_weights: Sequence[float] | None, class_names: Sequence[str]) -> None:
    """Check that there is a weight for each class.

    Raises:
        ValueError: If not, or one is negative or not finite.
    """
    if class_weights is None:
        return
    if len(class_weights) != len(class_names):
        raise ValueError(
            f"class_weights has a weight for each of the {len(class_names)} classes, got "
            f"{len(class_weights)}"
        )
    for weight in class_weights:
        if not 0 <= weight < math.inf:
            raise ValueError(f"class_weights are finite numbers of at least 0, got {weight}")


def check_parts(
    class_names: Sequence[str],
    category_names: Sequence[str] | None,
    parts_of_category: Sequence[Sequence[int]] | None,
) -> None:
    """Check that every category has a name and parts among the classes.

    Raises:
        ValueError: If not.
    """
    names, parts = category_names or [], parts_of_category or []
    if len(names) != len(parts):
        raise ValueError(
            f"category_names and parts_of_category are of the same categories, got {len(names)} "
            f"and {len(parts)}"
        )
    for name, some in zip(names, parts, strict=True):
        if not some or not all(0 <= part < len(class_names) for part in some):
            raise ValueError(
                f"the parts of the category {name!r} are one or more classes from 0 to "
                f"{len(class_names) - 1}, got {list(some)}"
            )
