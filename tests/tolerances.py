"""The one tolerance table of the tests, and the comparison that reads it."""

import torch
from torch import Tensor

# Largest allowed error, relative to the largest expected entry.
TOLERANCES = {
    # A few hundred roundings in another order of summation.
    "value": {torch.float64: 1e-11, torch.float32: 2e-5},
    # A parameter's gradient sums over every position, and through batch norm most of it cancels.
    "gradient": {torch.float64: 1e-11, torch.float32: 1e-4},
    # The fused layer takes a channel's variance from the covariance of its inputs, as w S w^T.
    # Where it is small next to |w|^2 |S|, it keeps fewer of float32's digits.
    "fused": {torch.float64: 1e-10, torch.float32: 1e-4},
    # Weights after ten optimizer steps, absolute: Adam divides by the root of the second moment and
    # so makes much of the roundings of small gradients.
    "training": {torch.float64: 1e-9},
    # Twenty steps, and the fused path's own rounding of the variance in each.
    "training, fused": {torch.float64: 1e-8},
}


def assert_close(
    actual: Tensor,
    expected: Tensor,
    *,
    kind: str = "value",
    scale: float | None = None,
    name: str = "tensor",
) -> None:
    """Compares; `scale` replaces the largest entry if that is itself a rounding error."""
    assert actual.shape == expected.shape, f"{name}: {actual.shape} is not {expected.shape}"
    assert actual.dtype == expected.dtype, f"{name}: {actual.dtype} is not {expected.dtype}"
    assert torch.isfinite(actual).all(), f"{name}: not finite"
    if expected.numel() == 0:
        return
    if not expected.is_floating_point():
        assert torch.equal(actual, expected), f"{name}: {actual} is not {expected}"
        return
    if scale is None:
        scale = expected.abs().max().item() or 1.0  # a tensor of zeros: the limit is absolute
    error = (actual - expected).abs().max().item()
    limit = TOLERANCES[kind][expected.dtype]
    assert error <= limit * scale, f"{name}: error {error:.3g} at scale {scale:.3g}, limit {limit}"
