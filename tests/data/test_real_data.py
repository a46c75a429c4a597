"""Real files, where a checkout has them beside it."""

from pathlib import Path

import numpy as np
import pytest

from sharedmlp.data import prepare_mesh_tree, read_hdf5, read_mesh, sample_points

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def folder(name):
    if not (DATA / name).is_dir():
        pytest.skip(f"real data not there: {DATA / name}")
    return DATA / name


def test_original_modelnet_meshes():
    paths = sorted(folder("modelnet_off_samples").rglob("*.off"))
    assert len(paths) == 9
    clouds = {}
    for path in paths:
        clouds[path.stem] = sample_points(read_mesh(path), 500, seed=0, normals=True)
        assert clouds[path.stem].shape == (500, 6)
        assert np.isfinite(clouds[path.stem]).all()
    # The same mesh with its header glued to the counts.
    np.testing.assert_array_equal(clouds["stool_0002"], clouds["stool_0002_glued_header"])


def test_a_tree_of_messy_meshes(tmp_path):
    root = folder("shapes10_off")
    pool = prepare_mesh_tree(root, "test", pool_size=128, cache_dir=tmp_path, progress=False)
    assert (len(pool), len(pool.class_names), pool.failures) == (38, 10, ())


def test_the_hdf5_layout():
    pool = read_hdf5(folder("modelnet10_ply_hdf5_1024"), "test")
    assert pool.points.shape == (908, 1024, 3)
    assert len(pool.class_names) == 10
    np.testing.assert_allclose(np.linalg.norm(pool.points, axis=2).max(axis=1), 1, atol=1e-3)
