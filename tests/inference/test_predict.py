from typing import Any

import numpy as np
import pytest
import torch

from sharedmlp.data import MeshReadError, normalize_points, read_cloud, turn_up_axis
from sharedmlp.inference.predict import predict_files, read_network_cloud
from sharedmlp.models import PointNet
from tests.data.io.meshes import TETRAHEDRON, TWO_TRIANGLES

METADATA = {
    "class_names": ["a", "b", "c"],
    "num_points": 40,
    "up_axis": "z",
    "center": "mean",
    "scale": "unit sphere",
}


@pytest.fixture
def model():
    torch.manual_seed(0)
    model: Any = PointNet(3, transforms=False).eval()
    with torch.no_grad():
        model.head.layers[-1].linear.weight *= 100  # one cloud's answer is not another's
    model.metadata = dict(METADATA)
    return model


@pytest.fixture
def files(tmp_path):
    """Meshes in other units than the network's, files of few and of many points, and bad files."""
    (tmp_path / "0.off").write_text(TETRAHEDRON)
    (tmp_path / "1.off").write_text("OFF\n")
    (tmp_path / "2.off").write_text(TWO_TRIANGLES)
    points = np.random.default_rng(0).normal(size=(90, 3)) * 50 + 7
    np.save(tmp_path / "3.npy", points)
    np.savetxt(tmp_path / "4.txt", points[:11])
    return [*sorted(tmp_path.iterdir()), tmp_path / "5.off"]


def test_a_cloud_is_what_the_metadata_says(model, files):
    raw = read_cloud(files[3], 40, seed=3)
    points = read_network_cloud(model, files[3], seed=3)
    assert points.shape == (40, 3)
    assert points.dtype == torch.float32
    np.testing.assert_array_equal(points, normalize_points(raw))
    turned = read_network_cloud(model, files[3], seed=3, up_axis="y")
    np.testing.assert_array_equal(turned, normalize_points(turn_up_axis(raw, "y", "z")))
    assert len(read_network_cloud(model, files[4])) == 11


def test_what_the_metadata_does_not_say_is_not_done(model, files):
    model.metadata = {}
    points = read_network_cloud(model, files[3])
    np.testing.assert_allclose(points, read_cloud(files[3], 1024, seed=0), rtol=1e-6)
    assert read_network_cloud(model, files[0]).shape == (1024, 3)
    with pytest.raises(ValueError, match="does not know which axis points up"):
        read_network_cloud(model, files[0], up_axis="y")


def test_a_network_of_six_channels_gets_unit_normals(files):
    model = PointNet(3, 6, transforms=False).eval().double()
    model.metadata = dict(METADATA)
    points = read_network_cloud(model, files[0])
    assert points.shape == (40, 6)
    assert points.dtype == torch.float64
    torch.testing.assert_close(
        points[:, 3:].norm(dim=1), torch.ones(40, dtype=torch.float64), rtol=0, atol=1e-6
    )
    with pytest.raises(ValueError, match="3 or 6 channels, got 4"):
        read_network_cloud(PointNet(3, 4), files[0])


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_every_file_has_its_answer_in_its_place(model, files, monkeypatch, batch_size):
    monkeypatch.setattr("sharedmlp.inference.predict._BATCH_SIZE", batch_size)
    sizes = []
    model.register_forward_hook(lambda _, args, __: sizes.append(tuple(args[0].shape[:2])))
    answers = list(predict_files(model, files, seed=2))
    assert [path for path, _ in answers] == files
    for number, (path, answer) in enumerate(answers):
        if number in (1, 5):
            assert isinstance(answer, MeshReadError)
            assert answer.path == path
        else:
            points = read_network_cloud(model, path, seed=2)
            expected = model(points[None]).softmax(1)[0]
            assert isinstance(answer, torch.Tensor)
            torch.testing.assert_close(answer, expected, rtol=1e-4, atol=1e-5)
            assert not answer.requires_grad
    if batch_size == 32:
        assert sorted(sizes[:2]) == [(1, 11), (3, 40)]
    assert max(count for count, _ in sizes) <= batch_size


def test_a_file_gives_the_same_alone_and_among_others(model, files):
    together = dict(predict_files(model, files))
    (alone,) = (answer for _, answer in predict_files(model, files[2:3]))
    torch.testing.assert_close(together[files[2]], alone, rtol=1e-4, atol=1e-5)


def test_files_are_read_a_few_at_a_time(model, files, monkeypatch):
    """The first answers of a large folder come before its last file is read."""
    monkeypatch.setattr("sharedmlp.inference.predict._BATCH_SIZE", 2)
    read = []
    monkeypatch.setattr(
        "sharedmlp.inference.predict.read_cloud",
        lambda path, *args, **options: (read.append(path), read_cloud(path, *args, **options))[1],
    )
    next(predict_files(model, files))
    assert len(read) == 2


def test_gltf_is_y_up_whatever_is_said(model, tmp_path):
    trimesh = pytest.importorskip("trimesh", reason="needs the extra mesh")
    mesh = trimesh.creation.cone(1, 3)
    for suffix in ("glb", "obj"):
        mesh.export(tmp_path / f"cone.{suffix}")
    expected = read_network_cloud(model, tmp_path / "cone.obj", up_axis="y")
    for up_axis in (None, "y", "z"):
        found = read_network_cloud(model, tmp_path / "cone.glb", up_axis=up_axis)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    del model.metadata["up_axis"]
    as_it_is = read_network_cloud(model, tmp_path / "cone.glb")
    torch.testing.assert_close(as_it_is, read_network_cloud(model, tmp_path / "cone.obj"))


def test_features_are_those_of_the_training(tmp_path):
    colored = PointNet(3, 6, transforms=False)
    colored.metadata = {**METADATA, "features": ["colors"]}
    table = np.column_stack([np.random.default_rng(0).normal(size=(50, 3)), np.full((50, 3), 255)])
    np.savetxt(tmp_path / "a.txt", table, header="x y z r g b", comments="")
    assert (read_network_cloud(colored, tmp_path / "a.txt")[:, 3:] == 1).all()
    colored.metadata["features"] = ["normals"]
    with pytest.raises(MeshReadError, match="has no normals"):
        read_network_cloud(colored, tmp_path / "a.txt")
