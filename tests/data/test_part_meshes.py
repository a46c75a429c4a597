"""Generated meshes with parts, and meshes with a file of the part of each face."""

import json

import numpy as np
import pytest
import trimesh

from sharedmlp.data import (
    DataError,
    MeshTreeError,
    MissingDataError,
    find_part_meshes,
    generated_part_classes,
    prepare_part_meshes,
    read_mesh,
    read_part_classes,
    write_shapes,
)
from sharedmlp.data.part_meshes import read_face_parts
from sharedmlp.data.shape_classes import PARTS


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    root = tmp_path_factory.mktemp("parts") / "shapes"
    return write_shapes(root, train_per_class=4, test_per_class=1, parts=True)


def prepare(root, split="train", **options):
    return prepare_part_meshes(root, split, num_workers=0, progress=False, **options)


def test_every_category_has_two_to_five_parts_that_are_classes_of_their_own():
    classes = generated_part_classes()
    assert len(classes.categories) >= 6
    assert all(2 <= len(parts) <= 5 for parts in classes.parts)
    assert len(set(classes.class_names)) == len(classes.class_names) == sum(map(len, classes.parts))
    assert [label for labels in classes.parts_of_category for label in labels] == list(
        range(len(classes.class_names))
    )
    assert "mug handle" in classes.class_names


def test_generated_meshes_are_sampled_with_the_parts_of_their_category(generated):
    classes = read_part_classes(generated)
    assert classes == generated_part_classes()
    store = prepare(generated, pool_size=500, normals=True)
    assert store.points.shape == (4 * len(PARTS), 500, 6)
    assert store.class_names == classes.class_names
    for name, category, labels in zip(store.names, store.categories, store.labels, strict=True):
        assert name.startswith(classes.categories[category] + "/train/")
        assert set(labels) <= set(classes.parts_of_category[category])
        assert len(set(labels)) >= 1
    assert set(np.unique(store.labels)) == set(range(len(classes.class_names)))


def test_the_meshes_are_those_without_parts(generated, tmp_path):
    plain = write_shapes(tmp_path / "plain", train_per_class=4, test_per_class=1)
    for path in find_part_meshes(generated, "test"):
        assert (plain / path.relative_to(generated)).read_bytes() == path.read_bytes()


def test_the_parts_of_a_face_are_where_they_belong(generated):
    """A table's top is its highest part, in every mesh with holes and finer parts as well."""
    for path in find_part_meshes(generated, "train"):
        if path.parts[-3] not in ("table", "stool"):
            continue
        mesh = read_mesh(path)
        parts = read_face_parts(path.with_suffix(".seg"), len(mesh.faces), 3)
        heights = mesh.triangles_center[:, 2]
        assert np.median(heights[parts == 0]) > np.median(heights[parts == 1])
        assert heights[parts == 0].min() > np.quantile(heights[parts == 1], 0.1)


def test_what_was_written_is_taken_again_and_nothing_else(generated):
    assert write_shapes(generated, train_per_class=4, test_per_class=1, parts=True) == generated
    with pytest.raises(FileExistsError, match="holds shapes made with"):
        write_shapes(generated, train_per_class=4, test_per_class=1)


@pytest.fixture
def boxes(tmp_path):
    """Two meshes: the lower half of a box is one part, the rest another."""
    (tmp_path / "parts.json").write_text(json.dumps({"box": ["low", "high"]}))
    folder = tmp_path / "box" / "train"
    folder.mkdir(parents=True)
    for name in ("a", "b"):
        mesh = trimesh.creation.box().subdivide()
        mesh.export(folder / f"{name}.off")
        parts = (mesh.triangles_center[:, 2] > 0).astype(int)
        (folder / f"{name}.seg").write_text("\n".join(map(str, parts)))
    return tmp_path


def test_a_point_has_the_part_of_its_face(boxes):
    store = prepare(boxes, pool_size=300)
    heights = store.points[..., 2]
    clear = np.abs(heights) > 0.15  # the mean of the samples is not quite that of the box
    assert np.array_equal(store.labels[clear], (heights > 0)[clear])
    assert store.class_names == ("box low", "box high")


def test_a_changed_part_means_another_cache(boxes):
    before = prepare(boxes, pool_size=50).labels.copy()
    path = boxes / "box" / "train" / "a.seg"
    path.write_text("\n".join("0" * 48) + "\n")
    after = prepare(boxes, pool_size=50).labels
    assert before[0].any()
    assert not after[0].any()
    assert np.array_equal(before[1], after[1])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("0\n" * 47, "has 47 lines for a mesh of 48 faces"),
        (
            "2\n" * 48,
            "expected parts from 0 to 1, as parts.json has 2 of this category, got 2 to 2",
        ),
        ("low\n" * 48, "expected one number a line"),
        (None, "cannot be opened .*: expected the part of each face"),
    ],
)
def test_parts_that_do_not_fit_are_named(boxes, content, reason):
    path = boxes / "box" / "train" / "a.seg"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(MeshTreeError, match=f"a.seg: {reason}"):
        prepare(boxes, pool_size=50, strict=True)


def test_what_is_missing_is_said(boxes):
    with pytest.raises(MissingDataError, match="has no meshes for the val split; expected parts"):
        prepare(boxes, "val")
    (boxes / "parts.json").write_text('{"box": "low"}')
    with pytest.raises(DataError, match="has no list of names for each category"):
        prepare(boxes)
    (boxes / "parts.json").write_text("box")
    with pytest.raises(DataError, match="is no JSON"):
        prepare(boxes)
    (boxes / "parts.json").unlink()
    with pytest.raises(MissingDataError, match=r"parts\.json is missing"):
        prepare(boxes)
