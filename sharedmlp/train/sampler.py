"""The order in which training sees its clouds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from sharedmlp.data import DataError, PointCloudDataset, identity_collate
from sharedmlp.train.callbacks.stop_on_signal import ignore_interrupts
from sharedmlp.train.lightning_internals import run_seed
from sharedmlp.utils.seeds import derive_seed


class EpochSampler(DistributedSampler[int]):
    """Shuffle by (seed of the run, epoch) alone, and tell the dataset the epoch.

    So the clouds of an epoch, their order and the points drawn of them are the same whether the
    epoch is reached without interruption or by resuming. It is a `DistributedSampler` also for one
    process, because that is the sampler whose epoch Lightning sets and which it leaves in place.

    A last batch of one cloud is undefined for the batch norm in a classification head; that one
    cloud, another in every epoch, is left out. A last batch of two or more is trained on.

    Args:
        dataset: The clouds to sample from.
        batch_size: The number of clouds in a batch of one process, at least 2.
        num_replicas: The number of processes.
        rank: The number of this process.
        epoch: The first epoch.

    Raises:
        DataError: If a batch cannot have two clouds.
    """

    def __init__(
        self,
        dataset: PointCloudDataset,
        *,
        batch_size: int,
        num_replicas: int = 1,
        rank: int = 0,
        epoch: int = 0,
    ) -> None:
        super().__init__(
            dataset,
            num_replicas=num_replicas,
            rank=rank,
            shuffle=True,
            seed=derive_seed(run_seed()),
        )
        if batch_size < 2 or self.num_samples < 2:
            raise DataError(
                "training needs batches of at least two clouds (batch norm is undefined for one), "
                f"got batch_size={batch_size} and {self.num_samples} training clouds a process: "
                "raise batch_size, or bring more clouds"
            )
        self.clouds = dataset
        self.kept = self.num_samples - (self.num_samples % batch_size == 1)
        self._skipped = 0
        self.set_epoch(epoch)

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration, and the dataset's draws, those of this epoch."""
        super().set_epoch(epoch)
        self.clouds.set_epoch(epoch)

    def skip(self, clouds: int) -> None:
        """Leave out the first clouds of the next iteration, which were seen before."""
        self._skipped = clouds

    def __iter__(self) -> Iterator[int]:
        """Yield the positions of one epoch, without those to be skipped."""
        first, self._skipped = self._skipped, 0
        return islice(super().__iter__(), first, self.kept)

    def __len__(self) -> int:
        """Return the number of clouds of one epoch."""
        return self.kept


def shard_batch_size(num_clouds: int, batch_size: int, num_replicas: int) -> int:
    """Return the batch size by which all processes have equally many batches.

    If each cloud goes to one process, some processes have one cloud more. If that were a batch of
    its own, they would wait in it for the others, which have none left: a validation during
    training exchanges buffers at every batch.

    Args:
        num_clouds: The number of clouds of all processes.
        batch_size: The wanted number of clouds in a batch of one process.
        num_replicas: The number of processes.

    Raises:
        DataError: If there are fewer clouds than processes.
    """
    fewest, rest = divmod(num_clouds, num_replicas)
    if num_replicas == 1 or (rest == 0 and fewest):
        return batch_size
    if fewest == 0:
        raise DataError(
            f"{num_clouds} clouds to evaluate are too few for {num_replicas} processes: each needs "
            "one; take fewer processes (--trainer.devices), or bring more clouds"
        )
    # The one cloud more makes a batch only if the others fill theirs.
    sizes: list[int] = [*range(batch_size, 1, -1), *range(batch_size + 1, fewest + 2)]
    return next(size for size in sizes if fewest % size)


class ResumableLoader(DataLoader[dict[str, Tensor]]):
    """Load the batches of an epoch, after an interruption those that are left of it.

    The trainer keeps the state of a loader that has one in its checkpoints.

    Args:
        sampler: The order of the clouds.
        batch_size: The number of clouds in a batch.
        num_workers: The number of processes that load.
        trained_batches: Returns how many batches of the epoch have been trained on. The loader
            itself is ahead of that, because batches are fetched in advance.
    """

    def __init__(
        self,
        sampler: EpochSampler,
        *,
        batch_size: int,
        num_workers: int,
        trained_batches: Callable[[], int],
    ) -> None:
        super().__init__(
            sampler.clouds,
            batch_size=batch_size,
            sampler=sampler,
            collate_fn=identity_collate,
            num_workers=num_workers,
            worker_init_fn=ignore_interrupts,
        )
        self._sampler = sampler
        self._trained_batches = trained_batches

    def state_dict(self) -> dict[str, int]:
        """Return how many batches of the epoch have been trained on."""
        return {"batches": self._trained_batches()}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Continue after the batches that were trained on; after a whole epoch, with the next."""
        assert self.batch_size is not None
        self._sampler.skip(state_dict["batches"] % len(self) * self.batch_size)
