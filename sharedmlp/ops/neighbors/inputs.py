"""From tensors or arrays of users to clouds of float64, with errors for what is none; and back."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from sharedmlp.ops import torch_internals

if TYPE_CHECKING:  # `import sharedmlp` loads nothing that `import torch` leaves out
    from numpy.typing import NDArray

Array = TypeVar("Array", Tensor, "NDArray[Any]")

_LARGEST = 1e150  # the square of twice as much is a float64


def to_points(array: Tensor | NDArray[Any], name: str) -> Tensor:
    """Return coordinates as float64, without a gradient.

    Raises:
        RuntimeError: If torch.jit.trace or a transform of torch.func is active.
        TypeError: If it is not a tensor or array of floating-point numbers.
        ValueError: If the shape is not `(B, N, C)` or `(N, C)`, or a number is NaN, infinite or
            beyond 1e150.
    """
    if torch_internals.jit_is_tracing():
        raise RuntimeError(
            "a trace would record the neighbors of this input as constants: pass neighbors that "
            "were found before, or find them with plain operations"
        )
    if torch_internals.transforms_are_active():
        raise RuntimeError(
            "a transform of torch.func cannot see into this search: search before the transform, "
            "and pass what was found"
        )
    if isinstance(array, np.ndarray) and array.dtype in (np.float16, np.float32, np.float64):
        points = torch.from_numpy(np.array(array, dtype=np.float64))
    elif isinstance(array, Tensor) and array.is_floating_point():
        # Apple's GPUs have no float64: their tensors are searched on the CPU.
        points = array.detach().cpu() if array.device.type == "mps" else array.detach()
        points = points.to(torch.float64).contiguous()
    else:
        got = f"{type(array).__name__} of {getattr(array, 'dtype', 'no dtype')}"
        raise TypeError(
            f"{name} is a tensor or NumPy array of float16, bfloat16, float32 or float64, got "
            f"{got}: convert it"
        )
    if points.ndim not in (2, 3) or points.shape[-1] < 1:
        raise ValueError(
            f"{name} has the shape (B, N, C) for clouds of one size, or (N, C) for one cloud or, "
            f"with a batch vector, for several, C at least 1; got {tuple(points.shape)}"
        )
    # A NaN is smaller and larger than nothing.
    if points.numel() > 0 and not all(abs(float(x)) <= _LARGEST for x in points.aminmax()):
        raise ValueError(
            f"{name} has to be finite, with magnitudes up to {_LARGEST}, but has a NaN, an "
            "infinity or a larger number: remove such points"
        )
    return points


def to_batch(batch: Tensor | NDArray[Any] | None, points: Tensor, name: str) -> Tensor | None:
    """Return the cloud of each row `(M,)` on the device of the points `(M, C)`.

    Raises:
        ValueError: If it is not an int64 vector of one number, from 0 on, for each row.
    """
    if batch is None:
        return None
    vector = torch.from_numpy(np.array(batch)) if isinstance(batch, np.ndarray) else batch
    if (
        not isinstance(vector, Tensor)
        or vector.dtype != torch.int64
        or points.ndim != 2
        or vector.shape != points.shape[:1]
    ):
        got = getattr(vector, "dtype", type(vector).__name__), tuple(getattr(vector, "shape", ()))
        raise ValueError(
            f"the batch vector of {name} is int64 (M,), the number of the cloud of each row of "
            f"(M, C), got {got[0]} {got[1]} for {name} {tuple(points.shape)}"
        )
    if len(vector) and int(vector.min()) < 0:
        raise ValueError(
            f"the batch vector of {name} counts clouds from 0, got {int(vector.min())}"
        )
    return vector.to(points.device)


def to_count(value: int, name: str) -> int:
    """Return a number that has to be an int of 1 or more.

    Raises:
        TypeError: If it is not an int.
        ValueError: If it is less than 1.
    """
    count = to_int(value, name)
    if count < 1:
        raise ValueError(f"{name} has to be 1 or more, got {count}")
    return count


def to_int(value: int, name: str) -> int:
    """Return a number that has to be an int, of NumPy's or torch's too.

    Raises:
        TypeError: If it is none.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} is an int, got {value!r}")
    return operator.index(value)


