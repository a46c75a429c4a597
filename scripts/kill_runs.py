"""Kill `sharedmlp prepare` and `sharedmlp fit` at random moments and look at what is left.

    python scripts/kill_runs.py runs/killed --kills 100

Each process prepares a small tree of generated meshes, trains on it from the last checkpoint that
is there, and tests; it is killed (SIGKILL) somewhere on the way, and the next one goes on in the
same folders. After each kill every cache and every checkpoint under its final name has to be
complete. A training that comes through, whatever was killed before it, has to end with the weights,
bit for bit, and with the test of one that was never killed. POSIX alone: it forks.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sharedmlp.__main__ import main as sharedmlp
from sharedmlp.data import write_shapes

FIT = """fit --data MeshTreeDataModule --data.root tree --data.pool_size 1024 --data.num_points 64
--data.batch_size 16 --data.val_fraction 0.34
--model.model pointnet_vanilla --test_after_fit true
--trainer.max_epochs 6 --trainer.accelerator cpu --trainer.enable_progress_bar false"""
CACHES = "tree/.sharedmlp_cache"


def live(log: Path) -> None:
    """Prepare and train to the end, in a process of its own."""
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    torch.set_num_threads(1)
    sharedmlp(["prepare", "tree", "--pool_size", "1024", "--num_workers", "2"])
    last = find_last()
    sharedmlp([*FIT.split(), *(["--ckpt_path", str(last)] if last else [])])


def run(seconds: float) -> tuple[bool, float]:
    """Let one process live, at most for a time; return whether it was killed, and its age."""
    start = time.monotonic()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            live(Path("log.txt"))
            status = 0
        finally:
            os._exit(status)
    while time.monotonic() - start < seconds:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            assert status == 0, Path("log.txt").read_text()
            return False, time.monotonic() - start
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return True, time.monotonic() - start


def find_last() -> Path | None:
    """Return the newest of the last checkpoints."""
    found = Path("runs").glob("*/checkpoints/last.ckpt")
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def read_caches() -> dict[str, bytes]:
    """Return the files of all caches under their final names."""
    files = Path(CACHES).glob("[!.]*/*")
    return {str(path.relative_to(CACHES)): path.read_bytes() for path in files}


def read_result() -> dict[str, Any]:
    """Return the weights at the end and the newest test."""
    path = find_last()
    assert path is not None
    last = torch.load(path, weights_only=True)  # noqa: TID251 - plain values and tensors
    tests = Path("runs").glob("*/test_metrics.json")
    test = json.loads(max(tests, key=lambda path: path.stat().st_mtime).read_text())
    return {"weights": last["state_dict"], "confusion": test["confusion"]}


def look(seen: Counter[str], caches: dict[str, bytes]) -> None:
    """Check all that a kill has left, and count at which stage it came."""
    for name, content in read_caches().items():
        assert caches[name] == content, f"the cache {name} is another one"
    checkpoints = list(Path("runs").glob("*/checkpoints/*.ckpt"))
    for path in checkpoints:
        loaded = torch.load(path, weights_only=True)  # noqa: TID251 - plain values and tensors
        assert loaded["global_step"] > 0, path
        assert loaded["optimizer_states"], path
    if len(list(Path(CACHES).glob("[!.]*"))) < 2:
        seen["kills before both caches were there"] += 1
    elif not checkpoints:
        seen["kills between that and the first checkpoint"] += 1
    else:
        seen["kills after the first checkpoint"] += 1


def find_halves() -> set[tuple[str, str, int]]:
    """Return what is half written, none of it under a name that anything reads: what, which, when.

    Of all that Lightning writes by itself, metrics.csv and config.yaml are read by people.
    """
    halves = [("caches half written", path) for path in Path(CACHES).glob(".*")]
    for path in Path("runs").glob("*/checkpoints/*.partial"):
        halves.append(("checkpoints half written", path))
    for path in Path("runs").glob("*/metrics.csv"):
        with path.open(newline="") as file:
            if len({len(row) for row in csv.reader(file)}) != 1:
                halves.append(("metrics.csv half written", path))
    for path in Path("runs").glob("*/config.yaml"):
        if "\nckpt_path: " not in path.read_text():  # its last line
            halves.append(("config.yaml half written", path))
    return {(what, str(path), path.stat().st_mtime_ns) for what, path in halves}


def main() -> None:
    """Parse the arguments, kill, and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="to be made, and to be deleted at the end")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    os.chdir(options.folder)
    write_shapes("tree", train_per_class=9, test_per_class=3)
    _, whole_life = run(1e9)
    expected, caches = read_result(), read_caches()
    rng, seen = np.random.default_rng(options.seed), Counter[str]()
    halves: set[tuple[str, str, int]] = set()
    fresh = True
    while seen["kills"] < options.kills:
        if fresh:  # else the caches and runs that are there are gone on with
            shutil.rmtree(CACHES, ignore_errors=True)
            shutil.rmtree("runs", ignore_errors=True)
        killed, age = run(rng.uniform(0, 1.2 * whole_life))
        seen["kills"] += killed
        if killed:
            look(seen, caches)
            halves |= find_halves()  # left where they are
        else:
            result = read_result()
            assert result["confusion"] == expected["confusion"]
            for name, value in expected["weights"].items():
                assert torch.equal(result["weights"][name], value), name
            seen["trainings that came through, " + ("alone" if fresh else "resumed")] += 1
            whole_life = age if fresh else whole_life  # the machine may have other work too
        # A kill in three ends the line, so that preparing has its share of them.
        fresh = not killed or rng.random() < 0.3
    for what, count in [*seen.items(), *Counter(what for what, _, _ in halves).items()]:
        print(f"{count:5}  {what}")
    shutil.rmtree(Path.cwd())


if __name__ == "__main__":
    main()
