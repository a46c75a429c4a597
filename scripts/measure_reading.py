"""How fast files become clouds, beside the libraries alone, and clouds become batches.

Prints the tables of docs/data.md. Everything is written to a temporary folder. What one process
does is counted in seconds of its own, so that a busy machine gives the same numbers.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import laspy
import numpy as np
import torch
import trimesh
from pypcd4.pypcd4 import Encoding, PointCloud
from torch.utils.data import DataLoader

from sharedmlp.data import (
    PointCloudDataset,
    identity_collate,
    load_cloud,
    normalize_points,
    prepare_mesh_tree,
    read_mesh,
)
from sharedmlp.data.cache import CacheEntry, write_cache
from sharedmlp.data.sampling import draw_surface
from sharedmlp.utils.cores import usable_cores

POOL_SIZE = 2048
MODELNET40_FILES, MODELNET40_BYTES = 12_311, 10e9
MODELNET40_TRAIN = 9_843


def read_and_sample(path: Path) -> None:
    """What `sharedmlp prepare` does with a mesh."""
    normalize_points(draw_surface(read_mesh(path), POOL_SIZE, seed=0))


def trimesh_alone(path: Path) -> None:
    """The same by trimesh, which checks nothing."""
    mesh = trimesh.load_mesh(path, process=False)
    trimesh.sample.sample_surface(mesh, POOL_SIZE, seed=0)


READERS: dict[str, Callable[[Path], object]] = {
    "read": read_mesh,
    "trimesh read": lambda path: trimesh.load_mesh(path, process=False),
    "read + sample": read_and_sample,
    "trimesh read + sample": trimesh_alone,
}


def generate_meshes(folder: Path) -> dict[str, list[Path]]:
    """Spheres with dents, of 1,280, 20,480 and 327,680 faces, as text of six decimals."""
    groups = {}
    for subdivisions, count in ((3, 30), (5, 6), (7, 2)):
        sphere = trimesh.creation.icosphere(subdivisions=subdivisions)
        paths = []
        for number in range(count):
            rng = np.random.default_rng(number)
            sphere.vertices += rng.normal(scale=0.01, size=sphere.vertices.shape)
            paths.append(folder / f"sphere_{subdivisions}_{number}.off")
            sphere.export(paths[-1], digits=6)
        groups[f"{len(sphere.faces):,} faces"] = paths
    return groups


def seconds_a_mesh(paths: Sequence[Path], repeats: int) -> dict[str, float]:
    """The best of some runs over the files, one reader after the other in each."""
    best = dict.fromkeys(READERS, float("inf"))
    for _ in range(repeats):
        for name, reader in READERS.items():
            start = time.process_time()
            for path in paths:
                reader(path)
            best[name] = min(best[name], (time.process_time() - start) / len(paths))
    return best


def measure_reading(groups: dict[str, list[Path]], repeats: int) -> None:
    """Print meshes a second in one process, and what ModelNet40 would take."""
    sizes, times = [], []
    print(f"| meshes a second, one process | kB a mesh | {' | '.join(READERS)} | faster |")
    print("| --- | " + " | ".join(["---:"] * (len(READERS) + 2)) + " |")
    for name, paths in groups.items():
        seconds = seconds_a_mesh(paths, repeats)
        sizes.append(np.mean([path.stat().st_size for path in paths]))
        times.append(list(seconds.values()))
        rates = " | ".join(f"{1 / value:.1f}" for value in seconds.values())
        faster = [seconds[f"trimesh {what}"] / seconds[what] for what in ("read", "read + sample")]
        print(f"| {name} | {sizes[-1] / 1e3:.0f} | {rates} | {faster[0]:.1f}x, {faster[1]:.1f}x |")
    # Seconds a file and seconds a byte, fitted to relative errors.
    design = np.array([np.ones(len(sizes)), sizes]).T
    print(
        f"\nModelNet40, {MODELNET40_FILES} files of {MODELNET40_BYTES / 1e9:.0f} GB, one process:"
    )
    for name, column in zip(READERS, np.array(times).T, strict=True):
        fit = np.linalg.lstsq(design / column[:, None], np.ones(len(column)), rcond=None)[0]
        total = fit @ [MODELNET40_FILES, MODELNET40_BYTES]
        print(f"  {name}: {total / 60:.1f} minutes")


FormatFiles: TypeAlias = dict[str, tuple[Path, Callable[[Path], object], Callable[[Path], object]]]
"""Of each format a file, the reader of this package and the library that reads it alone."""


def write_clouds(folder: Path) -> FormatFiles:
    """Write one cloud of 50,000 points in every format that another library reads too."""
    points = np.random.default_rng(0).normal(size=(50_000, 3)).astype(np.float32)
    files: FormatFiles = {}

    def note(name: str, file_name: str, alone: Callable[[Path], object]) -> Path:
        files[name] = (folder / file_name, load_cloud, alone)
        return folder / file_name

    cloud: Any = trimesh.PointCloud(points)  # type: ignore[no-untyped-call]  # as trimesh has it
    for encoding in ("ascii", "binary"):
        cloud.export(
            note(f"PLY {encoding}, points", f"{encoding}.ply", trimesh.load), encoding=encoding
        )
    written = PointCloud.from_xyz_points(points)
    for encoding in ("ascii", "binary", "binary_compressed"):
        path = note(f"PCD, {encoding}", f"{encoding}.pcd", PointCloud.from_path)
        written.save(path, encoding=Encoding(encoding))
    las = laspy.create(point_format=3)
    las.header.scales = [0.001] * 3
    las.x, las.y, las.z = points.T.astype(np.float64)
    for suffix in ("las", "laz"):
        las.write(note(suffix.upper(), f"a.{suffix}", lambda path: laspy.read(path).xyz))
    path = note("CSV", "a.csv", lambda path: np.loadtxt(path, delimiter=","))
    np.savetxt(path, points, "%.6f", delimiter=",")
    np.save(note("NPY", "a.npy", np.load), points)
    return files


def write_meshes(folder: Path) -> FormatFiles:
    """Write one mesh of 50,000 faces in every format, which trimesh reads too."""
    sphere = trimesh.creation.icosphere(subdivisions=6)
    rng = np.random.default_rng(0)
    vertices = sphere.vertices + rng.normal(scale=0.001, size=sphere.vertices.shape)
    mesh = trimesh.Trimesh(vertices, sphere.faces[:50_000], process=False)
    options: dict[str, tuple[str, dict[str, Any]]] = {
        "OFF": ("a.off", {"digits": 6}),
        "OBJ": ("a.obj", {"include_normals": False, "digits": 6}),
        "OBJ with normals": ("b.obj", {"include_normals": True, "digits": 6}),
        "PLY, binary": ("a.ply", {}),
        "PLY, text": ("b.ply", {"encoding": "ascii"}),
        "STL, binary": ("a.stl", {}),
        "STL, text": ("b.stl", {"file_type": "stl_ascii"}),
        "glTF, .glb": ("a.glb", {}),
    }
    for name, keywords in options.values():
        mesh.export(folder / name, **keywords)
    alone = READERS["trimesh read"]
    return {
        format_name: (folder / name, read_mesh, alone) for format_name, (name, _) in options.items()
    }


def measure_formats(folder: Path, repeats: int) -> None:
    """Print milliseconds a file of 50,000 points or faces, beside the library alone."""
    folder.mkdir()
    print("| milliseconds a file of 50,000 points or faces | kB | read | the library alone |")
    print("| --- | ---: | ---: | ---: |")
    for name, (path, *readers) in (write_clouds(folder) | write_meshes(folder)).items():
        best = [float("inf")] * 2
        for _ in range(repeats):
            for place, reader in enumerate(readers):
                start = time.process_time()
                reader(path)
                best[place] = min(best[place], time.process_time() - start)
        times = " | ".join(f"{seconds * 1e3:.1f}" for seconds in best)
        print(f"| {name} | {path.stat().st_size / 1e3:.0f} | {times} |")


def measure_processes(paths: Sequence[Path], folder: Path, repeats: int) -> None:
    """Print how the cores share a tree of 120 meshes, which are links to a few files."""
    train = folder / "tree" / "sphere" / "train"
    train.mkdir(parents=True)
    for number in range(120):
        (train / f"{number:04d}.off").symlink_to(paths[number % len(paths)])
    for workers in (1, usable_cores()):
        best = (float("inf"), 0.0)
        for number in range(repeats):
            start, busy = time.perf_counter(), os.times()
            pool = prepare_mesh_tree(
                folder / "tree",
                "train",
                num_workers=workers,
                cache_dir=folder / f"cache_{workers}_{number}",
                progress=False,
            )
            spent = sum(np.subtract(os.times()[:4], busy[:4]))
            best = min(best, (time.perf_counter() - start, spent))
        print(
            f"{workers} processes: {len(pool) / best[0]:.0f} meshes a second on the clock, "
            f"{best[1]:.2f} s of all cores' time"
        )


def measure_batches(folder: Path) -> None:
    """Print the time of a batch from a memory map of ModelNet40's training clouds."""
    rng = np.random.default_rng(0)
    clouds = (
        CacheEntry(str(i), 0, rng.normal(size=(POOL_SIZE, 3)).astype(np.float32))
        for i in range(MODELNET40_TRAIN)
    )
    pool = write_cache(folder / "cache", "key", clouds, (POOL_SIZE, 3), ("a",))
    dataset = PointCloudDataset(pool, num_points=1024, resample=True)
    loader = DataLoader(
        dataset,
        batch_size=32,
        shuffle=True,
        collate_fn=identity_collate,
        generator=torch.Generator().manual_seed(0),
    )
    for epoch in range(3):
        dataset.set_epoch(epoch)
        start = time.process_time()
        batches = sum(1 for _ in loader)
        seconds = time.process_time() - start
        print(
            f"epoch {epoch}: {seconds:.2f} s for {len(dataset)} clouds, "
            f"{seconds / batches * 1e3:.2f} ms a batch of 32 x 1,024 points"
        )


def main() -> None:
    """Print all of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, help="a tree of real meshes, measured too")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--formats-only", action="store_true", help="the table of formats alone")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        measure_formats(folder / "formats", options.repeats)
        if options.formats_only:
            return
        print()
        groups = generate_meshes(folder)
        if options.root:
            groups = {options.root.name: sorted(options.root.rglob("*.off")), **groups}
        measure_reading(groups, options.repeats)
        print("\nA tree of meshes of 20,480 faces into its cache:")
        measure_processes(groups["20,480 faces"], folder, options.repeats)
        print("\nBatches from a memory map of ModelNet40's size:")
        measure_batches(folder)


if __name__ == "__main__":
    main()
