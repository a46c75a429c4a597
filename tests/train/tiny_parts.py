"""Labelled clouds small enough to train on in a test, in memory."""

from sharedmlp.data import PointCloudDataset
from sharedmlp.train import SegmentationTask
from sharedmlp.train.datamodules.base import PointCloudDataModule
from tests.train.tiny import ArrayDataModule

CATEGORIES = ("box", "capsule", "sphere")
PART_NAMES = [f"{category} {part}" for category in CATEGORIES for part in ("bottom", "top")]
PARTS = [[0, 1], [2, 3], [4, 5]]
SMALL = {"local_channels": (8,), "global_channels": (16,), "point_channels": (16, 8)}


class PartsDataset(PointCloudDataset):
    """The label of a point is the half of its cloud that it lies in; some are ignored."""

    def __getitems__(self, indices):
        batch = super().__getitems__(indices)
        category = batch["label"]
        labels = 2 * category[:, None] + (batch["points"][..., 2] > 0)
        labels[batch["points"][..., 0] > 0.8] = -1
        return {**batch, "label": labels, "category": category}


class PartsDataModule(ArrayDataModule):
    """Parts of shapes of three categories, or the same classes without categories."""

    def __init__(self, with_categories: bool = True, **options):
        super().__init__(**options)
        self.with_categories = with_categories

    @property
    def class_names(self):
        return PART_NAMES

    @property
    def category_names(self):
        return list(CATEGORIES) if self.with_categories else None

    @property
    def parts_of_category(self):
        return PARTS if self.with_categories else None

    def _dataset(self, pool, indices, *, resample):
        plain = PointCloudDataModule._dataset(self, pool, indices, resample=resample)
        return PartsDataset(
            pool,
            num_points=plain.num_points,
            indices=plain.indices,
            resample=resample,
            seed=plain.seed,
        )


def make_task(**options):
    parts = {"category_names": list(CATEGORIES), "parts_of_category": PARTS}
    return SegmentationTask(
        **{
            "class_names": PART_NAMES,
            "model": "pointnet_vanilla",
            "options": SMALL,
            **parts,
            **options,
        }
    )


def make_scene_task(**options):
    return make_task(**{"category_names": None, "parts_of_category": None, **options})
