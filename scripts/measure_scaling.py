"""How a training step scales over processes on this machine, as a table.

Each row is a run of its own under torchrun: the whole PointNet on random clouds, the global batch
divided among the processes, and the cores divided among them.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Literal

import numpy as np
import pytorch_lightning as pl
from torch import distributed

from sharedmlp.data import PointCloudStore
from sharedmlp.train import ClassificationTask, PointCloudDataModule
from sharedmlp.utils.cores import usable_cores

WARM_UP = 5


class RandomClouds(PointCloudDataModule):
    """Noise under 40 labels."""

    def __init__(self, clouds: int, num_points: int, batch_size: int) -> None:
        super().__init__(num_points=num_points, batch_size=batch_size, val_fraction=0.1)
        self.clouds = clouds

    @property
    def class_names(self) -> list[str]:
        """Numbers."""
        return [str(label) for label in range(40)]

    def open_split(self, split: str) -> PointCloudStore:
        """Draw all clouds."""
        rng = np.random.default_rng(0)
        points = rng.standard_normal((self.clouds, self.num_points, 3), dtype=np.float32)
        names = tuple(map(str, range(self.clouds)))
        return PointCloudStore(points, np.arange(self.clouds) % 40, names, tuple(self.class_names))


class StepTimer(pl.Callback):
    """Keep the time at the end of every step."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_end(self, *_: object) -> None:
        """Look at the clock."""
        self.times.append(time.perf_counter())


def train(options: argparse.Namespace, norm: Literal["batch", "sync_batch"]) -> None:
    """Train in this process and those beside it; the first prints the median seconds of a step."""
    processes = int(os.environ["WORLD_SIZE"])
    steps = WARM_UP + options.steps
    data = RandomClouds(
        clouds=options.global_batch * (steps + 1) * 10 // 9 + 400,  # a tenth validates
        num_points=options.num_points,
        batch_size=options.global_batch // processes,
    )
    timer = StepTimer()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        max_steps=steps,
        limit_val_batches=0,
        callbacks=[timer],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(ClassificationTask(data.class_names, model="pointnet", norm=norm), data)
    if trainer.is_global_zero:
        times = timer.times[WARM_UP - 1 :]
        print(json.dumps(statistics.median(np.diff(times))), flush=True)
    if distributed.is_initialized():  # or its threads may abort the process as it ends
        distributed.destroy_process_group()


def measure(options: argparse.Namespace, processes: int, threads: int, norm: str) -> float:
    """Return the median seconds of a step."""
    command = [
        *[sys.executable, "-m", "torch.distributed.run", "--standalone"],
        *["--nproc_per_node", str(processes), __file__, "--norm", norm],
        *["--global_batch", str(options.global_batch), "--num_points", str(options.num_points)],
        *["--steps", str(options.steps)],
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    result = subprocess.run(  # noqa: S603 - this file, with numbers
        command, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return float(json.loads(result.stdout.splitlines()[-1]))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--global_batch", type=int, default=32)
    parser.add_argument("--num_points", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--norm", help=argparse.SUPPRESS)  # what a process is started with
    options = parser.parse_args()
    if options.norm:
        train(options, options.norm)
        return
    cores = usable_cores()
    print("| statistics | processes | threads each | ms a step | clouds/s | speed-up | per core |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    alone = None
    for norm, name in (("batch", "its own"), ("sync_batch", "shared")):
        # One core as what the others are measured by.
        rows = {(1, 1): None, **{(n, max(1, cores // n)): None for n in options.processes}}
        for processes, threads in rows:
            seconds = measure(options, processes, threads, norm)
            alone = alone or seconds
            used = min(cores, processes * threads)
            print(
                f"| {name} | {processes} | {threads} | {1e3 * seconds:.0f} | "
                f"{options.global_batch / seconds:.0f} | {alone / seconds:.2f} | "
                f"{alone / seconds / used:.0%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
