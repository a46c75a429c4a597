"""Independent pieces of tensor work, dealt to threads that each work alone.

One large parallel region after another makes every thread wait for the slowest at each of them,
which costs most where another process takes turns on the same cores. Here each thread runs whole
jobs with single-threaded kernels and meets the others once, at the end.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from threading import Lock, local

import torch
from torch import Tensor


def _work_alone() -> None:
    # A thread takes the process's number of threads at its first use of torch, which may come long
    # after this: asking for the number makes it the first use.
    torch.get_num_threads()
    # A thread of torch's OpenMP spins for milliseconds after its share of a parallel region, on a
    # core that these threads need, unless libgomp knows of more threads than cores: it counts
    # teams, so each thread here opens one, of two, once.
    torch.set_num_threads(2)
    torch.zeros(2**16).add_(1)
    torch.set_num_threads(1)


@lru_cache(maxsize=1)
def _pool(num_threads: int, process_id: int) -> ThreadPoolExecutor:
    """The threads of this process: a fork inherits the pool's object but not its threads."""
    return ThreadPoolExecutor(
        num_threads,
        thread_name_prefix=f"sharedmlp-{process_id}",
        initializer=_work_alone,
    )


_local = local()


def thread_buffer(name: str, size: int, like: Tensor) -> Tensor:
    """Returns memory of this thread's own, ``(size,)``, of undefined content.

    On a CPU it is kept for the next call: a fresh buffer costs the system a page fault each 4 KiB.
    """
    if like.device.type != "cpu":
        return like.new_empty(size)
    key = (name, like.dtype, like.device, torch.is_inference_mode_enabled())
    buffers: dict[object, Tensor] = _local.__dict__.setdefault("buffers", {})
    buffer = buffers.get(key)
    if buffer is None or len(buffer) < size:
        buffer = buffers[key] = like.new_empty(size)
    return buffer[:size]


class _Jobs:
    """The numbers of the jobs, handed out one at a time to whichever thread is free."""

    def __init__(self, num_jobs: int) -> None:
        self._numbers = iter(range(num_jobs))
        self._lock = Lock()

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        with self._lock:
            return next(self._numbers)


def run_jobs(worker: Callable[[Iterator[int]], None], num_jobs: int) -> None:
    """Runs ``worker(jobs)`` in as many threads as torch would use, each with its share of the jobs.

    A worker makes its buffers once and then iterates over the numbers of the jobs that it gets. It
    records no gradients and casts nothing automatically. What it writes must not depend on which
    thread runs which job.
    """
    jobs = _Jobs(num_jobs)
    inference = torch.is_inference_mode_enabled()

    def run() -> None:
        with torch.inference_mode(inference), torch.no_grad(), torch.autocast("cpu", enabled=False):
            worker(jobs)

    total = torch.get_num_threads()
    if total == 1 or num_jobs == 1:
        run()
        return
    futures = [_pool(total, os.getpid()).submit(run) for _ in range(min(total, num_jobs))]
    for future in futures:
        future.result()
    # A worker's setting is its own, but is also what threads that start later would begin with.
    torch.set_num_threads(total)