def to_users(result: Tensor, like: Array) -> Array:
    """Return a result as what the user gave: an array, or a tensor on the same device."""
    return result.to(like.device) if isinstance(like, Tensor) else result.numpy()


def split_clouds(batch: Tensor) -> dict[int, Tensor]:
    """Return the rows of each cloud that has any, ascending; the batch vector in any order."""
    numbers, order = batch.sort(stable=True)
    clouds, counts = torch.unique_consecutive(numbers, return_counts=True)
    parts = torch.split(order, counts.tolist())
    return dict(zip(clouds.tolist(), parts, strict=True))


class Pairs(NamedTuple):
    """Points to choose from and the queries that choose.

    Attributes:
        points: `(B, N, C)` or `(N, C)`, float64.
        queries: `(B, Q, C)` or `(Q, C)`, float64.
        batch: `(N,)` int64, or None.
        queries_batch: `(Q,)` int64, or None.
        names: What the user calls points and queries.
    """

    points: Tensor
    queries: Tensor
    batch: Tensor | None
    queries_batch: Tensor | None
    names: tuple[str, str]

    @classmethod
    def of(
        cls,
        points: Tensor | NDArray[Any],
        queries: Tensor | NDArray[Any],
        batch: Tensor | NDArray[Any] | None,
        queries_batch: Tensor | NDArray[Any] | None,
        names: tuple[str, str],
    ) -> Pairs:
        """Check them.

        Raises:
            TypeError: If they are of other types, or not of floating-point numbers.
            ValueError: If the shapes do not fit, or a number is not finite.
        """
        of_points, of_queries = names
        if isinstance(points, Tensor) is not isinstance(queries, Tensor):
            raise TypeError(
                f"{of_points} and {of_queries} are both tensors or both NumPy arrays, got "
                f"{type(points).__name__} and {type(queries).__name__}"
            )
        rows = to_points(points, of_points)
        others = rows if queries is points else to_points(queries, of_queries)
        if rows.device != others.device:
            raise ValueError(
                f"{of_points} and {of_queries} have to be on one device, got {rows.device} and "
                f"{others.device}"
            )
        sizes = [(*x.shape[:-2], x.shape[-1]) for x in (rows, others)]
        if sizes[0] != sizes[1] or (batch is None) is not (queries_batch is None):
            raise ValueError(
                f"{of_points} and {of_queries} have the same number of clouds and of channels, and "
                f"both or neither have a batch vector; got {tuple(rows.shape)} "
                f"{'without' if batch is None else 'with'} and {tuple(others.shape)} "
                f"{'without' if queries_batch is None else 'with'}"
            )
        vectors = to_batch(batch, rows, of_points), to_batch(queries_batch, others, of_queries)
        return cls(rows, others, *vectors, names)

    def search(self, search: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Search in each cloud for its own queries.

        Args:
            search: A function of clouds `(b, n, C)` and queries `(b, q, C)` that returns rows
                within the clouds `(b, q, k)`.

        Returns:
            Rows within each cloud `(B, Q, k)`, or rows of all points `(Q, k)`.

        Raises:
            ValueError: If a query's cloud has no points.
        """
        points, queries = self.points, self.queries
        if self.batch is None or self.queries_batch is None:
            if points.shape[-2] == 0 and queries.numel() > 0:
                raise ValueError(
                    f"{self.names[0]} has no rows to choose from, got {tuple(points.shape)}"
                )
            return (
                search(points, queries)
                if points.ndim == 3
                else search(points[None], queries[None])[0]
            )
        clouds = split_clouds(self.batch)
        result = search(points[None, :0], queries[None, :0])[0]
        result = result.new_empty((len(queries), result.shape[1]))
        for cloud, rows in split_clouds(self.queries_batch).items():
            if cloud not in clouds:
                raise ValueError(
                    f"cloud {cloud} has rows of {self.names[1]}, but none of {self.names[0]} to "
                    "choose from"
                )
            members = clouds[cloud]
            result[rows] = members[search(points[members][None], queries[rows][None])[0]]
        return result
