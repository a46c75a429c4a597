"""A process that keeps all cores busy with matrix products (`sharedmlp benchmark --contended`).

Run with the number of threads as its argument, it multiplies until its input ends.
"""

from __future__ import annotations

import os
import sys
import threading

import torch

from sharedmlp.benchmark.processes import Process


def main() -> None:
    """Multiply matrices in as many threads as the command line says."""
    torch.set_num_threads(int(sys.argv[1]))
    left, right = torch.randn(2, 1024, 1024)
    out = torch.empty(1024, 1024)
    torch.mm(left, right, out=out)
    print("{}", flush=True)  # the answer that `Process` waits for: busy from here on
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    while True:
        torch.mm(left, right, out=out)


def start_contention(threads: int) -> Process:
    """Start such a process; return when it is busy."""
    return Process(["-m", "sharedmlp.benchmark.contention", str(threads)], threads)


def _leave_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
