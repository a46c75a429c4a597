"""What the numbers were taken on, and what that machine could do at best."""

from __future__ import annotations

import os
import platform
import re
import resource
import sys
from pathlib import Path
from typing import Any

import torch

from sharedmlp.utils.cores import usable_cores


def describe_machine(device: str) -> dict[str, Any]:
    """Describe the machine, its load right now included.

    Args:
        device: "cpu" or "cuda".

    Returns:
        Plain values, ready for JSON.
    """
    config = torch.__config__.show()
    blas = re.search(r"BLAS_INFO=(\w+)", config)
    mkl = re.search(r"Math Kernel Library Version (\S+)", config)
    memory = re.search(r"MemTotal:\s+(\d+) kB", _read("/proc/meminfo"))
    return {
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "memory_gib": round(int(memory[1]) / 2**20, 1) if memory else None,
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "blas": (blas[1] if blas else "unknown") + (f" {mkl[1]}" if mkl else ""),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "load_average": list(os.getloadavg()),
    }


class Ceiling:
    """A float32 matrix product that stays in the cache (in the caches of a GPU: a large one).

    Args:
        device: "cpu" or "cuda".
    """

    def __init__(self, device: str) -> None:
        # 256: three matrices are 768 KiB, and each of two threads still has enough to do.
        size, self._repeats = (256, 100) if device == "cpu" else (8192, 1)
        self._left, self._right = torch.randn(2, size, size, device=device)
        self._out = torch.empty(size, size, device=device)
        self.operations = 2 * size**3 * self._repeats

    def __call__(self) -> None:
        """Do one step: `operations` additions and multiplications."""
        for _ in range(self._repeats):
            torch.mm(self._left, self._right, out=self._out)


def peak_memory(device: str) -> int:
    """Return the most bytes that this process ever held: in RAM, or of a GPU's tensors."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    # On Linux a child's ru_maxrss begins with its parent's peak; VmHWM is the process's own.
    peak = re.search(r"VmHWM:\s+(\d+) kB", _read("/proc/self/status"))
    if peak:
        return int(peak[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def limit_memory() -> None:
    """Let this process take what is free now and no more.

    A network that does not fit then fails with an error of its own; else the system would end some
    process, perhaps another one.
    """
    free = re.search(r"MemAvailable:\s+(\d+) kB", _read("/proc/meminfo"))
    if free:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = int(free[1]) * 1024
        if hard != resource.RLIM_INFINITY:
            limit = min(limit, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def _cpu_model() -> str:
    model = re.search(r"model name\s*: (.+)", _read("/proc/cpuinfo"))
    return model[1].strip() if model else platform.processor() or platform.machine()


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
