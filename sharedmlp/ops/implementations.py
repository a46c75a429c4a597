"""The implementations of the ops, the preferred ones first."""

from __future__ import annotations

from sharedmlp.ops.cpu.implementation import CPU
from sharedmlp.ops.interface import Implementation, Workload
from sharedmlp.ops.reference import Reference

IMPLEMENTATIONS: list[Implementation] = [CPU(), Reference()]


def choose(workload: Workload) -> tuple[Implementation | None, list[str]]:
    """Return the first implementation that takes a workload; else None, and why each declines."""
    reasons: list[str] = []
    for implementation in IMPLEMENTATIONS:
        declined = implementation.not_supported_reasons(workload)
        if not declined:
            return implementation, []
        reasons += declined
    return None, list(dict.fromkeys(reasons))
