"""The process of one variant: builds it, then runs as many steps as it is told, when it is told.

Started by `sharedmlp.benchmark.processes.start_worker`. It takes one line of JSON a command and
answers each with one, so that nothing runs while another process has its turn.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch.nn import functional

from sharedmlp.benchmark.machine import Ceiling, limit_memory, peak_memory
from sharedmlp.benchmark.table import load_variants
from sharedmlp.benchmark.variants import Variant
from sharedmlp.models import orthogonality_penalty


def prepare(
    variant: Variant,
    batch_size: int,
    num_points: int,
    num_classes: int,
    device: str,
    **options: int,
) -> dict[str, Callable[[], None]]:
    """Build a variant and its batch.

    Args:
        variant: What to build.
        batch_size: Clouds.
        num_points: Points of a cloud.
        num_classes: Number of classes.
        device: "cpu" or "cuda".
        **options: Of the network: `num_neighbors`, or none.

    Returns:
        What runs one training step and what runs one evaluation, as "train" and "eval".
    """
    torch.manual_seed(0)
    points = functional.normalize(torch.randn(batch_size, num_points, 3), dim=-1).to(device)
    labels = torch.randint(num_classes, (batch_size,)).to(device)
    network = variant.build(points, num_classes, **options)
    module = network.module.to(device)
    optimizer = torch.optim.Adam(module.parameters(), fused=True)

    def train() -> None:
        module.train()
        logits, transform = network.train_forward(network.inputs)
        loss = functional.cross_entropy(logits, labels)
        if transform is not None:
            loss = loss + 0.001 * orthogonality_penalty(transform)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def evaluate() -> None:
        module.eval()
        with torch.no_grad():
            network.eval_forward(network.inputs)

    return {"train": train, "eval": evaluate}


def time_steps(step: Callable[[], None], count: int, device: str) -> list[float]:
    """Run a step once for the caches and then `count` times; return the seconds of each."""
    seconds = []
    for number in range(count + 1):
        start = time.perf_counter()
        step()
        if device == "cuda":
            torch.cuda.synchronize()
        if number:
            seconds.append(time.perf_counter() - start)
    return seconds


def main() -> None:
    """Read the settings from the command line and then commands until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # What a library prints is not an answer.

    def answer(**values: Any) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    settings = json.loads(sys.argv[1])
    device, threads, name = (settings.pop(key) for key in ("device", "threads", "variant"))
    variants_from = settings.pop("variants_from", None)
    torch.set_num_threads(threads)
    if name == "ceiling":
        steps: dict[str, Callable[[], None]] = {"ceiling": Ceiling(device)}
        base = 0
    else:
        try:
            variant = load_variants(variants_from)[name]
            # An optimizer imports the compiler's front end at its first step.
            for module in ("torch._dynamo", *variant.modules):
                import_module(module)
        except ImportError as error:
            answer(not_installed=str(error))
            return
        base = peak_memory(device)
        if device == "cpu":
            limit_memory()
        try:
            steps = prepare(variant, device=device, **settings)
        except (RuntimeError, MemoryError) as error:
            answer(error=_one_line(error))
            return
    answer(ready=True)
    for line in sys.stdin:
        command = json.loads(line)
        try:
            seconds = time_steps(steps[command["mode"]], command["steps"], device)
        except (RuntimeError, MemoryError) as error:
            answer(error=_one_line(error))
            return
        peak = peak_memory(device) - base
        if device == "cuda":
            torch.cuda.empty_cache()  # The others need the memory in their turn.
        answer(seconds=seconds, peak_bytes=peak)


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


if __name__ == "__main__":
    main()
