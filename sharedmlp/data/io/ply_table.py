"""What an element of a PLY file holds, whatever the format of its body."""

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sharedmlp.data.io.base import FormatError
from sharedmlp.data.io.ply_header import PlyElement, PlyHeader


class PlyLists(NamedTuple):
    """The lists of a property, one a record.

    Attributes:
        sizes: (N,) integers, how many values each list has.
        values: (sum of the sizes,) all values, one list after the other.
    """

    sizes: NDArray[np.int64]
    values: NDArray[Any]


PlyTable: TypeAlias = dict[str, NDArray[Any] | PlyLists]
"""The columns of an element by the names of its properties: (N,) numbers, or lists."""


def describe_counts(header: PlyHeader) -> str:
    """Return the counts that a header promises, for a message."""
    return ", ".join(f"{element.name} {element.count}" for element in header.elements)


def cut_short(element: PlyElement, found: int) -> FormatError:
    """Return the error for a file that ends after some records of an element."""
    return FormatError(
        f"the header promises {element.count} records of {element.name!r}, but the file ends after "
        f"{found}: it is cut short or its counts are wrong"
    )
