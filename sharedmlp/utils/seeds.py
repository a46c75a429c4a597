"""Where the randomness of a run comes from."""

from __future__ import annotations

import os

import numpy as np


def run_seed() -> int:
    """Returns the seed of the run: what ``seed_everything`` was called with, 0 without a call.

    Lightning keeps it in an environment variable, which its own samplers read too and the
    processes that it starts inherit.
    """
    return int(os.environ.get("PL_GLOBAL_SEED", "0"))


def derive_seed(*parts: int) -> int:
    """Returns one well mixed seed in [0, 2**63) for some non-negative numbers, order mattering.

    Neighbouring seeds and epochs added up would give one run's epoch 1 to another's epoch 0.
    """
    # With their number, because a SeedSequence takes no notice of trailing zeros.
    sequence = np.random.SeedSequence([len(parts), *parts])
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))
