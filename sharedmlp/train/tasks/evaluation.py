"""The results of a test: the votes on the copies of clouds, and those of all processes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import pytorch_lightning as pl
import torch
from torch import Tensor, distributed

T = TypeVar("T")


def average_votes(logits: Sequence[Tensor]) -> Tensor:
    """Return the logarithms of the mean probabilities, from the logits `(..., K)` of each copy."""
    votes = torch.stack([some.log_softmax(dim=-1) for some in logits])
    return votes.logsumexp(0) - math.log(len(logits))


def gather_items(trainer: pl.Trainer, items: list[T]) -> list[T]:
    """Return the items of all processes, those of the first one first; called in every process."""
    parts: list[Any] = [None] * trainer.world_size
    distributed.all_gather_object(parts, items)
    return [item for part in parts for item in part]
