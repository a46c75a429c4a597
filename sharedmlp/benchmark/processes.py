"""The processes that a benchmark starts, as their parent sees them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

_WORKER = "sharedmlp.benchmark.worker"

# How glibc treats memory that a process has freed: as it does by default, or kept for the next
# tensor. Names as the command line takes them.
ALLOCATORS: dict[str, dict[str, str]] = {
    "default": {},
    "keep": {
        "MALLOC_MMAP_THRESHOLD_": str(2**30),
        "MALLOC_TRIM_THRESHOLD_": str(2**33),
        "MALLOC_TOP_PAD_": str(2**28),
    },
}


class ProcessError(RuntimeError):
    """Raised when a process could not do what it was told; the message says why."""


class NotInstalledError(ProcessError):
    """Raised when a variant needs a package that is not installed."""


class Process:
    """A Python program in a process of its own that answers each line of JSON with one.

    Its first answer says that it is ready. A context manager: on leaving, the process is ended.

    Args:
        program: The arguments of the interpreter, such as `["-m", "package.module"]`.
        threads: How many threads it may use.
        environment: Further variables of its environment.

    Raises:
        ProcessError: If it does not start, or never says that it is ready.
    """

    def __init__(
        self,
        program: Sequence[str],
        threads: int,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        # Set before torch is loaded, so that every thread pool begins with it.
        limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
        self._process = subprocess.Popen(
            [sys.executable, *program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **limits, **(environment or {})},
        )
        try:
            self._answer()
        except BaseException:
            self.close()
            raise

    def ask(self, **command: Any) -> dict[str, Any]:
        """Send a command and wait for its answer.

        Raises:
            ProcessError: If the process failed or ended.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # It has ended; the answer below says how.
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ProcessError(f"its process ended with exit status {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "not_installed" in answer:
            raise NotInstalledError(answer["not_installed"])
        if "error" in answer:
            raise ProcessError(answer["error"])
        return answer

    @property
    def running(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.close()  # what it waits for
            self._process.wait(timeout=10)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def start_worker(settings: dict[str, Any]) -> Process:
    """Start the process of a variant.

    Args:
        settings: Those of `sharedmlp.benchmark.worker`, and the name of an allocator.

    Raises:
        ProcessError: If the variant cannot be built.
    """
    settings = dict(settings)
    environment = ALLOCATORS[settings.pop("allocator", "default")]
    return Process(["-m", _WORKER, json.dumps(settings)], settings["threads"], environment)
