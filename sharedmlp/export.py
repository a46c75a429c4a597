"""Trained networks as files for other programs: ONNX, torch.export and safetensors.

Each is one file, takes any number of clouds and of points, and carries `model.metadata`: the
`class_names`, how its training data was prepared (`num_points` of a cloud, `in_channels` of a
point, `up_axis`, `center` and `scale` of the coordinates), and the `temperature` that the logits
are divided by before the softmax. What nobody knows is left out. Points are `(B, N, in_channels)`
in the parameters' dtype, logits `(B, num_classes)`.

Networks that find neighbors carry the search with them (sharedmlp.ops.neighbors.exported): it needs
a program with float64, as torch and ONNX Runtime on CPUs and CUDA have it, and memory for the
distances of all pairs, 8 bytes each. PointNet++ finds the same neighbors as here, its sampling is
one loop. DGCNN finds neighbors in features, which are rounded otherwise in another program: where
two points are almost equally far, it now and then takes the other one.

To run `model.onnx` (metadata are strings; those that were none before, in JSON):

    session = onnxruntime.InferenceSession("model.onnx")
    (logits,) = session.run(["logits"], {"points": points})  # NumPy, float32
    known = session.get_modelmeta().custom_metadata_map
    class_names = json.loads(known["class_names"])
    probabilities = scipy.special.softmax(logits / float(known.get("temperature", 1)), axis=1)

To run `model.pt2`, which needs torch but not this package:

    files = {"metadata.json": ""}
    network = torch.export.load("model.pt2", extra_files=files).module()
    logits = network(points)
    known = json.loads(files["metadata.json"])
    class_names = known["class_names"]
    probabilities = (logits / known.get("temperature", 1)).softmax(dim=1)

To go on with `model.safetensors`, in this package, on any backend:

    from sharedmlp.models import load_safetensors

    model = load_safetensors("model.safetensors", backend="conv1d")
    logits = model(points)
    class_names = model.metadata["class_names"]
    probabilities = (logits / model.metadata.get("temperature", 1)).softmax(dim=1)
"""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from sharedmlp.layers import SharedMLPMaxPool
from sharedmlp.models import (
    NeighborGraphModel,
    PointCloudModel,
    load_safetensors,
    save_safetensors,
)
from sharedmlp.utils.files import atomic_path
from sharedmlp.utils.optional_imports import require_modules

# Largest difference of two logits, relative to the largest logit, between a file and the network.
TOLERANCE = 1e-4
# Of networks that find neighbors in features: of two points that are almost equally far, rounding
# decides which is the k-th neighbor, and that is seen in the logits.
NEIGHBOR_TOLERANCE = 1e-2

# Batch size and number of points of the random clouds that both are compared on.
_SHAPES = ((1, 1024), (2, 1), (3, 77), (8, 2048))


class ExportError(RuntimeError):
    """The file does not compute what the network computes, so it was not written."""


@dataclass(frozen=True)
class Parity:
    """How far a file and the network are apart, on random clouds.

    Attributes:
        max_difference: Largest difference of two logits, relative to the largest logit of the
            batch.
        equal_predictions: Share of the clouds whose largest logit is the same one, in [0, 1].
        clouds: How many clouds were compared.
    """

    max_difference: float
    equal_predictions: float
    clouds: int

    def __str__(self) -> str:
        shapes = ", ".join(f"{batch} x {points}" for batch, points in _SHAPES)
        return (
            f"logits differ by at most {self.max_difference:.1e} of the largest, "
            f"{self.equal_predictions:.2%} of the predictions are equal "
            f"({self.clouds} random clouds, in batches of {shapes} points)"
        )


def export_model(model: PointCloudModel, path: str | Path, format: str) -> Parity:
    """Write a network to one file for other programs, checked against the network itself.

    The network is exported as it evaluates, on the CPU. One with `search_precision="bfloat16"`,
    which approximates the max, is exported, and compared, with the exact one.

    Args:
        model: The network; it is left as it is.
        path: The file to write or replace; only a file that passes the check is written.
        format: `"onnx"` (needs the extra `onnx`), `"torch_export"` or `"safetensors"` (needs the
            extra `export`).

    Returns:
        How far the file, read and run again, is from the network.

    Raises:
        ExportError: If that is more than `TOLERANCE`, or `NEIGHBOR_TOLERANCE` of a
            `NeighborGraphModel`.
        ImportError: If the format needs a package that is not installed.
        ValueError: If the format is unknown, or is safetensors and the network not registered.
    """
    if format not in FORMATS:
        raise ValueError(f"unknown format {format!r}: choose one of {', '.join(FORMATS)}")
    model = copy.deepcopy(model).cpu().eval()
    model.metadata = {**model.metadata, "in_channels": model.in_channels}
    for module in model.modules():
        if "fused" in vars(module):
            vars(module)["fused"] = (
                False  # the plain operations are recorded, also of one that must fuse
            )
    exact = copy.deepcopy(model)
    for module in exact.modules():
        if isinstance(module, SharedMLPMaxPool):
            module.search_precision = "float32"
    path = Path(path)
    with atomic_path(path) as partial:
        with torch.no_grad(), _quiet():
            FORMATS[format].write(model, partial)
            parity = _compare(exact, FORMATS[format].open(partial))
        allowed = NEIGHBOR_TOLERANCE if isinstance(model, NeighborGraphModel) else TOLERANCE
        if not parity.max_difference <= allowed:  # nor NaN
            raise ExportError(
                f"{path} is not written: as {format}, {parity}, and {allowed:.0e} is allowed"
            )
    return parity


