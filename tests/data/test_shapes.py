from functools import partial
from typing import Any, Literal

import numpy as np
import pytest

from sharedmlp.data import (
    SHAPE_CLASSES,
    MeshReadError,
    prepare_mesh_tree,
    read_mesh,
    shapes,
    write_shapes,
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes") / "new" / "root"
    return write_shapes(root, train_per_class=4, test_per_class=2)


def contents(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.off")}


def test_every_mesh_can_be_read(tree):
    assert len(SHAPE_CLASSES) >= 10
    splits: list[tuple[Literal["train", "test"], int]] = [("train", 4), ("test", 2)]
    for split, count in splits:
        pool = prepare_mesh_tree(
            tree, split, pool_size=64, num_workers=0, progress=False, strict=True
        )
        assert pool.class_names == SHAPE_CLASSES
        assert np.bincount(pool.labels).tolist() == [count] * len(SHAPE_CLASSES)


def test_meshes_differ_within_a_class_and_between_the_splits(tree):
    files = contents(tree)
    assert len(set(files.values())) == len(files) == 6 * len(SHAPE_CLASSES)
    for name in SHAPE_CLASSES:
        faces = {len(read_mesh(path).faces) for path in (tree / name).rglob("*.off")}
        assert len(faces) > 1


def test_z_is_up(tree):
    # Tables stand: the top is high above the feet, and holds most of the points.
    for path in (tree / "table").rglob("*.off"):
        z = read_mesh(path).triangles_center[:, 2]
        weights = read_mesh(path).area_faces
        assert np.average(z, weights=weights) > (z.min() + z.max()) / 2


def test_the_seed_and_the_name_decide(tree, tmp_path):
    same = write_shapes(tmp_path / "same", train_per_class=4, test_per_class=2)
    assert contents(same) == contents(tree)
    other = write_shapes(tmp_path / "other", train_per_class=4, test_per_class=2, seed=1)
    assert not set(contents(other).values()) & set(contents(tree).values())
    fewer = contents(write_shapes(tmp_path / "fewer", train_per_class=2, test_per_class=1))
    train = {name: text for name, text in fewer.items() if "/train/" in name}
    assert train.items() < contents(tree).items()


def test_a_second_call_does_nothing(tree, monkeypatch):
    monkeypatch.setattr(shapes, "_make_shape", lambda *args: pytest.fail("a mesh was made"))
    assert write_shapes(tree, train_per_class=4, test_per_class=2) == tree


def test_what_is_there_is_never_overwritten(tmp_path):
    root = write_shapes(tmp_path / "shapes", train_per_class=1, test_per_class=1)
    before = contents(root)
    with pytest.raises(FileExistsError, match="delete it or choose another folder"):
        write_shapes(root, train_per_class=2, test_per_class=1)
    with pytest.raises(FileExistsError, match="'seed': 0"):
        write_shapes(root, train_per_class=1, test_per_class=1, seed=1)
    assert contents(root) == before
    next((root / "mug" / "test").iterdir()).unlink()
    with pytest.raises(FileExistsError, match="holds 0 meshes where 1 were written"):
        write_shapes(root, train_per_class=1, test_per_class=1)
    with pytest.raises(FileExistsError, match="holds no generated shapes"):
        write_shapes(tmp_path, train_per_class=1, test_per_class=1)


def test_an_empty_folder_is_taken(tmp_path):
    write_shapes(tmp_path, train_per_class=1, test_per_class=1)
    assert len(contents(tmp_path)) == 2 * len(SHAPE_CLASSES)


def test_an_interrupted_call_leaves_nothing(tmp_path, monkeypatch):
    made: list[Any] = []

    def interrupt(*args):
        if len(made) == 5:
            raise KeyboardInterrupt
        made.append(args)
        return original(*args)

    original = shapes._make_shape
    monkeypatch.setattr(shapes, "_make_shape", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_shapes(tmp_path / "shapes", train_per_class=1, test_per_class=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seed", [0, 1])
def test_the_loser_of_a_race_takes_only_the_same_shapes(tmp_path, monkeypatch, seed):
    root, write = tmp_path / "shapes", partial(write_shapes, train_per_class=1, test_per_class=1)

    def overtaken(*args):
        monkeypatch.setattr(shapes, "_make_shape", original)
        if not root.exists():
            write(root, seed=seed)
        return original(*args)

    original = shapes._make_shape
    monkeypatch.setattr(shapes, "_make_shape", overtaken)
    if seed == 0:
        assert write(root) == root
    else:
        with pytest.raises(FileExistsError, match="'seed': 1"):
            write(root)
    assert list(tmp_path.iterdir()) == [root]


def test_no_meshes_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="test_per_class=0"):
        write_shapes(tmp_path / "shapes", test_per_class=0)


@pytest.mark.parametrize("name", SHAPE_CLASSES)
def test_every_draw_of_a_class_is_a_mesh(name, tmp_path):
    for number in range(15):
        path = tmp_path / f"{number}.off"
        shapes._make_shape(name, 0, f"draw {number}")[0].export(path, digits=6)
        try:
            mesh = read_mesh(path)
        except MeshReadError as error:
            pytest.fail(str(error))
        assert 20 < len(mesh.faces) < 20000
