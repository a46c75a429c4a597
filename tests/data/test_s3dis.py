"""S3DIS as published, written tiny."""

import numpy as np
import pytest

from sharedmlp.data import MeshTreeError, MissingDataError, prepare_s3dis
from sharedmlp.data.s3dis import S3DIS_CLASSES, read_room
from sharedmlp.train.datamodules.s3dis import S3DISDataModule


def write_room(root, name, classes, count=150):
    folder = root / name / "Annotations"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number, class_name in enumerate(classes):
        points = rng.random((count, 3)) * (1.8, 0.9, 1.0)
        colors = np.full((count, 3), S3DIS_CLASSES.index(class_name))
        np.savetxt(
            folder / f"{class_name}_{number}.txt", np.column_stack([points, colors]), fmt="%.4g"
        )
    return folder


def prepare(root, areas=(1,), **options):
    return prepare_s3dis(root, "train", areas, num_workers=0, progress=False, **options)


def test_rooms_are_cut_into_blocks_of_nine_channels(tmp_path):
    write_room(tmp_path, "Area_1/office_1", ["floor", "wall", "chair"])
    write_room(tmp_path, "Area_1/office_2", ["floor", "clutter"])  # lacks all the others
    store = prepare(tmp_path, pool_size=64)
    assert store.points.shape == (4, 64, 9)
    assert store.names[0] == "Area_1/office_1#0"
    assert np.array_equal((store.points[..., 3] * 255).round(), store.labels)
    assert np.abs(store.points[..., :2]).max() <= 0.5 + 1e-5
    assert store.points[..., 6:].min() >= 0
    assert store.points[..., 6:].max() <= 1
    assert set(np.unique(store.labels)) == {1, 2, 8, 12}


def test_a_control_character_between_two_numbers_is_a_blank(tmp_path):
    folder = write_room(tmp_path, "Area_5/hallway_6", ["ceiling"], count=1)
    (folder / "ceiling_0.txt").write_bytes(b"1 2 3 10 20 30\r\n4 5 6 185\x10187 40\r\n")
    points, labels = read_room(tmp_path / "Area_5/hallway_6")
    assert np.allclose(points[1], [4, 5, 6, 185 / 255, 187 / 255, 40 / 255])
    assert labels.tolist() == [0, 0]


def test_what_cannot_be_used_is_named(tmp_path):
    with pytest.raises(MissingDataError, match="Area_1 has no rooms; expected Area_1 to Area_6"):
        prepare(tmp_path)
    folder = write_room(tmp_path, "Area_1/office_1", ["floor"])
    (folder / "floor_0.txt").write_text("1 2 3\n")
    with pytest.raises(MeshTreeError, match=r"floor_0\.txt: expected x y z r g b, six finite"):
        prepare(tmp_path)
    (folder / "floor_0.txt").rename(folder / "lion_0.txt")
    with pytest.raises(MeshTreeError, match=r"lion_0\.txt: expected <class>_<n>"):
        prepare(tmp_path)


def test_one_area_is_tested_on_and_the_others_are_trained_on(tmp_path):
    for area in (1, 5):
        for room in ("a", "b"):
            write_room(tmp_path, f"Area_{area}/{room}", ["floor", "wall"])
    data = S3DISDataModule(str(tmp_path), 64, val_fraction=0.5, num_points=32)
    assert data.in_channels == 9
    assert data.class_names == list(S3DIS_CLASSES)
    data.setup("fit")
    names = data.datasets["train"].pool.names
    assert {name.split("/")[0] for name in names} == {"Area_1"}
    assert {names[i].split("#")[0] for i in data.datasets["val"].indices} < {"Area_1/a", "Area_1/b"}
    data.setup("test")
    assert {name.split("/")[0] for name in data.datasets["test"].pool.names} == {"Area_5"}
    assert S3DISDataModule(str(tmp_path), test_area=3).has_split("test") is False
