import errno
import os
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from torch.utils.data import DataLoader

from sharedmlp.data import (
    DataError,
    MeshTreeError,
    PointCloudDataset,
    are_normalized,
    find_class_names,
    identity_collate,
    mesh_tree,
    normalize_points,
    prepare_mesh_tree,
    read_mesh,
    recognize_layout,
)

from .io.meshes import TETRAHEDRON, write_tree


def prepare(root, split="train", **options):
    defaults = {"pool_size": 32, "num_workers": 0, "progress": False}
    return prepare_mesh_tree(root, split, **defaults | options)


def caches(root):
    folder = root / ".sharedmlp_cache"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.fixture
def tree(tmp_path):
    return write_tree(tmp_path / "tree")


@pytest.fixture
def no_reading(monkeypatch):
    """A call makes every further attempt to read a mesh fail."""

    def forbid():
        def read(path, *args, **options):
            raise AssertionError(f"{path} was read")

        monkeypatch.setattr(mesh_tree, "read_cloud", read)

    return forbid


@pytest.fixture
def bad_tree(tree):
    (tree / "a" / "train" / "a_0001.off").write_text("OFF\n")
    (tree / "b" / "train" / "b_0002.off").write_text(TETRAHEDRON.replace("1 0 0", "nan 0 0"))
    return tree


BAD_FILES = (
    "a/train/a_0001.off: line 1: the file ends before the vertex and face counts",
    "b/train/b_0002.off: line 4: not a finite number: 'nan 0 0'",
)


