"""One row of a comparison: a network, its optimizer and its operations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sharedmlp.benchmark.counts import plain_forward
from sharedmlp.models import create_model


@dataclass(frozen=True)
class Network:
    """A network and its batch, ready to run.

    Attributes:
        module: What is trained.
        inputs: The points in the layout that the network takes.
        train_forward: Takes the inputs to the logits and the feature transform, None if the network
            has none.
        eval_forward: Takes the inputs to the logits.
    """

    module: nn.Module
    inputs: Tensor
    train_forward: Callable[[Tensor], tuple[Tensor, Tensor | None]]
    eval_forward: Callable[[Tensor], Tensor]


# Takes points (B, N, 3), the number of classes and options of the network to the network.
Build = Callable[..., Network]


@dataclass(frozen=True)
class Variant:
    """One row of a comparison. All are trained by `Adam(fused=True)`.

    Attributes:
        label: How the tables name it.
        kind: "plain", "compiled", "fused" or "peer".
        build: Takes points (B, N, 3), the number of classes and, for DGCNN, `num_neighbors`, to the
            network.
        network: Which network it is a variant of, a name of `create_model`.
        modules: What it imports beyond this package; not installed is no error.
        note: What a reader has to know.
        count: Takes B, N and the number of classes to the multiply-adds of the forward pass; None
            if nobody counted them.
        count_training: Likewise of the training step; None means three times the forward pass.
    """

    label: str
    kind: str
    build: Build
    network: str = "pointnet"
    modules: tuple[str, ...] = ()
    note: str = ""
    count: Callable[[int, int, int], int] | None = plain_forward
    count_training: Callable[[int, int, int], int] | None = None

    def multiply_adds(
        self, batch_size: int, num_points: int, num_classes: int
    ) -> dict[str, int | None]:
        """Return the multiply-adds of a training step and of an evaluation, if they are known."""
        sizes = (batch_size, num_points, num_classes)
        if self.count is None:
            return {"train": None, "eval": None}
        forward = self.count(*sizes)
        training = 3 * forward if self.count_training is None else self.count_training(*sizes)
        return {"train": training, "eval": forward}


def own_builder(
    name: str,
    backend: str,
    *,
    compiled: bool = False,
    **options: Any,
) -> Build:
    """Return what `Variant.build` is for a network of `create_model`.

    Args:
        name: Of the network.
        backend: Of its shared MLPs.
        compiled: Whether it runs under `torch.compile`.
        **options: Further arguments of the network.
    """

    def build(points: Tensor, num_classes: int, num_neighbors: int | None = None) -> Network:
        own = options if num_neighbors is None else {**options, "k": num_neighbors}
        model: Any = create_model(name, num_classes, backend=backend, **own)

        def train_forward(inputs: Tensor) -> tuple[Tensor, Tensor | None]:
            output = model.forward_detailed(inputs)
            return output.logits, getattr(output, "feature_transform", None)

        if not compiled:
            return Network(model, points, train_forward, model)
        return Network(
            model,
            points,
            torch.compile(train_forward, dynamic=False),
            torch.compile(model, dynamic=False),
        )

    return build


def network_builder(
    make: Callable[..., nn.Module], *, channels_first: bool, compiled: bool = False
) -> Build:
    """Return what `Variant.build` is for a network of any origin.

    Args:
        make: Takes the number of classes, and `num_neighbors` if that is a setting, to a module
            that returns the logits, or a pair of them and the feature transform.
        channels_first: Whether it takes points (B, 3, N) instead of (B, N, 3).
        compiled: Whether it runs under `torch.compile`.
    """

    def build(points: Tensor, num_classes: int, **options: Any) -> Network:
        model = make(num_classes, **options)
        inputs = points.transpose(1, 2).contiguous() if channels_first else points

        def train_forward(inputs: Tensor) -> tuple[Tensor, Tensor | None]:
            output = model(inputs)
            return output if isinstance(output, tuple) else (output, None)

        def eval_forward(inputs: Tensor) -> Tensor:
            return train_forward(inputs)[0]

        if compiled:
            train_forward = torch.compile(train_forward, dynamic=False)
            eval_forward = torch.compile(eval_forward, dynamic=False)
        return Network(model, inputs, train_forward, eval_forward)

    return build
