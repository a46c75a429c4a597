"""Which calls write into a tensor, as far as their name and their arguments tell."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def may_mutate(func: Callable[..., Any], kwargs: dict[str, Any]) -> bool:
    """Whether a call may write into one of its arguments."""
    name: str = getattr(func, "__name__", "")
    in_place = name.endswith("_") and not name.endswith("__")
    named = kwargs.get("out") is not None or bool(kwargs.get("inplace"))
    return in_place or named or name in ("__setitem__", "__set__")


def tensors_in(values: Sequence[Any]) -> Iterator[Tensor]:
    """Yield the tensors among the arguments of a call, and in its lists and tuples."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from tensors_in(value)


def memory_address(x: Tensor) -> int:
    """Return what identifies the memory of a tensor."""
    plain = type(x) in (Tensor, nn.Parameter) and x.layout is torch.strided
    return x.untyped_storage().data_ptr() if plain else id(x)