def test_a_pool_of_a_split(tree):
    pool = prepare(tree)
    assert pool.points.shape == (6, 32, 3)
    assert pool.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert pool.class_names == ("a", "b") == find_class_names(str(tree))
    assert pool.names[:2] == ("a/train/a_0000.off", "a/train/a_0001.off")
    assert pool.failures == ()
    assert isinstance(pool.points, np.memmap)
    assert not pool.points.flags.writeable
    np.testing.assert_allclose(np.linalg.norm(pool.points, axis=2).max(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(pool.points.mean(axis=1), 0, atol=1e-6)
    assert len({cloud.tobytes() for cloud in pool.points}) == 6
    assert len(prepare(tree, "test")) == 4


def test_equal_meshes_give_different_clouds(tree):
    shutil.copy(tree / "a" / "train" / "a_0000.off", tree / "a" / "train" / "copy.off")
    pool = prepare(tree)
    first, second = (pool.points[pool.names.index(f"a/train/{n}.off")] for n in ("a_0000", "copy"))
    assert not np.isin(first, second).any()


def test_points_lie_on_their_own_mesh(tree):
    pool = prepare(tree, features=["normals"], pool_size=4000)
    assert pool.points.shape == (6, 4000, 6)
    for name, cloud in zip(pool.names, pool.points, strict=True):
        mesh = read_mesh(tree / name)
        expected = normalize_points(trimesh.sample.sample_surface(mesh, 20000, seed=1)[0])
        np.testing.assert_allclose(cloud[:, :3].min(0), expected.min(0), atol=0.05)
        np.testing.assert_allclose(cloud[:, :3].max(0), expected.max(0), atol=0.05)
        np.testing.assert_allclose(np.linalg.norm(cloud[:, 3:], axis=1), 1, atol=1e-6)


def test_a_mesh_far_from_the_origin_keeps_its_detail(tree):
    path = tree / "a" / "train" / "a_0000.off"
    mesh = read_mesh(path)
    near = prepare(tree).points[0]
    mesh.apply_translation([1e9, 0, 0])
    mesh.export(path, digits=17)
    np.testing.assert_allclose(prepare(tree).points[0], near, atol=1e-5)


def test_processes_do_not_change_the_clouds(tmp_path):
    tree = write_tree(tmp_path / "tree", train=10)
    alone = prepare(tree, cache_dir=tmp_path / "one")
    together = prepare(tree, cache_dir=tmp_path / "two", num_workers=2)
    assert alone.names == together.names
    np.testing.assert_array_equal(alone.points, together.points)


def test_a_cloud_does_not_depend_on_its_neighbors(tree):
    before = dict(zip((pool := prepare(tree)).names, pool.points, strict=True))
    (tree / "a" / "train" / "a_0000.off").unlink()
    after = prepare(tree)
    for name, cloud in zip(after.names, after.points, strict=True):
        np.testing.assert_array_equal(cloud, before[name])


def test_the_second_call_opens_the_cache(tree, no_reading):
    first = prepare(tree)
    no_reading()
    second = prepare(tree)
    np.testing.assert_array_equal(first.points, second.points)
    np.testing.assert_array_equal(first.labels, second.labels)
    assert (first.names, first.class_names) == (second.names, second.class_names)
    assert len(caches(tree)) == 1


def test_a_cached_epoch_opens_no_file(tree):
    prepare(tree)
    opened, recording = [], [True]

    def record(event, args):  # cannot be taken off again
        if recording and event == "open" and str(tree) in str(args[0]):
            opened.append(Path(args[0]).name)

    sys.addaudithook(record)
    pool = prepare(tree)
    # NumPy opens an array for its kind, for its header and for the map.
    assert sorted(set(opened)) == ["index.json", "points.npy"]
    assert len(opened) <= 4
    opened.clear()
    dataset = PointCloudDataset(pool, num_points=8, resample=True)
    loader = DataLoader(dataset, batch_size=2, shuffle=True, collate_fn=identity_collate)
    for epoch in range(2):
        dataset.set_epoch(epoch)
        assert sorted(i for batch in loader for i in batch["index"].tolist()) == list(range(6))
    assert opened == []
    recording.clear()


@pytest.mark.parametrize(
    "change", ["time", "size", "new file", "new class", "last class", "new name"]
)
def test_a_change_of_the_sources_means_another_cache(tree, change):
    prepare(tree)
    path = tree / "b" / "train" / "b_0001.off"
    stat = path.stat()
    if change == "time":
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    elif change == "size":
        path.write_text(path.read_text() + "\n")
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    elif change == "new file":
        shutil.copy(path, path.with_name("b_0009.off"))
    elif change == "new class":
        shutil.copytree(tree / "a", tree / "0")  # shifts the labels of all others
    elif change == "last class":
        shutil.copytree(tree / "b" / "test", tree / "z" / "test")  # shifts nothing, but counts
    elif change == "new name":
        path.rename(path.with_name("c.off"))
    pool = prepare(tree)
    assert len(caches(tree)) == 2
    assert pool.class_names == find_class_names(tree)
    assert set(pool.labels) == ({0, 1, 2} if change == "new class" else {0, 1})
    assert ("b/train/c.off" in pool.names) == (change == "new name")


@pytest.mark.parametrize("option", [{"pool_size": 33}, {"features": ["normals"]}, {"seed": 1}])
def test_other_settings_mean_another_cache(tree, option):
    first, second = prepare(tree), prepare(tree, **option)
    assert len(caches(tree)) == 2
    if option == {"seed": 1}:
        assert not np.array_equal(first.points, second.points)


@pytest.mark.parametrize(
    "damage", ["cut", "longer", "index cut", "no points", "no index", "garbage"]
)
def test_a_damaged_cache_is_built_anew(tree, damage, caplog):
    expected = np.array(prepare(tree).points)
    (directory,) = (tree / ".sharedmlp_cache").iterdir()
    points, index = directory / "points.npy", directory / "index.json"
    if damage in ("cut", "longer"):
        os.truncate(points, points.stat().st_size + (1 if damage == "longer" else -1))
    elif damage == "index cut":
        os.truncate(index, index.stat().st_size // 2)
    elif damage == "no points":
        points.unlink()
    elif damage == "no index":
        index.unlink()
    else:
        points.write_bytes(b"x" * points.stat().st_size)
    np.testing.assert_array_equal(prepare(tree).points, expected)
    assert "is damaged" in caplog.text
    assert caches(tree) == [directory.name]


def test_an_interrupted_build_leaves_nothing(tree, monkeypatch):
    sampled: list[Any] = []

    def interrupt(source, **options):
        if len(sampled) == 3:
            raise KeyboardInterrupt
        sampled.append(source)
        return original(source, **options)

    original = mesh_tree._sample
    monkeypatch.setattr(mesh_tree, "_sample", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prepare(tree)
    assert caches(tree) == []


def test_the_loser_of_a_race_takes_the_winners_cache(tree, monkeypatch):
    winner: list[Any] = []

    def overtaken(source, **options):
        if not winner:
            monkeypatch.setattr(mesh_tree, "_sample", original)
            winner.append(Path(prepare(tree).points.filename).stat().st_ino)
        return original(source, **options)

    original = mesh_tree._sample
    monkeypatch.setattr(mesh_tree, "_sample", overtaken)
    loser = prepare(tree)
    assert len(caches(tree)) == 1
    assert Path(loser.points.filename).stat().st_ino == winner[0]
    assert len(loser) == 6


def test_a_place_that_cannot_be_written_is_named_with_the_remedy(tree, tmp_path, no_reading):
    (tmp_path / "file").write_text("")
    no_reading()  # the error comes before the work, not after
    with pytest.raises(OSError, match="name a writable folder by cache_dir") as caught:
        prepare(tree, cache_dir=tmp_path / "file" / "cache")
    assert caught.value.errno == errno.ENOTDIR
    assert str(tmp_path / "file") in str(caught.value)


def test_bad_files_are_left_out_and_named_by_every_call(bad_tree, no_reading):
    for attempt in range(2):
        with pytest.warns(UserWarning, match="2 of 6 train files") as caught:
            pool = prepare(bad_tree)
        assert all(failure in str(caught[0].message) for failure in BAD_FILES)
        assert pool.failures == BAD_FILES
        assert len(pool) == 4
        assert pool.labels.tolist() == [0, 0, 1, 1]
        assert "a/train/a_0001.off" not in pool.names
        if attempt == 0:
            no_reading()


def test_without_its_bad_files_a_tree_is_quiet(bad_tree):
    for failure in BAD_FILES:
        (bad_tree / failure.partition(":")[0]).unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert prepare(bad_tree, strict=True).failures == ()


def test_strict_lists_every_bad_file(bad_tree):
    for _ in range(2):
        with pytest.raises(MeshTreeError, match="2 of 6 train files") as caught:
            prepare(bad_tree, strict=True)
        assert caught.value.failures == BAD_FILES
        assert all(failure in str(caught.value) for failure in BAD_FILES)
    assert len(prepare(bad_tree, "test", strict=True)) == 4


def test_a_split_of_bad_files_only_is_an_error(tree):
    for path in tree.glob("*/test/*.off"):
        path.write_text("")
    with pytest.raises(MeshTreeError, match="4 of 4 test files"):
        prepare(tree, "test")


def test_a_file_that_cannot_be_opened_is_not_cached_as_bad(bad_tree, monkeypatch):
    gone = bad_tree / "b" / "train" / "b_0000.off"
    content, stat = gone.read_bytes(), gone.stat()
    original = recognize_layout

    def find_and_lose(*args, **options):
        found = original(*args, **options)
        gone.unlink()
        return found

    with monkeypatch.context() as patch:
        patch.setattr(mesh_tree, "recognize_layout", find_and_lose)
        with pytest.raises(MeshTreeError, match="1 of 6 train files cannot be opened") as caught:
            prepare(bad_tree)
    assert len(caught.value.failures) == 1
    assert caches(bad_tree) == []
    gone.write_bytes(content)
    os.utime(gone, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.warns(UserWarning, match="2 of 6"):
        assert "b/train/b_0000.off" in prepare(bad_tree).names


def test_what_is_no_mesh_is_ignored_aloud(tree):
    (tree / "a" / "train" / "notes.txt").write_text("hello")
    (tree / "a" / "train" / "folder").mkdir()
    (tree / "a" / "train" / ".hidden.off").write_text("")
    (tree / "spelled" / "Train").mkdir(parents=True)
    (tree / "README").write_text("")
    with pytest.warns(UserWarning, match="left out") as caught:
        pool = prepare(tree)
    assert str(caught[0].message) == (
        f"{tree}: left out: 1 in no class folder (README); 1 .txt beside .off (a/train/notes.txt); "
        "1 class folder without files (spelled/)"
    )
    assert len(pool) == 6
    assert pool.class_names == ("a", "b")


def test_formats_may_be_mixed(tree):
    trimesh.creation.box().export(tree / "a" / "train" / "box.ply")
    trimesh.creation.box().export(tree / "a" / "train" / "BOX.STL", file_type="stl")
    pool = prepare(tree)
    assert {"a/train/box.ply", "a/train/BOX.STL"} < set(pool.names)


def test_a_class_may_lack_a_split(tree):
    shutil.rmtree(tree / "a" / "test")
    pool = prepare(tree, "test")
    assert set(pool.labels) == {1}
    assert pool.class_names == ("a", "b")


def test_wrong_layouts_and_arguments(tree, tmp_path):
    with pytest.raises(FileNotFoundError, match="missing is no folder, nor a CSV file; expected"):
        prepare(tmp_path / "missing")
    with pytest.raises(DataError, match=r"holds one folder, tree: .* name .*/tree itself"):
        prepare(tmp_path)
    with pytest.raises(ValueError, match="'train', 'val' or 'test', got 'both'"):
        prepare(tree, "both")
    with pytest.raises(ValueError, match="pool_size has to be 1 or more"):
        prepare(tree, pool_size=0)
    with pytest.raises(ValueError, match="num_workers has to be 0 or more"):
        prepare(tree, num_workers=-1)
    for path in tree.glob("*/test/*.off"):
        path.unlink()
    with pytest.raises(ValueError, match="has no test split"):
        prepare(tree, "test")


def test_the_progress_bar_can_be_hidden(tree, capfd):
    prepare(tree, progress=False)
    assert capfd.readouterr().err == ""
    prepare(tree, "test", progress=True)
    assert "sampling test files: 100%" in capfd.readouterr().err


def die(source, **options):
    os._exit(3)


def test_a_worker_that_dies_is_reported(tmp_path, monkeypatch):
    tree = write_tree(tmp_path / "tree", train=10)
    monkeypatch.setattr(mesh_tree, "_sample", die)
    with pytest.raises(RuntimeError, match="a process that samples files died"):
        prepare(tree, num_workers=2)
    assert caches(tree) == []


@pytest.mark.slow
def test_ten_thousand_meshes_open_in_under_a_second(tmp_path):
    import time

    tree = write_tree(tmp_path / "tree", classes=[f"class{i:02d}" for i in range(40)], train=250)
    prepare(tree, pool_size=4, num_workers=None)
    start = time.perf_counter()
    pool = prepare(tree, pool_size=4)
    assert time.perf_counter() - start < 1
    assert len(pool) == 10000


def write_clouds(root, count=6, **columns):
    """Text with names of columns; the clouds of class b are higher."""
    names = ["x", "y", "z", *columns]
    for index, name in enumerate(("a", "b")):
        (root / name).mkdir(parents=True)
        for number in range(count):
            rng = np.random.default_rng(10 * index + number)
            points = rng.normal(size=(40, 3)) * [1, 1, 1 + index]
            table = np.concatenate([points, *(np.full((40, 1), c) for c in columns.values())], 1)
            text = "\n".join(" ".join(map(str, row)) for row in table)
            (root / name / f"{number}.xyz").write_text(f"{' '.join(names)}\n{text}\n")
    return root


def test_clouds_are_drawn_from_as_meshes_are(tmp_path):
    root = write_clouds(tmp_path / "set", red=255, green=0, blue=51)
    pool = prepare(root, features=["colors"])
    assert pool.points.shape == (10, 32, 6)
    assert pool.class_names == ("a", "b")
    np.testing.assert_allclose(pool.points[..., 3:], np.broadcast_to([1, 0, 0.2], (10, 32, 3)))
    expected = normalize_points(np.loadtxt(root / pool.names[0], skiprows=1)[:, :3])
    assert np.linalg.norm(pool.points[0, :, :3]) == pytest.approx(
        np.linalg.norm(expected[:32]), rel=0.3
    )
    assert are_normalized(pool.points)
    with pytest.raises(MeshTreeError, match=r"10 of 10 .*: a/0\.xyz: has no normals") as caught:
        prepare(root, features=["normals"])
    assert "\n" not in str(caught.value)


def test_a_cloud_of_few_points_has_some_of_them_twice(tmp_path):
    root = write_clouds(tmp_path / "set")
    for _ in range(2):  # built, and opened
        with pytest.warns(UserWarning, match=r"10 of 10 .*: 40 points, of which some are repeated"):
            pool = prepare(root, pool_size=64)
        assert len(pool.notes) == 10
        assert are_normalized(pool.points)
        assert {len(np.unique(cloud, axis=0)) for cloud in pool.points} == {40}


def test_splits_that_are_drawn_are_written_and_can_be_the_root(tmp_path, recwarn):
    root = write_clouds(tmp_path / "set")
    pools = {split: prepare(root, split) for split in ("train", "test")}
    listing = root / ".sharedmlp_cache" / "set-split-seed0.csv"
    assert listing.read_text().splitlines()[0] == "path,label,split"
    for split, pool in pools.items():
        again = prepare(listing, split)
        names = [f"../{name}" for name in pool.names]
        assert (list(again.names), again.labels.tolist()) == (names, pool.labels.tolist())
    assert not recwarn.list
    (root / "a" / "0.xyz").rename(root / "a" / "new.xyz")
    with pytest.warns(UserWarning, match="the splits are drawn anew"):
        prepare(root)


def test_gltf_is_turned_to_the_axis_of_the_set(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / "train").mkdir(parents=True)
        mesh = trimesh.creation.box((1, 2, 8))  # y is up in the file: 2
        mesh.export(tmp_path / name / "train" / "box.glb")
        mesh.export(tmp_path / name / "train" / "other.ply")
    for up_axis, extents in (("z", (1, 8, 2)), ("y", (1, 2, 8)), ("x", (2, 1, 8))):
        pool = prepare(tmp_path, up_axis=up_axis, pool_size=500)
        sizes = dict(zip(pool.names, np.ptp(pool.points, axis=1), strict=True))
        for name, expected in (("a/train/box.glb", extents), ("a/train/other.ply", (1, 2, 8))):
            found = 8 * sizes[name] / sizes[name].max()
            np.testing.assert_allclose(found, expected, atol=0.2, err_msg=f"{up_axis} {name}")
    assert len(caches(tmp_path)) == 3


def test_a_validation_folder_is_a_split(tree):
    assert len(prepare(tree)) == 6
    for name in ("a", "b"):
        shutil.copytree(tree / name / "test", tree / name / "val")
    assert prepare(tree, "val").names[0] == "a/val/a_0000.off"
    assert len(prepare(tree)) == 6
