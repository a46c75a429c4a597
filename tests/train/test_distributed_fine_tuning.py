"""Fine-tunings in two gloo processes against the same ones in one process."""

import pytest
import torch

from tests.environment import own_environment
from tests.processes import run_processes
from tests.train.tasks.test_pretrained import FINE_TUNINGS, make_task, write
from tests.train.test_distributed import check_equal, train


def fine_tune(world_size, path):
    """The new last layer is drawn like any other."""
    results = []
    for options in FINE_TUNINGS:
        torch.manual_seed(0)
        results.append(
            train(world_size, make_task(path, norm="sync_batch", dropout=0.0, **options))
        )
    return results


def work_of_two(rank, folder):
    return fine_tune(2, folder / "a.safetensors")


@pytest.mark.slow
def test_two_processes_fine_tune_like_one(tmp_path, monkeypatch):
    own_environment(monkeypatch)
    write(tmp_path / "a.safetensors", ["a", "b"])
    results = run_processes(2, work_of_two, tmp_path)
    for number, whole in enumerate(fine_tune(1, tmp_path / "a.safetensors")):
        check_equal([result[number] for result in results], whole, FINE_TUNINGS[number])
