"""Run the same use of a layer on its default path and on its plain one, and compare."""

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from sharedmlp import SharedMLP, SharedMLPMaxPool, TNet
from sharedmlp.layers import SharedMLPMaxMeanPool
from tests.formula import randomize
from tests.tolerances import assert_close

BACKENDS = ["linear", "conv1d", "conv2d"]
WIDTHS = [3, 6, 9]
LAYERS = {
    "mlp": lambda **options: SharedMLP(WIDTHS, **options),
    "pool": lambda **options: SharedMLPMaxPool(WIDTHS, **options),
    "max_mean": lambda **options: SharedMLPMaxMeanPool(WIDTHS, **options),
    "tnet": lambda **options: TNet(3, channels=WIDTHS[1:], hidden_channels=[8], **options),
}
# More points than a tile has, so that a path that runs in tiles needs several.
SHAPE = (2, 1100, 3)


def points(*shape, seed=1, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape or SHAPE, generator=generator, dtype=dtype)


def make(kind, backend, fused="auto", dtype=torch.float64, **options):
    torch.manual_seed(0)
    module = LAYERS[kind](backend=backend, fused=fused, **options).to(dtype)
    for part in module.modules():
        if isinstance(part, SharedMLP):
            randomize(part)
    return module


def is_fused(module, x):
    """Whether the module's own plan for an input is a fused path."""
    pool = getattr(module, "pool", module)
    return pool._plan(x, x.numel() // x.shape[-1], must=False).path != "plain"


def same(use, kind, backend, *, training=False, prepare=None, plain=True, **options):
    """Compare what `use(module)` returns, and the state that it leaves behind.

    Args:
        use: Takes a module and returns tensors in any nesting.
        kind: A name in `LAYERS`.
        backend: The backend.
        training: The module's mode.
        prepare: What is done to a module first, such as pruning; may return another one.
        plain: Whether the default has to take the plain path while `use` runs.
    """
    modules = []
    for fused in ("auto", False):
        module = make(kind, backend, fused, **options).train(training)
        changed = prepare(module) if prepare else None
        modules.append(module if changed is None else changed)
    seen = [tree_leaves(use(module)) for module in modules]
    assert len(seen[0]) == len(seen[1]) > 0
    for got, want in zip(*seen, strict=True):
        if isinstance(want, Tensor):
            assert_close(got.detach(), want.detach(), kind="value" if plain else "fused")
        else:
            assert got == want
    states = [module.state_dict() for module in modules]
    for name, want in states[1].items():
        if isinstance(want, Tensor):
            assert_close(states[0][name], want, kind="fused", name=name)
