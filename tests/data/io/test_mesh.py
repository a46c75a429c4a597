import sys
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import trimesh

from sharedmlp.data import MeshReadError, read_mesh

from .meshes import write

VERTICES = "0 0 0\n1 0 0\n0 1 0\n0 0 1\n"
FACES = "3 0 2 1\n3 0 1 3\n3 1 2 3\n3 0 3 2\n"


@pytest.mark.parametrize("suffix", ["OFF", "ply", "stl", "obj", "glb"])
def test_other_formats_hold_the_same_mesh(suffix, tmp_path):
    box = trimesh.creation.box(extents=(1, 2, 3))
    path = tmp_path / f"mesh.{suffix}"
    box.export(path, file_type=suffix.lower())
    mesh = read_mesh(path)
    assert len(mesh.faces) == 12
    assert mesh.area == pytest.approx(22)


def test_a_scene_becomes_one_mesh(tmp_path):
    first, second = trimesh.creation.box(), trimesh.creation.box()
    scene = trimesh.Scene(first)
    scene.add_geometry(second, transform=trimesh.transformations.translation_matrix([5, 0, 0]))
    scene.export(tmp_path / "scene.glb")
    mesh = read_mesh(tmp_path / "scene.glb")
    assert len(mesh.faces) == 24
    np.testing.assert_allclose(mesh.bounds, [[-0.5, -0.5, -0.5], [5.5, 0.5, 0.5]])


def ply(vertices: str, faces: str) -> str:
    return (
        f"ply\nformat ascii 1.0\nelement vertex {vertices.count(chr(10))}\n"
        "property float x\nproperty float y\nproperty float z\n"
        f"element face {faces.count(chr(10))}\nproperty list uchar int vertex_indices\n"
        f"end_header\n{vertices}{faces}"
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("nan.ply", ply(VERTICES.replace("1 0 0", "nan 0 0"), FACES), "vertex 1 (of 4, from 0)"),
        ("range.ply", ply(VERTICES, FACES.replace("3 1 2 3", "3 1 2 4")), "refers to vertex 4"),
        (
            "negative.ply",
            ply(VERTICES, FACES.replace("3 1 2 3", "3 1 2 -1")),
            "refers to vertex -1",
        ),
        (
            "cut.ply",
            ply(VERTICES, FACES)[:-8],
            "promises 4 records of 'face', but the file ends after 3",
        ),
        ("flat.ply", ply("0 0 0\n1 1 1\n2 2 2\n", "3 0 1 2\n"), "no area"),
        ("cloud.ply", ply(VERTICES, ""), "a point cloud: 4 points and no faces"),
        ("cloud.xyz", VERTICES, "no faces"),
        ("nan.obj", "v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "line 1: not a finite number"),
        ("empty.ply", "", "the file is empty"),
        ("empty.stl", "", "the file is empty"),
        ("binary.obj", bytes(range(256)), "byte 0 is NUL: the file is binary"),
        ("cut.glb", b"glTF\2\0\0\0", "it has 8 bytes: the file is cut short"),
        ("mesh.docx", "hello", "cannot be read: expected one of"),
    ],
)
def test_other_formats_that_have_to_be_refused(name, content, message, tmp_path):
    path = write(tmp_path / name, content)
    with pytest.raises(MeshReadError) as caught:
        read_mesh(path)
    assert message in caught.value.reason
    assert caught.value.path == path


def test_files_that_cannot_be_opened(tmp_path):
    for path in (tmp_path / "missing.off", tmp_path / "missing.ply", tmp_path):
        with pytest.raises(MeshReadError) as caught:
            read_mesh(path)
        assert caught.value.path == path


def test_the_error_survives_the_way_between_processes():
    error = ForkingPickler.loads(ForkingPickler.dumps(MeshReadError("a.off", "line 3: bad")))
    assert (str(error), error.reason) == ("a.off: line 3: bad", "line 3: bad")


def test_without_trimesh_the_error_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "trimesh", None)
    with pytest.raises(ImportError, match=r"pip install 'sharedmlp\[train\]'"):
        read_mesh(tmp_path / "mesh.off")
