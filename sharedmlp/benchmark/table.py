"""What is compared: the variants of each network by name."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from sharedmlp.benchmark.counts import fused_training
from sharedmlp.benchmark.field import FieldDGCNN, FieldPointNet, FieldPointNet2
from sharedmlp.benchmark.field.pointnet2 import MULTI_SCALE
from sharedmlp.benchmark.variants import Variant, network_builder, own_builder
from sharedmlp.fusion import fuse

BACKENDS = ("linear", "conv1d", "conv2d")
_COMPILER = ("torch._inductor.compile_fx",)
_PEAK_OF_COMPILER = "the peak includes what the compiler itself takes"

# Of each network, as the field writes it: what its other variants are compared with.
REFERENCES = {
    "pointnet": "field_conv1d",
    "dgcnn": "dgcnn_field",
    "pointnet2_ssg": "pointnet2_ssg_field",
    "pointnet2_msg": "pointnet2_msg_field",
}
REFERENCE = REFERENCES["pointnet"]


def _fused(label: str, backend: str, note: str = "", **options: Any) -> Variant:
    build = own_builder("pointnet", backend, fused=True, **options)
    return Variant(label, "fused", build, note=note, count_training=fused_training)


def _neighborhoods(network: str, make: Callable[..., nn.Module]) -> dict[str, Variant]:
    """Return the variants of a network that finds neighbors.

    Args:
        network: Its name.
        make: Makes it as the field writes it.
    """
    row = partial(Variant, network=network, count=None)
    field, compiled = (
        network_builder(make, channels_first=True, compiled=compiled) for compiled in (False, True)
    )
    variants = {
        "field": row("gather, concatenate, Conv2d, as the field writes it", "plain", field),
        "field_compiled": row(
            "as the field writes it, torch.compile",
            "compiled",
            compiled,
            modules=_COMPILER,
            note=_PEAK_OF_COMPILER,
        ),
    }
    for backend in BACKENDS:
        plain, fused = (own_builder(network, backend, fused=fused) for fused in (False, "auto"))
        variants[backend] = row(f"plain {backend}", "plain", plain)
        variants[f"{backend}_fused"] = row(f"fused {backend}", "fused", fused)
    return {f"{network}_{name}": variant for name, variant in variants.items()}


VARIANTS: dict[str, Variant] = {
    REFERENCE: Variant(
        "Conv1d as the field writes it",
        "plain",
        network_builder(FieldPointNet, channels_first=True),
    ),
    **{
        name: Variant(f"plain {name}", "plain", own_builder("pointnet", name, fused=False))
        for name in BACKENDS
    },
    **{
        f"{name}_compiled": Variant(
            f"plain {name}, torch.compile",
            "compiled",
            own_builder("pointnet", name, compiled=True, fused=False),
            modules=_COMPILER,
            note=_PEAK_OF_COMPILER,
        )
        for name in BACKENDS
    },
    **{f"{name}_fused": _fused(f"fused {name}", name) for name in BACKENDS},
    **{
        f"{name}_fused_compiled": Variant(
            f"fused {name}, torch.compile",
            "fused",
            own_builder("pointnet", name, compiled=True, fused=True),
            modules=_COMPILER,
            note=_PEAK_OF_COMPILER,
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
    **_neighborhoods("dgcnn", FieldDGCNN),
    **_neighborhoods("pointnet2_ssg", FieldPointNet2),
    **_neighborhoods("pointnet2_msg", partial(FieldPointNet2, levels=MULTI_SCALE)),
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
    names: Sequence[str] | None,
    table: Mapping[str, Variant],
    search_precision: str = "float32",
    network: str = "pointnet",
) -> list[str]:
    """Return which variants to run, in the order of the table, the reference always among them.

    Args:
        names: The ones asked for; None means all of the network but the bfloat16 search.
        table: The variants to choose from, of `load_variants`.
        search_precision: "bfloat16" adds the fused variant of PointNet that searches in it.
        network: Of which network.

    Raises:
        ValueError: If there is no variant of a name, or no such search precision or network.
    """
    if network not in REFERENCES:
        raise ValueError(f"network is one of {', '.join(REFERENCES)}, got {network!r}")
    of_network = [name for name in table if table[name].network == network]
    unknown = [name for name in names or [] if name not in of_network]
    if unknown:
        raise ValueError(
            f"unknown variant {', '.join(map(repr, unknown))}: choose among {', '.join(of_network)}"
        )
    if search_precision not in ("float32", "bfloat16"):
        raise ValueError(f'search_precision is "float32" or "bfloat16", got {search_precision!r}')
    chosen = {
        REFERENCES[network],
        *(set(of_network) - {_BFLOAT16} if names is None else names),
    }
    if search_precision == "bfloat16":
        chosen.add(_BFLOAT16)
    return [name for name in of_network if name in chosen]
