"""How many processor cores this process may use."""

import os


def usable_cores() -> int:
    """Return the number of cores that this process may use.

    On Linux these are the ones that its affinity mask allows, elsewhere all that the machine has.
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
