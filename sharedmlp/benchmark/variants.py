"""What is compared: the networks by name, each with its optimizer and its operations."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sharedmlp.benchmark.counts import fused_training, plain_forward
from sharedmlp.benchmark.networks import FieldPointNet
from sharedmlp.fusion import fuse
from sharedmlp.models import create_model

BACKENDS = ("linear", "conv1d", "conv2d")
REFERENCE = "field_conv1d"


@dataclass(frozen=True)
class Network:
    """A network and its batch, ready to run.

    Attributes:
        module: What is trained.
        inputs: The points in the layout that the network takes.
        train_forward: Takes the inputs to the logits and the feature transform.
        eval_forward: Takes the inputs to the logits.
    """

    module: nn.Module
    inputs: Tensor
    train_forward: Callable[[Tensor], tuple[Tensor, Tensor]]
    eval_forward: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Variant:
    """One row of the comparison. All are trained by `Adam(fused=True)`.

    Attributes:
        label: How the tables name it.
        kind: "plain", "compiled", "fused" or "peer".
        build: Takes points (B, N, 3) and the number of classes to the network.
        modules: What it imports beyond this package; not installed is no error.
        note: What a reader has to know.
        count: Takes B, N and the number of classes to the multiply-adds of the forward pass.
        count_training: Likewise of the training step; None means three times the forward pass.
    """

    label: str
    kind: str
    build: Callable[[Tensor, int], Network]
    modules: tuple[str, ...] = ()
    note: str = ""
    count: Callable[[int, int, int], int] = plain_forward
    count_training: Callable[[int, int, int], int] | None = None

    def multiply_adds(self, batch_size: int, num_points: int, num_classes: int) -> dict[str, int]:
        """Return the multiply-adds of a training step and of an evaluation."""
        sizes = (batch_size, num_points, num_classes)
        forward = self.count(*sizes)
        training = 3 * forward if self.count_training is None else self.count_training(*sizes)
        return {"train": training, "eval": forward}


def _own_builder(
    backend: str,
    *,
    compiled: bool = False,
    **options: Any,
) -> Callable[[Tensor, int], Network]:
    def build(points: Tensor, num_classes: int) -> Network:
        model: Any = create_model("pointnet", num_classes, backend=backend, **options)

        def train_forward(inputs: Tensor) -> tuple[Tensor, Tensor]:
            output = model.forward_detailed(inputs)
            assert output.feature_transform is not None
            return output.logits, output.feature_transform

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
    make: Callable[[int], nn.Module], *, channels_first: bool
) -> Callable[[Tensor, int], Network]:
    """Return what `Variant.build` is for a network of any origin.

    Args:
        make: Takes the number of classes to a module that returns the logits and the feature
            transform.
        channels_first: Whether it takes points (B, 3, N) instead of (B, N, 3).
    """

    def build(points: Tensor, num_classes: int) -> Network:
        model = make(num_classes)
        inputs = points.transpose(1, 2).contiguous() if channels_first else points
        return Network(model, inputs, model, lambda inputs: model(inputs)[0])

    return build


_COMPILER = ("torch._inductor.compile_fx",)


def _fused(
    label: str,
    backend: str,
    note: str = "",
    **options: Any,
) -> Variant:
    build = _own_builder(backend, fused=True, **options)
    return Variant(label, "fused", build, note=note, count_training=fused_training)


VARIANTS: dict[str, Variant] = {
    REFERENCE: Variant(
        "Conv1d as the field writes it",
        "plain",
        network_builder(FieldPointNet, channels_first=True),
    ),
    **{
        name: Variant(f"plain {name}", "plain", _own_builder(name, fused=False))
        for name in BACKENDS
    },
    **{
        f"{name}_compiled": Variant(
            f"plain {name}, torch.compile",
            "compiled",
            _own_builder(name, compiled=True, fused=False),
            modules=_COMPILER,
            note="the peak includes what the compiler itself takes",
        )
        for name in BACKENDS
    },
    **{f"{name}_fused": _fused(f"fused {name}", name) for name in BACKENDS},
    **{
        f"{name}_fused_compiled": Variant(
            f"fused {name}, torch.compile",
            "fused",
            _own_builder(name, compiled=True, fused=True),
            modules=_COMPILER,
            note="the peak includes what the compiler itself takes",
            count_training=fused_training,
        )
        for name in BACKENDS
    },
    "field_fused": Variant(
        "Conv1d as the field writes it, sharedmlp.fuse",
        "fused",
        network_builder(lambda num_classes: fuse(FieldPointNet(num_classes)), channels_first=True),
        note="the code of the first row, run as it is",
        count_training=fused_training,
    ),
    "linear_fused_bfloat16": _fused(
        "fused linear, bfloat16 search",
        "linear",
        "winners found among bfloat16 products, their values computed again in float32",
        search_precision="bfloat16",
    ),
}

# Measured only if it is asked for.
_BFLOAT16 = "linear_fused_bfloat16"


def load_variants(path: str | Path | None) -> dict[str, Variant]:
    """Return the variants of this package, and those of a file after them.

    Args:
        path: A Python file that defines `VARIANTS`, a dict of the same kind; None for no file. Both
            the benchmark and the process of each variant import it.

    Raises:
        ValueError: If there is no such file, or it does not define `VARIANTS`.
    """
    if path is None:
        return VARIANTS
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if spec is None or spec.loader is None or not Path(path).is_file():
        raise ValueError(f"variants come from a Python file, got {str(path)!r}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "VARIANTS"):
        raise ValueError(f"{path} does not define VARIANTS, a dict of names and of Variant")
    return {**VARIANTS, **module.VARIANTS}


def choose_variants(
    names: Sequence[str] | None, table: Mapping[str, Variant], search_precision: str
) -> list[str]:
    """Return which variants to run, in the order of the table, the reference always among them.

    Args:
        names: The ones asked for; None means all but the bfloat16 search.
        table: The variants to choose from, of `load_variants`.
        search_precision: "bfloat16" adds the fused variant that searches in it.

    Raises:
        ValueError: If there is no variant of a name, or no such search precision.
    """
    unknown = [name for name in names or [] if name not in table]
    if unknown:
        raise ValueError(
            f"unknown variant {', '.join(map(repr, unknown))}: choose among {', '.join(table)}"
        )
    if search_precision not in ("float32", "bfloat16"):
        raise ValueError(f'search_precision is "float32" or "bfloat16", got {search_precision!r}')
    chosen = {REFERENCE, *(set(table) - {_BFLOAT16} if names is None else names)}
    if search_precision == "bfloat16":
        chosen.add(_BFLOAT16)
    return [name for name in table if name in chosen]