@dataclass(frozen=True)
class _Format:
    """How to write a network to a path, and how to run what is there."""

    suffix: str
    write: Callable[[PointCloudModel, Path], None]
    open: Callable[[Path], Callable[..., Tensor]]


def _write_onnx(model: PointCloudModel, path: Path) -> None:
    _import_onnxruntime()
    axes = {0: "batch", 1: "points"}
    onnx: Any = torch.onnx.export(
        _trace(model),
        input_names=["points", "categories"][: 2 if _num_categories(model) else 1],
        output_names=["logits"],
        dynamic_shapes=_shapes(model, axes),  # the program has these already, here they are named
        verbose=False,
    )
    for name, value in model.metadata.items():
        onnx.model.metadata_props[name] = value if isinstance(value, str) else json.dumps(value)
    onnx.save(path, external_data=False)


def _open_onnx(path: Path) -> Callable[..., Tensor]:
    session = _import_onnxruntime().InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(*inputs: Tensor) -> Tensor:
        names = [entry.name for entry in session.get_inputs()]
        feed = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
        return torch.from_numpy(session.run(["logits"], feed)[0])

    return run


def _write_torch_export(model: PointCloudModel, path: Path) -> None:
    with path.open("wb") as file:
        metadata = json.dumps(model.metadata)
        torch.export.save(_trace(model), file, extra_files={"metadata.json": metadata})


def _open_torch_export(path: Path) -> Callable[..., Tensor]:
    with path.open("rb") as file:
        return cast("Callable[..., Tensor]", torch.export.load(file).module())


def _open_safetensors(path: Path) -> Callable[..., Tensor]:
    return load_safetensors(path, search_precision="float32")


FORMATS = {
    "onnx": _Format(".onnx", _write_onnx, _open_onnx),
    "torch_export": _Format(".pt2", _write_torch_export, _open_torch_export),
    "safetensors": _Format(".safetensors", save_safetensors, _open_safetensors),
}


def _trace(model: PointCloudModel) -> torch.export.ExportedProgram:
    """Record the plain operations, for any number of clouds and of points."""
    weight = next(model.parameters())
    points = torch.zeros(2, 8, model.in_channels, dtype=weight.dtype)  # neither 0 nor 1: constants
    axes = {0: torch.export.Dim("batch", min=1), 1: torch.export.Dim("points", min=1)}
    inputs = _inputs(model, points)
    return torch.export.export(model, inputs, dynamic_shapes=_shapes(model, axes))


def _num_categories(model: PointCloudModel) -> int:
    """Return how many categories of shapes a network is told; 0 for none."""
    return int(model.architecture.get("num_categories", 0))


def _inputs(model: PointCloudModel, points: Tensor) -> tuple[Tensor, ...]:
    """Return what a network is called with for points: with categories, if it is told them."""
    count = _num_categories(model)
    return (points, torch.arange(len(points)) % count) if count else (points,)


def _shapes(model: PointCloudModel, axes: dict[int, Any]) -> tuple[dict[int, Any], ...]:
    """Return the dynamic axes of each input, of those of the points."""
    return (axes, {0: axes[0]}) if _num_categories(model) else (axes,)


def _compare(model: PointCloudModel, other: Callable[..., Tensor]) -> Parity:
    generator = torch.Generator().manual_seed(0)
    dtype = next(model.parameters()).dtype
    differences, equal = [], []
    for batch, num_points in _SHAPES:
        # The normal distribution has points inside the unit sphere and outside.
        shape = (batch, num_points, model.in_channels)
        points = torch.randn(shape, generator=generator, dtype=dtype) / 2
        inputs = _inputs(model, points)
        logits, others = model(*inputs), other(*inputs)
        differences.append((logits - others).abs().max() / logits.abs().max())
        equal.append((logits.argmax(-1) == others.argmax(-1)).flatten())
    same, clouds = torch.cat(equal), sum(batch for batch, _ in _SHAPES)
    return Parity(torch.stack(differences).max().item(), same.double().mean().item(), clouds)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the exporters say about themselves: that there is no torchvision, and more."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*LeafSpec.*", FutureWarning)
            yield
    finally:
        logger.setLevel(level)


def _import_onnxruntime() -> Any:
    # torch.onnx needs the first two.
    require_modules("onnx", "onnxscript", "onnxruntime", extra="onnx", purpose="Writing ONNX")
    import onnxruntime

    return onnxruntime
