"""What the command line reads and a training writes beside its files."""

import sys


def own_environment(patch):
    """Set the arguments of the process and the variables that `seed_everything` writes.

    Set by a `MonkeyPatch`, all of them are put back at its end.
    """
    patch.setattr(sys, "argv", ["sharedmlp"])
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        patch.setenv(name, "0")
