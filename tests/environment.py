"""What the command line reads and a training writes beside its files."""

import sys


def own_environment(patch):
    """Set the arguments of the process and the variables that `seed_everything` writes.

    Pictures have few pixels, which takes a third of the time. Set by a `MonkeyPatch`, all of it is
    put back at its end.
    """
    patch.setattr("sharedmlp.viz.plots._DPI", 20)
    patch.setattr(sys, "argv", ["sharedmlp"])
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        patch.setenv(name, "0")
