"""What `sharedmlp prepare` says of a data set: a text and a picture."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from sharedmlp.data import (
    SPLITS,
    PointCloudStore,
    are_normalized,
    file_up_axis,
    normalize_points,
)

# As many clouds of a split are measured, and as many points of a cloud are drawn.
_MEASURED, _DRAWN = 256, 1024
_WITHOUT = {
    "train": "nothing can be trained",
    "val": "a share of train is carved out by --data.val_fraction",
    "test": "there is nothing for `sharedmlp test` to measure on",
}


class Summary(NamedTuple):
    """How a set lies on the disk.

    Attributes:
        folder: Where it is.
        layout: Which layout it has, in words.
        up_axis: The axis that points up.
        features: What a point has besides its coordinates.
        files: The names of its files, if it is made of files of single shapes.
        left_out: What is not used, a line for each reason.
        notes: What else is to be said.
        picture: The picture of its classes, or why there is none.
    """

    folder: Path
    layout: str
    up_axis: str
    features: Sequence[str]
    files: Sequence[str] = ()
    left_out: Sequence[str] = ()
    notes: Sequence[str] = ()
    picture: str = ""


def print_summary(stores: Mapping[str, PointCloudStore], summary: Summary) -> None:
    """Print what is in a set."""
    first = next(iter(stores.values()))
    normalized = all(are_normalized(_some(store)) for store in stores.values())
    unit = (
        "after each is centered and scaled into the unit sphere"
        if normalized
        else "as they are: not all are centered and in the unit sphere"
    )
    clouds = np.concatenate([_some(store)[..., :3] for store in stores.values()])
    extents = np.ptp(clouds, axis=1).mean(axis=0)
    lines = [
        ("layout", summary.layout),
        ("classes", str(len(first.class_names))),
        *[("formats", text) for text in _format_counts(summary.files)],
        ("points", " ".join([f"{first.points.shape[1]} a cloud: x y z", *summary.features])),
        ("up axis", _describe_up_axis(summary)),
        (
            "extents",
            ", ".join(f"{a} {e:.2f}" for a, e in zip("xyz", extents, strict=True))
            + f" on average, {unit}",
        ),
        *[("left out", reason) for reason in summary.left_out],
        *[("repeated", text) for text in _describe_repeated(stores)],
        *[("note", note) for note in [*_describe_untrained(stores), *summary.notes]],
        ("picture", summary.picture),
    ]
    for name, text in lines:
        # The name of a file may be no valid text, but what is printed has to be.
        print(f"{name:<10}  {os.fsencode(text).decode(errors='backslashreplace')}")
    _print_counts(stores, first.class_names)


def draw_classes(stores: Mapping[str, PointCloudStore], path: Path, up_axis: str) -> str:
    """Draw one cloud of each class; return the path, or why there is no picture."""
    try:
        from sharedmlp.viz import plot_clouds, save_figure
    except ImportError as error:
        return f"none: {error}"
    clouds, titles = [], []
    for label, name in enumerate(next(iter(stores.values())).class_names):
        for store in stores.values():
            places = np.flatnonzero(store.labels == label)
            if len(places):
                step = max(1, store.points.shape[1] // _DRAWN)
                clouds.append(normalize_points(store.points[places[0], ::step, :3]))
                titles.append(name.replace("$", r"\$"))  # no formulas
                break
    figure = plot_clouds(clouds, titles, columns=min(8, len(clouds)), up_axis=up_axis)
    try:
        save_figure(figure, path)
    except OSError as error:  # of HDF5 files, which need no cache
        return f"none: {path} cannot be written ({error.strerror})"
    return str(path)


def _some(store: PointCloudStore) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return store.points[:: max(1, len(store) // _MEASURED)]


def _format_counts(files: Sequence[str]) -> list[str]:
    counts = Counter(PurePosixPath(name).suffix.lower() for name in files)
    text = ", ".join(f"{count} {suffix}" for suffix, count in counts.most_common())
    return [text] if text else []


def _describe_up_axis(summary: Summary) -> str:
    text = f"{summary.up_axis}; another one by --up_axis, and in training by --data.up_axis"
    turned = sum(file_up_axis(name) not in (None, summary.up_axis) for name in summary.files)
    return f"{text}; {turned} glTF files have y up and are turned" if turned else text


def _describe_repeated(stores: Mapping[str, PointCloudStore]) -> list[str]:
    notes = [note for store in stores.values() for note in store.notes]
    return [f"{len(notes)} clouds, the first is {notes[0]}"] if notes else []


def _describe_untrained(stores: Mapping[str, PointCloudStore]) -> list[str]:
    """Name the classes of which nothing can be learned."""
    if "train" not in stores:
        return []
    store = stores["train"]
    counts = np.bincount(store.labels, minlength=len(store.class_names))
    names = [n for n, count in zip(store.class_names, counts, strict=True) if not count]
    return [f"classes without training clouds: {', '.join(names)}"] if names else []


def _print_counts(stores: Mapping[str, PointCloudStore], class_names: Sequence[str]) -> None:
    """Print the number of clouds of each class in each split."""
    splits = [split for split in SPLITS if split in stores]
    counts = {s: np.bincount(stores[s].labels, minlength=len(class_names)) for s in splits}
    width = max(len("class"), *map(len, class_names))
    print(f"\n{'class':<{width}}" + "".join(f"{split:>8}" for split in splits))
    for label, name in enumerate(class_names):
        print(f"{name:<{width}}" + "".join(f"{counts[split][label]:>8}" for split in splits))
    for split in splits:
        print(f"{split}: {len(stores[split])} clouds in {len(class_names)} classes")
    for missing, what in _WITHOUT.items():
        if missing not in stores:
            print(f"{missing}: none, {what}")
