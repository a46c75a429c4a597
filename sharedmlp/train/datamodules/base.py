"""What the data modules share: which clouds are trained on, validated on and tested on."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from sharedmlp.data import (
    FEATURE_CHANNELS,
    POINT_CHANNELS,
    Compose,
    DataError,
    MissingDataError,
    PointCloudDataset,
    PointCloudStore,
    RandomScale,
    identity_collate,
    stratified_split,
)
from sharedmlp.train.callbacks.stop_on_signal import ignore_interrupts
from sharedmlp.train.datamodules.augmentation import AugmentationOptions, augment_batch
from sharedmlp.train.datamodules.matching import seem_normalized
from sharedmlp.train.lightning_internals import (
    next_epoch,
    run_seed,
    trained_batches,
)
from sharedmlp.train.loaders import (
    EpochSampler,
    ResumableLoader,
    evaluation_loader,
    overfitting_loader,
    shuffle_once,
)
from sharedmlp.utils.ranges import check_range
from sharedmlp.utils.seeds import derive_seed

# The clouds of a batch: "points" (B, N, C), "label" (B,), or (B, N) of points, "index" (B,), and
# "category" (B,) if there are some; "copies" is a list of further points (B, N, C) to vote on in a
# test.
Batch = dict[str, Any]
Split = Literal["train", "val", "test"]


class PointCloudDataModule(pl.LightningDataModule):
    """The base of the data modules; a subclass knows where its clouds come from.

    Validation clouds are those of the validation split, or, if the data has none, carved out of the
    training split. The test split is opened by `test` and
    `predict` alone. Everything drawn depends on `seed` (which clouds validate, which points
    evaluation sees) or on the seed of the run and the epoch (order, points and augmentations in
    training), never on the number of workers or on an interruption.

    Args:
        num_points: The number of points in a cloud, at most as many as the data holds for one.
        batch_size: The number of clouds in a batch of one process.
        val_fraction: The share of each class of the training split that validates, in (0, 1), if
            the data has no validation split.
        seed: The seed of the validation split and of the points that evaluation sees.
        num_workers: The number of processes that load batches; 0 for the main process, which is
            fast enough for clouds in memory.
        persistent_workers: Whether these processes stay from epoch to epoch.
        multiprocessing_context: How they are started; None as Python does by default.
        rotate: Whether training turns a cloud about the up axis by any angle.
        up_axis: The axis that points up in this data.
        jitter: The standard deviation of the noise added to each coordinate in training, in units
            of the sphere that clouds are scaled into; cut off at 5 times it.
        scale_low: The smallest factor, drawn for each axis on its own, by which training scales.
        scale_high: The largest such factor.
        mirror: The axis along which training mirrors about half of the clouds, if any.
        translate: The largest shift along each axis in training.
        point_dropout: The largest share of points that training drops.
        test_votes: The number of copies of a cloud that a test averages the probabilities over: the
            cloud itself, and others with newly drawn points, if the data holds more than
            `num_points`, scaled by 0.8 to 1.25 along each axis.

    Attributes:
        preprocessing: What a cloud has to be like for a network trained on these, of plain values;
            checkpoints keep it. That clouds are centered and scaled is noted if they are found so.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(
        self,
        num_points: int = 1024,
        batch_size: int = 32,
        val_fraction: float = 0.1,
        seed: int = 0,
        num_workers: int = 0,
        persistent_workers: bool = False,
        multiprocessing_context: Literal["fork", "spawn", "forkserver"] | None = None,
        rotate: bool = True,
        up_axis: Literal["x", "y", "z"] = "z",
        jitter: float = 0.01,
        scale_low: float = 1.0,
        scale_high: float = 1.0,
        mirror: Literal["x", "y", "z"] | None = None,
        translate: float = 0.0,
        point_dropout: float = 0.0,
        test_votes: int = 1,
    ) -> None:
        super().__init__()
        self._features: tuple[str, ...] = ()
        check_range(1, num_points=num_points, batch_size=batch_size)
        check_range(0, num_workers=num_workers, jitter=jitter, translate=translate)
        check_range(0, 1, val_fraction=val_fraction)
        if test_votes < 1:
            raise ValueError(f"test_votes is at least 1, the cloud itself, got {test_votes}")
        self.num_points = num_points
        self.batch_size = batch_size
        self.val_fraction = val_fraction
        self.seed = seed
        self.num_workers = num_workers
        self.persistent_workers = persistent_workers
        self.multiprocessing_context = multiprocessing_context
        self.up_axis = up_axis
        self.preprocessing: dict[str, Any] = {"num_points": num_points, "up_axis": up_axis}
        self._augmentation = AugmentationOptions(
            rotate, up_axis, jitter, scale_low, scale_high, mirror, translate, point_dropout
        )
        self._augmentation.compose(())  # raises if a number is out of range
        self.test_votes = test_votes
        self.datasets: dict[str, PointCloudDataset] = {}

    @property
    def class_names(self) -> list[str]:
        """The names of the classes in the order of the labels, known before any cloud is read."""
        raise NotImplementedError

    @property
    def features(self) -> tuple[str, ...]:
        """What a point has besides its coordinates, by name, of `FEATURE_CHANNELS`.

        Checked here and not in the constructor, whose errors jsonargparse wraps.

        Raises:
            DataError: If there is no such feature.
        """
        unknown = [name for name in self._features if name not in FEATURE_CHANNELS]
        if unknown:
            raise DataError(f"features are {', '.join(FEATURE_CHANNELS)}, got {unknown[0]!r}")
        return self._features

    @property
    def in_channels(self) -> int:
        """The number of channels of a point: its coordinates and features."""
        return 3 + sum(POINT_CHANNELS[name] for name in self.features)

    @cached_property
    def augmentation(self) -> Compose:
        """What training applies to the points of a batch."""
        return self._augmentation.compose(self.features)

    def has_split(self, split: Split) -> bool:
        """Return whether the data has a split, without reading it."""
        return split != "val"

    def open_split(self, split: Split) -> PointCloudStore:
        """Read a split, preparing it first if necessary."""
        raise NotImplementedError

    def check_splits(self, *splits: Split) -> None:
        """Check that the data has splits, before anything is trained.

        Raises:
            DataError: If one is missing; it says what to do.
        """
        for split in splits:
            if not self.has_split(split):
                advice = (
                    "measure with `sharedmlp validate`, on clouds carved out of the training split"
                    if split == "test"
                    else "name data with one by --data.root"
                )
                root = getattr(self, "root", "the data")
                raise MissingDataError(f"{root} has no {split} split: {advice}")

    def setup(self, stage: str) -> None:
        """Open the split that `stage` needs.

        Raises:
            DataError: If the split is missing or empty, or no cloud is left to validate on.
        """
        self.preprocessing["up_axis"] = self.up_axis
        if self.features:
            self.preprocessing["features"] = list(self.features)
        if stage in ("test", "predict"):
            self.datasets["test"] = self._dataset(self._open("test"), None, resample=False)
            return
        pool = self._open("train")
        if self.has_split("val"):
            train, val = None, None
            val_pool = self._open("val")
        else:
            train, val = self.split_training(pool)
            val_pool = pool
            if len(val) == 0:
                raise DataError(
                    f"val_fraction={self.val_fraction} of {len(pool)} training clouds leaves none "
                    "to validate on, and the best checkpoint is chosen by validation: raise "
                    "val_fraction"
                )
        if seem_normalized(pool):
            self.preprocessing |= {"center": "mean", "scale": "unit sphere"}
        self.datasets["train"] = self._dataset(pool, train, resample=True)
        self.datasets["val"] = self._dataset(val_pool, val, resample=False)

    def split_training(self, pool: PointCloudStore) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return which clouds of the training split are trained on, and which validate."""
        return stratified_split(pool.labels, self.val_fraction, self.seed)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Load shuffled training clouds; with `overfit_batches`, the same ones every epoch."""
        trainer: Any = self.trainer
        if trainer and trainer.overfit_batches:
            return overfitting_loader(
                self.datasets["train"], self.batch_size, **self._worker_options()
            )
        # Lightning sets the epoch of a resumed run too, but after its iterator has been made, when
        # workers have already begun to load.
        sampler = EpochSampler(
            self.datasets["train"],
            batch_size=self.batch_size,
            num_replicas=trainer.world_size if trainer else 1,
            rank=trainer.global_rank if trainer else 0,
            epoch=next_epoch(trainer) if trainer else 0,
        )
        return ResumableLoader(
            sampler,
            batch_size=self.batch_size,
            trained_batches=lambda: trained_batches(trainer) if trainer else 0,
            **self._worker_options(),
        )

    def val_dataloader(self) -> DataLoader[Batch]:
        """Load the validation clouds."""
        limit = self.trainer.limit_val_batches if self.trainer else 1.0
        return self._loader(self.datasets["val"], limit)

    def test_dataloader(self) -> DataLoader[Batch]:
        """Load the test clouds."""
        limit = self.trainer.limit_test_batches if self.trainer else 1.0
        return self._loader(self.datasets["test"], limit)

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Load the test clouds: they are what predictions are made for."""
        return self._loader(self.datasets["test"])

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Augment a training batch on the device that trains, alike on every device.

        A test batch gets the copies to vote on.
        """
        trainer: Any = self.trainer
        if trainer is not None and trainer.training:
            epoch = 0 if trainer.overfit_batches else trainer.current_epoch
            generator = torch.Generator().manual_seed(
                derive_seed(run_seed(), epoch, *batch["index"].tolist())
            )
            return augment_batch(batch, self.augmentation, generator)
        if trainer is not None and trainer.testing:
            return {**batch, "copies": [self._copy(batch, n) for n in range(1, self.test_votes)]}
        return batch

    def _copy(self, batch: Batch, number: int) -> Tensor:
        indices, points = batch["index"].tolist(), batch["points"]
        if batch["label"].ndim == 1:  # labelled points keep their answers: they are not drawn anew
            points = self.datasets["test"].draw(indices, number).to(points)
        generator = torch.Generator().manual_seed(derive_seed(self.seed, number, *indices))
        return RandomScale(0.8, 1.25, features=self.features)(points, generator)

    def _open(self, split: Split) -> PointCloudStore:
        self.check_splits(split)
        pool = self.open_split(split)
        if len(pool) == 0:
            raise DataError(f"the {split} split has no clouds: name data with some by --data.root")
        return pool

    def _dataset(self, pool: PointCloudStore, indices: Any, *, resample: bool) -> PointCloudDataset:
        return PointCloudDataset(
            pool,
            num_points=self.num_points,
            indices=indices,
            resample=resample,
            seed=derive_seed(run_seed()) if resample else self.seed,
        )

    def _loader(self, dataset: PointCloudDataset, limit: float = 1.0) -> DataLoader[Batch]:
        """Load a data set in order, unless a trainer limits the number of its batches."""
        if isinstance(limit, int) or limit < 1.0:
            dataset = shuffle_once(dataset, self.seed)
        return evaluation_loader(dataset, self.batch_size, self.trainer, **self._worker_options())

    def _worker_options(self) -> dict[str, Any]:
        """Return how a loader makes its batches; what only processes have, if there are any."""
        options: dict[str, Any] = {"collate_fn": identity_collate, "num_workers": self.num_workers}
        if self.num_workers:
            options["worker_init_fn"] = ignore_interrupts
            options["persistent_workers"] = self.persistent_workers
            options["multiprocessing_context"] = self.multiprocessing_context
        return options
