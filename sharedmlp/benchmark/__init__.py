"""How fast and how large the variants of a network are, side by side in one run.

Every variant lives in a process of its own, and the processes take turns, so that all of them see
the same drift of the machine; ratios are taken within a round and then their median over rounds.
"""

from __future__ import annotations

from sharedmlp.benchmark.report import format_results, format_summary, write_results
from sharedmlp.benchmark.run import run_benchmark
from sharedmlp.benchmark.small import format_small, measure_small
from sharedmlp.benchmark.table import VARIANTS

__all__ = [
    "VARIANTS",
    "format_results",
    "format_small",
    "format_summary",
    "measure_small",
    "run_benchmark",
    "write_results",
]
