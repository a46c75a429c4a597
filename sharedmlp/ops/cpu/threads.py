"""Run independent pieces of tensor work in threads that each work alone.

One large parallel region after another makes every thread wait for the slowest at each of them,
which costs most if another process takes turns on the same cores. Here each thread runs whole
chunks of the work with single-threaded kernels and meets the others once, at the end.

No setting of the process changes, not even for a moment: `torch.set_num_threads` would also decide
what threads that start meanwhile begin with, so a worker limits itself by the calls of OpenMP and
MKL that concern the calling thread alone.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from pathlib import Path
from threading import Lock

import torch


@cache
def _thread_limits() -> tuple[Callable[[int], object], ...]:
    """Return what limits the threads of the calling thread's kernels; empty if it is not found.

    torch's library and what it links to have the OpenMP runtime that its kernels use, and MKL if it
    was built with it.
    """
    suffix = "dylib" if sys.platform == "darwin" else "so"
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / f"libtorch_cpu.{suffix}"))
        limits = [library.omp_set_num_threads]
    except (OSError, AttributeError):
        return ()
    if torch.backends.mkl.is_available():  # type: ignore[no-untyped-call]
        try:
            limits.append(library.MKL_Set_Num_Threads_Local)
        except AttributeError:
            return ()
    return tuple(limits)


def _limit_this_thread(num_threads: int) -> None:
    for limit in _thread_limits():
        limit(num_threads)


def _work_alone() -> None:
    # A thread takes the process's number of threads at its first use of torch, which may come long
    # after this: asking for the number makes it the first use.
    torch.get_num_threads()
    # A thread of torch's OpenMP spins for milliseconds after its share of a parallel region, on a
    # core that these threads need, unless libgomp knows of more threads than cores: it counts
    # teams, so each thread here opens one, of two, once.
    _limit_this_thread(2)
    torch.zeros(2**16).add_(1)
    _limit_this_thread(1)


class _Pool:
    """The worker threads of this process, made when they are first needed."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew: a fork inherits neither the threads nor who holds the lock."""
        self._lock = Lock()
        self._num_threads = 0
        self._executor: ThreadPoolExecutor | None = None

    def submit(
        self, function: Callable[[], None], count: int, num_threads: int
    ) -> list[Future[None]]:
        """Start a function `count` times; fewer if the interpreter has begun to shut down."""
        futures: list[Future[None]] = []
        try:
            executor = self._get(num_threads)
            futures.extend(executor.submit(function) for _ in range(count))
        except RuntimeError:  # no thread can be started any more
            pass
        return futures

    def _get(self, num_threads: int) -> ThreadPoolExecutor:
        with self._lock:
            if self._executor is None or self._num_threads != num_threads:
                self._executor = ThreadPoolExecutor(
                    num_threads, thread_name_prefix="sharedmlp", initializer=_work_alone
                )
                self._num_threads = num_threads
            return self._executor


_pool = _Pool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.forget)


class _Numbers:
    """The numbers of the chunks, handed out one at a time to whichever thread is free."""

    def __init__(self, num_chunks: int) -> None:
        self._numbers = iter(range(num_chunks))
        self._lock = Lock()

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        with self._lock:
            return next(self._numbers)


def run_chunks(worker: Callable[[Iterator[int]], None], num_chunks: int) -> None:
    """Run `worker(numbers)` in as many threads as torch would use, each with its share of chunks.

    A worker iterates over the numbers of the chunks that it gets. It records no gradients and casts
    nothing automatically. What it writes must not depend on which thread runs which chunk.

    If threads cannot be limited to themselves here, or none can be started any more because the
    interpreter shuts down, the caller runs the chunks itself.

    Args:
        worker: What each thread calls once.
        num_chunks: How many chunks there are.

    Raises:
        Exception: The first error of a worker, after all of them have ended.
    """
    numbers = _Numbers(num_chunks)
    inference = torch.is_inference_mode_enabled()

    def run() -> None:
        with torch.inference_mode(inference), torch.no_grad(), torch.autocast("cpu", enabled=False):
            worker(numbers)

    total = torch.get_num_threads()
    count = min(total, num_chunks)
    if count <= 1 or not _thread_limits():
        run()
        return
    futures = _pool.submit(run, count, total)
    if len(futures) < count:
        run()
    wait(futures)
    for future in futures:
        future.result()
