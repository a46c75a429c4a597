"""Generated meshes as a data set that needs no download: OFF files in ModelNet's layout.

With parts, a file `<name>.seg` beside each mesh has the number of the part of each face, one a
line, as the Princeton Segmentation Benchmark has it, and `parts.json` names the parts.
"""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sharedmlp.data.io.base import require_trimesh
from sharedmlp.data.shape_classes import BUILDERS, PARTS
from sharedmlp.utils.seeds import generator_for_name

if TYPE_CHECKING:
    import trimesh
    from numpy.typing import NDArray

SHAPE_CLASSES: tuple[str, ...] = tuple(sorted(BUILDERS))
PART_NAMES_FILE = "parts.json"

_FORMAT = 1  # to be raised with every change of the shapes
_MARKER = ".sharedmlp_shapes.json"


def write_shapes(
    root: str | Path,
    *,
    train_per_class: int = 60,
    test_per_class: int = 15,
    seed: int = 0,
    parts: bool = False,
) -> Path:
    """Write the generated meshes, `<root>/<class>/{train,test}/<class>_0001.off`.

    Within a class the proportions, the parts, the tessellation and the rotation about the up
    axis (z) vary, now and then a part or some faces are missing, and the vertices carry a little
    noise. A mesh depends on the seed and on its own name alone. The tree is built beside its
    place and renamed, so it is complete or absent.

    Args:
        root: The folder to write: not there, empty, or written by this function before with the
            same settings, in which case nothing is done.
        train_per_class: Training meshes of each class in `SHAPE_CLASSES`.
        test_per_class: Test meshes of each class.
        seed: Seeds the shapes.
        parts: Whether to write the part of each face as well, of the classes of
            `shape_classes.PARTS` alone; the meshes are the same.

    Returns:
        The root.

    Raises:
        FileExistsError: If the root holds anything else.
        ImportError: If trimesh is not installed.
        ValueError: If a count is less than 1.
    """
    if train_per_class < 1 or test_per_class < 1:
        raise ValueError(
            "expected 1 or more meshes of each class and split, got "
            f"train_per_class={train_per_class} and test_per_class={test_per_class}"
        )
    require_trimesh()
    root = Path(root)
    counts = {"train": train_per_class, "test": test_per_class}
    settings = {"format": _FORMAT, "seed": seed, **counts, **({"parts": 1} if parts else {})}
    class_names = tuple(sorted(PARTS)) if parts else SHAPE_CLASSES
    if root.exists() and not (root.is_dir() and not any(root.iterdir())):
        _check_written(root, settings, class_names)
        return root

    temporary = root.with_name(f".{root.name}-{uuid.uuid4().hex}")
    temporary.mkdir(parents=True)
    try:
        for class_name in class_names:
            for split, count in counts.items():
                folder = temporary / class_name / split
                folder.mkdir(parents=True)
                # ModelNet numbers through: the test meshes follow the training meshes.
                first = 1 if split == "train" else train_per_class + 1
                for number in range(first, first + count):
                    name = f"{class_name}_{number:04d}"
                    # Enough digits for the noise, and a third less text than the default.
                    mesh, face_parts = _make_shape(class_name, seed, f"{split}/{name}")
                    mesh.export(folder / f"{name}.off", digits=6)
                    if parts:
                        lines = "\n".join(map(str, face_parts.tolist()))
                        (folder / f"{name}.seg").write_text(f"{lines}\n", encoding="ascii")
        if parts:
            names = {name: PARTS[name] for name in class_names}
            (temporary / PART_NAMES_FILE).write_text(json.dumps(names), encoding="utf-8")
        (temporary / _MARKER).write_text(json.dumps(settings), encoding="utf-8")
        try:
            if root.exists():
                root.rmdir()  # it was empty; a rename over it is not possible everywhere
            temporary.rename(root)
        except OSError:
            if not root.exists():
                raise
            _check_written(
                root, settings, class_names
            )  # another process was first: its copy is as good
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return root


def _check_written(root: Path, settings: dict[str, int], class_names: tuple[str, ...]) -> None:
    """Raise unless the root is a complete tree of these settings."""
    remedy = "delete it or choose another folder"
    marker = root / _MARKER
    if not marker.is_file():
        raise FileExistsError(f"{root} is there but holds no generated shapes; {remedy}")
    found = json.loads(marker.read_text(encoding="utf-8"))
    if found != settings:
        raise FileExistsError(f"{root} holds shapes made with {found}, not {settings}; {remedy}")
    for class_name in class_names:
        for split in ("train", "test"):
            meshes = len(list((root / class_name / split).glob("*.off")))
            if meshes != settings[split]:
                raise FileExistsError(
                    f"{root / class_name / split} holds {meshes} meshes where {settings[split]} "
                    f"were written; {remedy}"
                )


def _make_shape(class_name: str, seed: int, name: str) -> tuple[trimesh.Trimesh, NDArray[np.int64]]:
    """Build one mesh and disturb it; return it and the part of each face, -1 without parts."""
    import trimesh

    rng = generator_for_name(seed, name)
    parts = BUILDERS[class_name](rng)
    names = PARTS.get(class_name)
    numbers = [names.index(part.metadata["part"]) if names else -1 for part in parts]
    finer = rng.random(len(parts)) < 0.3
    parts = [part.subdivide() if fine else part for part, fine in zip(parts, finer, strict=True)]
    face_parts = np.repeat(numbers, [len(part.faces) for part in parts])
    mesh = trimesh.util.concatenate(parts)
    assert isinstance(mesh, trimesh.Trimesh)
    vertices, faces = np.asarray(mesh.vertices), np.asarray(mesh.faces)
    if rng.random() < 0.3:  # holes
        kept = rng.random(len(faces)) > rng.uniform(0, 0.15)
        faces, face_parts = faces[kept], face_parts[kept]
    vertices = vertices * rng.uniform(0.85, 1.15, size=3)
    size = np.linalg.norm(np.ptp(vertices, axis=0))
    vertices = vertices + rng.normal(scale=rng.uniform(0, 0.006) * size, size=vertices.shape)
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    vertices[:, :2] = vertices[:, :2] @ turn
    # Objects come in any unit.
    mesh = trimesh.Trimesh(vertices * 10 ** rng.uniform(-1, 2), faces, process=False)
    return mesh, face_parts
