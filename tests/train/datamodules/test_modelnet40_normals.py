import pytest

from sharedmlp.__main__ import main
from sharedmlp.train import ModelNet40NormalsDataModule
from tests.data.test_modelnet40_normals import POINTS, write_set


@pytest.fixture
def root(tmp_path):
    return write_set(tmp_path / "set", train=8)


@pytest.mark.parametrize("normals", [False, True])
def test_it_trains_on_the_text(root, tmp_path, normals):
    data = ModelNet40NormalsDataModule(
        str(root), pool_size=POINTS, normals=normals, num_points=16, batch_size=4, val_fraction=0.2
    )
    channels = 6 if normals else 3
    assert (data.in_channels, data.class_names) == (channels, ["night_stand", "bathtub"])
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch["points"].shape == (4, 16, channels)
    assert data.preprocessing["scale"] == "unit sphere"
    data.setup("test")
    assert len(data.datasets["test"]) == 4


def test_the_part_that_is_modelnet10(root):
    data = ModelNet40NormalsDataModule(str(root), "modelnet10", pool_size=POINTS)
    assert data.class_names == ["bathtub"]
    assert len(data.open_split("train")) == 8


def test_what_was_prepared_is_what_training_opens(root, tmp_path, monkeypatch, capsys):
    main(["prepare", str(root), "--pool_size", str(POINTS), "--normals"])
    assert "train: 16 clouds in 2 classes\ntest: 4 clouds in 2 classes" in capsys.readouterr().out
    monkeypatch.setattr(
        "sharedmlp.data.modelnet40_normals.read_cloud_with_normals", None
    )  # nothing is read
    monkeypatch.chdir(tmp_path)
    settings = f"--data.root {root} --data.pool_size {POINTS} --data.normals=true"
    small = "--data.num_points=16 --data.batch_size=4 --data.val_fraction=0.2"
    run = "--model.model=pointnet_vanilla --trainer.accelerator=cpu --trainer.fast_dev_run=1"
    main(f"fit --data ModelNet40NormalsDataModule {settings} {small} {run}".split())


def test_a_missing_root_names_the_layout(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected the layout of modelnet40_normal_res"):
        _ = ModelNet40NormalsDataModule(str(tmp_path / "none")).class_names
