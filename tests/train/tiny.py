"""Data small enough to train on in a test: in memory, as meshes and as HDF5 files."""

from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import trimesh

from sharedmlp.data import PointCloudStore
from sharedmlp.train import ClassificationTask, PointCloudDataModule
from tests.models.small import SMALL

CLASSES = ("box", "capsule", "sphere")


def make_clouds(counts, pool_size, seed):
    """Clouds of one class differ from another's in their extent along z."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    points = rng.uniform(-1, 1, (len(labels), pool_size, 3)).astype(np.float32)
    points[..., 2] *= (0.1 + 0.4 * labels[:, None]).astype(np.float32)
    return points, labels


class ArrayDataModule(PointCloudDataModule):
    """Clouds from memory; counts are those of each class in the training and the test split."""

    def __init__(self, train=(7, 8, 9), test=(3, 4, 4), pool_size=24, **options):
        super().__init__(**{"num_points": 16, "batch_size": 4, **options})
        self.counts = {"train": train, "test": test}
        self.pool_size = pool_size
        self.opened = []

    @property
    def class_names(self):
        return list(CLASSES)

    def open_split(self, split):
        self.opened.append(split)
        points, labels = make_clouds(self.counts[split], self.pool_size, seed=len(split))
        names = tuple(f"{split}_{row}" for row in range(len(labels)))
        return PointCloudStore(points, labels, names, CLASSES)


def make_task(model="pointnet_vanilla", **options):
    """A task on a network that is small where there are small options of it."""
    return ClassificationTask(
        **{"class_names": list(CLASSES), "options": SMALL.get(model), **options}, model=model
    )


def make_trainer(**options):
    quiet = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return pl.Trainer(**{**quiet, **options})


def write_tree(root, train=6, test=3):
    rng = np.random.default_rng(0)
    makers = {
        "box": lambda: trimesh.creation.box(rng.uniform(0.5, 1.5, 3)),
        "capsule": lambda: trimesh.creation.capsule(height=rng.uniform(2, 4), count=[6, 6]),
        "sphere": lambda: trimesh.creation.icosphere(subdivisions=1, radius=rng.uniform(1, 2)),
    }
    for name, make in makers.items():
        for split, count in (("train", train), ("test", test)):
            folder = Path(root) / name / split
            folder.mkdir(parents=True)
            for number in range(count):
                make().export(folder / f"{name}_{number}.off")
    return Path(root)


def write_hdf5(root, train=(6, 6, 6), test=(3, 3, 3), pool_size=1024):
    import h5py

    root = Path(root)
    root.mkdir(parents=True)
    (root / "shape_names.txt").write_text("\n".join(CLASSES) + "\n")
    for split, counts in (("train", train), ("test", test)):
        points, labels = make_clouds(counts, pool_size, seed=1)
        with h5py.File(root / f"ply_data_{split}0.h5", "w") as file:
            file["data"] = points
            file["label"] = labels.astype(np.uint8)[:, None]
        (root / f"{split}_files.txt").write_text(f"data/whatever/ply_data_{split}0.h5\n")
    return root
