"""Several processes on this machine, as torchrun starts them, and what each of them returned."""

import multiprocessing
import os
from datetime import timedelta

import torch
from torch import distributed
from torch.multiprocessing.spawn import start_processes

# So that what takes long to import is imported once, by the server that the processes fork off.
multiprocessing.set_forkserver_preload(["sharedmlp.cli.lightning"])


def run_processes(world_size, work, folder):
    """Runs `work(rank, folder)` in gloo processes and returns their results, by rank."""
    start_processes(_run, (world_size, work, folder), nprocs=world_size, start_method="forkserver")
    return [
        torch.load(folder / f"{rank}.pt", weights_only=True)  # noqa: TID251 - plain values
        for rank in range(world_size)
    ]


def _run(rank, world_size, work, folder):
    torch.set_num_threads(1)
    os.environ |= {
        "TORCHELASTIC_RUN_ID": "test",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "0",  # of no use: the processes meet in a file
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "PL_GLOBAL_SEED": "0",
    }
    distributed.init_process_group(
        "gloo",
        f"file://{folder / 'meeting'}",
        world_size=world_size,
        rank=rank,
        timeout=timedelta(minutes=2),  # of processes that wait for each other in vain
    )
    try:
        torch.save(work(rank, folder), folder / f"{rank}.pt")
    finally:
        distributed.destroy_process_group()
