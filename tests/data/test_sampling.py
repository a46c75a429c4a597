import numpy as np
import pytest
import trimesh

from sharedmlp.data import are_normalized, normalize_points, read_mesh, sample_points

from .io.meshes import TWO_TRIANGLES


@pytest.fixture
def two_triangles(tmp_path):
    (tmp_path / "mesh.off").write_text(TWO_TRIANGLES)
    return read_mesh(tmp_path / "mesh.off")


def test_faces_are_drawn_by_area_and_points_lie_on_them(two_triangles):
    points = sample_points(two_triangles, 20000, seed=0)
    assert points.shape == (20000, 3)
    assert points.dtype == np.float32
    assert type(points) is np.ndarray
    upper = points[:, 2] > 0
    # Areas 1 and 3; five standard deviations of a share are 0.015.
    assert upper.mean() == pytest.approx(0.75, abs=0.015)
    for part, z, length in ((points[~upper], -1, 1), (points[upper], 1, 3)):
        assert (part[:, 2] == z).all()
        assert (part[:, :2] >= 0).all()
        assert (part[:, 0] / 2 + part[:, 1] / length <= 1 + 1e-6).all()
        # Uniform within the triangle, too: the mean is the centroid.
        np.testing.assert_allclose(part[:, :2].mean(axis=0), [2 / 3, length / 3], atol=0.04)


def test_the_points_are_those_that_trimesh_draws():
    mesh = trimesh.creation.icosphere(subdivisions=2)
    mesh.vertices[:, 0] *= 3
    expected, _ = trimesh.sample.sample_surface(mesh, 500, seed=np.random.default_rng(7))
    np.testing.assert_array_equal(
        sample_points(mesh, 500, seed=7), np.asarray(expected, dtype=np.float32)
    )


def test_the_seed_decides(two_triangles):
    first = sample_points(two_triangles, 50, seed=3)
    np.testing.assert_array_equal(first, sample_points(two_triangles, 50, seed=3))
    assert not np.array_equal(first, sample_points(two_triangles, 50, seed=4))
    rng = np.random.default_rng(3)
    np.testing.assert_array_equal(first, sample_points(two_triangles, 50, seed=rng))
    assert not np.array_equal(first, sample_points(two_triangles, 50, seed=rng))


def test_normals_belong_to_their_points():
    sphere = trimesh.creation.icosphere(subdivisions=4, radius=1e-6)
    samples = sample_points(sphere, 500, seed=0, normals=True)
    assert samples.shape == (500, 6)
    np.testing.assert_array_equal(samples[:, :3], sample_points(sphere, 500, seed=0))
    np.testing.assert_allclose(np.linalg.norm(samples[:, 3:], axis=1), 1, atol=1e-6)
    outward = (samples[:, :3] * samples[:, 3:]).sum(axis=1) / 1e-6
    np.testing.assert_allclose(outward, 1, atol=0.01)


def test_no_points_is_an_error(two_triangles):
    with pytest.raises(ValueError, match="1 or more, got 0"):
        sample_points(two_triangles, 0, seed=0)


def test_normalized_clouds_are_centred_in_the_unit_sphere():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(2, 3, 50, 7)) * 100 + 1000
    before = points.copy()
    result = normalize_points(points)
    np.testing.assert_array_equal(points, before)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result[..., :3].mean(axis=-2), 0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(result[..., :3], axis=-1).max(axis=-1), 1, atol=1e-6)
    np.testing.assert_array_equal(result[..., 3:], points[..., 3:].astype(np.float32))
    # One scale for all axes, and each cloud on its own.
    single = points[1, 2, :, :3] - points[1, 2, :, :3].mean(axis=0)
    expected = single / np.linalg.norm(single, axis=1).max()
    np.testing.assert_allclose(result[1, 2, :, :3], expected, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_points_become_zero(dtype):
    # The mean of 1000 times 0.1 is not 0.1.
    assert (normalize_points(np.full((1000, 3), 0.1, dtype=dtype)) == 0).all()
    assert (normalize_points(np.ones((1, 3), dtype=dtype)) == 0).all()


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_any_unit_gives_the_same_cloud(scale):
    points = np.random.default_rng(0).normal(size=(20, 3))
    np.testing.assert_allclose(
        normalize_points(points * scale), normalize_points(points), atol=1e-6
    )


def test_normalize_refuses_what_it_cannot_use():
    with pytest.raises(ValueError, match=r"\(\.\.\., N, 3 or more\), got \(5, 2\)"):
        normalize_points(np.zeros((5, 2)))
    with pytest.raises(ValueError, match="got \\(0, 3\\)"):
        normalize_points(np.zeros((0, 3)))
    with pytest.raises(ValueError, match="finite"):
        normalize_points([[0, 0, np.nan], [1, 1, 1]])


def test_normalized_clouds_are_told_from_others():
    rng = np.random.default_rng(0)
    clouds = normalize_points(rng.normal(size=(5, 40, 6)) + 3)
    assert are_normalized(clouds)
    assert are_normalized(np.zeros((2, 4, 3)))  # all points of a cloud are equal
    shifted, scaled = clouds.copy(), clouds.copy()
    inner = np.linalg.norm(shifted[2, :, :3], axis=1).argmin()
    shifted[2, inner, 1] += 0.1  # within the sphere
    scaled[4, :, :3] *= 0.99
    assert not are_normalized(shifted)
    assert not are_normalized(scaled)
