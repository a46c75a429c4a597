"""Fused pools to test, and what they are compared with."""

import torch

from sharedmlp import SharedMLPMaxPool
from tests.formula import compare_with_formula as compare
from tests.formula import randomize

BACKENDS = ["linear", "conv1d", "conv2d"]


DTYPES = [torch.float64, torch.float32]


WIDTHS = [3, 6, 9]


def compare_with_formula(pool, x, **options):
    compare(pool, x, pooled=True, kind="fused", **options)


def make(backend="linear", dtype=torch.float64, **options):
    torch.manual_seed(0)
    pool = SharedMLPMaxPool(WIDTHS, backend=backend, fused=True, **options).to(dtype)
    randomize(pool)
    return pool


def clouds(*shape, dtype=torch.float64, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
