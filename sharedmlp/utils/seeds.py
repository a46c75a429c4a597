"""Where the randomness of a run comes from."""

from __future__ import annotations

import hashlib

import numpy as np


def derive_seed(*parts: int) -> int:
    """Return one well mixed seed in [0, 2**63) for some non-negative numbers, order mattering.

    Neighboring seeds and epochs added up would give one run's epoch 1 to another's epoch 0.
    """
    # With their number, because a SeedSequence takes no notice of trailing zeros.
    sequence = np.random.SeedSequence([len(parts), *parts])
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator_for_name(seed: int, name: str) -> np.random.Generator:
    """Return the random numbers of one named item, whichever process draws them and in what order.

    Args:
        seed: Any integer.
        name: The name of the item, such as a file's path below its root.
    """
    digest = hashlib.sha256(f"{seed}:{name}".encode(errors="surrogateescape")).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))
