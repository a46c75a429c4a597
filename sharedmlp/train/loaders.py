"""Loaders, and the order in which they give their clouds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from itertools import islice
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from sharedmlp.data import DataError, PointCloudDataset
from sharedmlp.train.lightning_internals import run_seed, unrepeated_sampler
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
        trained_batches: Returns how many batches of the epoch have been trained on. The loader
            itself is ahead of that, because batches are fetched in advance.
        **options: Arguments of `DataLoader`.
    """

    def __init__(
        self,
        sampler: EpochSampler,
        *,
        batch_size: int,
        trained_batches: Callable[[], int],
        **options: Any,
    ) -> None:
        super().__init__(sampler.clouds, batch_size=batch_size, sampler=sampler, **options)
        self._sampler = sampler
        self._trained_batches = trained_batches

    def state_dict(self) -> dict[str, int]:
        """Return how many batches of the epoch have been trained on."""
        return {"batches": self._trained_batches()}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Continue after the batches that were trained on; after a whole epoch, with the next."""
        assert self.batch_size is not None
        self._sampler.skip(state_dict["batches"] % len(self) * self.batch_size)


def overfitting_loader(
    dataset: PointCloudDataset, batch_size: int, **options: Any
) -> DataLoader[dict[str, Tensor]]:
    """Load the batches of the first epoch of training, the same ones in every epoch.

    Args:
        dataset: The clouds.
        batch_size: The number of clouds in a batch.
        **options: Arguments of `DataLoader`.
    """
    order = list(EpochSampler(dataset, batch_size=batch_size))
    # With a sampler that Lightning leaves in place.
    return DataLoader(_in_order(dataset, order), batch_size=batch_size, shuffle=False, **options)


def evaluation_loader(
    dataset: PointCloudDataset, batch_size: int, trainer: pl.Trainer | None, **options: Any
) -> DataLoader[dict[str, Tensor]]:
    """Load a data set in order; each process has clouds that no other has.

    Args:
        dataset: The clouds.
        batch_size: The number of clouds in a batch of one process.
        trainer: The trainer that says which process this is; None for the only one.
        **options: Arguments of `DataLoader`.
    """
    world_size = trainer.world_size if trainer else 1
    sampler = None
    if trainer and world_size > 1:
        sampler = unrepeated_sampler(dataset, world_size, trainer.global_rank)
    return DataLoader(
        dataset,
        batch_size=shard_batch_size(len(dataset), batch_size, world_size),
        sampler=sampler,
        **options,
    )


def shuffle_once(dataset: PointCloudDataset, seed: int) -> PointCloudDataset:
    """Return a data set in another order, so that its first batches have clouds of all classes.

    Args:
        dataset: The clouds, as they often are class by class.
        seed: The seed of the order.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed))
    return _in_order(dataset, torch.randperm(len(dataset), generator=generator).tolist())


def _in_order(dataset: PointCloudDataset, order: list[int]) -> PointCloudDataset:
    ordered = copy(dataset)
    ordered.indices = dataset.indices[order]
    return ordered
