"""Which classes the parts of a category are."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PartClasses:
    """The categories of shapes and their parts; parts of different categories are other classes.

    Attributes:
        categories: The names of the categories, in the order of their numbers.
        parts: The names of the parts of each category.
    """

    categories: tuple[str, ...]
    parts: tuple[tuple[str, ...], ...]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of all classes of points in the order of their labels: "mug handle"."""
        return tuple(
            f"{category} {part}"
            for category, parts in zip(self.categories, self.parts, strict=True)
            for part in parts
        )

    @property
    def parts_of_category(self) -> list[list[int]]:
        """The labels of the parts of each category."""
        labels, first = [], 0
        for parts in self.parts:
            labels.append(list(range(first, first + len(parts))))
            first += len(parts)
        return labels
