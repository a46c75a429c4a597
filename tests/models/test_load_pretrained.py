"""The same weights from a name, a checkpoint, a safetensors file and a folder."""

import json

import pytest
import torch

from sharedmlp import create_model
from sharedmlp.models import load_pretrained, save_safetensors
from sharedmlp.models.pretrained import weights_file
from tests.models.small import SMALL
from tests.tolerances import assert_close

METADATA = {"class_names": ["a", "b", "c"], "up_axis": "y"}


def make(name="pointnet_vanilla"):
    torch.manual_seed(0)
    model = create_model(name, 3, **SMALL[name])
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(6, 20, 3))  # running statistics
    model.metadata = dict(METADATA)
    return model.eval()


def save(model, path, name="pointnet_vanilla"):
    """Save a network as the suffix of the path says; without one as a folder."""
    if path.suffix == ".safetensors":
        save_safetensors(model, path)
    elif path.suffix == ".ckpt":
        options = dict(SMALL[name])
        checkpoint = {
            "hyper_parameters": {"model": name, "class_names": ["a", "b", "c"], "options": options},
            "state_dict": {f"model.{k}": v for k, v in model.state_dict().items()},
            "preprocessing": {"up_axis": "y"},
        }
        torch.save(checkpoint, path)
    else:
        model.save_pretrained(path)


FORMS = ("a.ckpt", "a.safetensors", "folder")


@pytest.mark.parametrize("name", ["pointnet_vanilla", "dgcnn", "pointnet2_ssg"])
def test_every_form_is_the_same_network_on_any_backend(tmp_path, name):
    model, points = make(name), torch.randn(2, 20, 3) / 2
    with torch.no_grad():
        expected = model(points)
        for form, backend in zip(FORMS, ("conv1d", "conv2d", "linear"), strict=True):
            save(model, tmp_path / form, name)
            other = load_pretrained(str(tmp_path / form), backend=backend)
            assert not other.training
            assert type(other) is type(model)
            assert other.options["backend"] == backend
            assert other.metadata == METADATA
            assert_close(other(points), expected, kind="fused")


def test_the_weights_of_the_package_have_names():
    points = torch.randn(2, 20, 3)
    expected = create_model("pointnet_vanilla", pretrained=True)(points)
    for name in ("modelnet40", "pointnet_vanilla_modelnet40"):
        assert torch.equal(load_pretrained(name)(points), expected)
        assert weights_file(name).name == "pointnet_vanilla_modelnet40.safetensors"


@pytest.mark.parametrize("form", FORMS)
def test_options_are_replaced_where_the_weights_allow(tmp_path, form):
    save(make(), tmp_path / form)
    assert load_pretrained(tmp_path / form, dropout=0.7).options["dropout"] == (0.7,)
    with pytest.raises(
        ValueError, match=r"with local_channels=\[8, 8\], and do not.*=\[8, 9\]: le"
    ):
        load_pretrained(tmp_path / form, local_channels=[8, 9], dropout=0.7)
    with pytest.raises(ValueError, match=r"no option 'local': its .*local_channels"):
        load_pretrained(tmp_path / form, local=[8, 8])
    with pytest.raises(ValueError, match=r"unknown backend|backend"):
        load_pretrained(tmp_path / form, backend="conv3d")


def test_what_does_not_decide_the_weights_is_free(tmp_path):
    save(make("dgcnn"), tmp_path / "a.safetensors")
    assert load_pretrained(tmp_path / "a.safetensors", k=3).options["k"] == 3


def test_other_files_are_errors_that_say_what_is_expected(tmp_path):
    with pytest.raises(ValueError, match="no weights 'modelnet10': expected pointnet_vanilla_mod"):
        load_pretrained("modelnet10")
    with pytest.raises(ValueError, match=r"no weights .*: expected .*save_pretrained"):
        load_pretrained(tmp_path)
    (tmp_path / "a.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="is no safetensors file"):
        load_pretrained(tmp_path / "a.safetensors")
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        load_pretrained(tmp_path / "a.txt")
    save(make(), tmp_path / "folder")
    (tmp_path / "folder" / "config.json").unlink()
    with pytest.raises(ValueError, match="is no folder of save_pretrained"):
        load_pretrained(tmp_path / "folder")


def test_a_file_does_not_decide_which_modules_are_imported(tmp_path):
    checkpoint = {
        "hyper_parameters": {"model": "antigravity.Net", "class_names": ["a"]},
        "state_dict": {},
    }
    torch.save(checkpoint, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"class path, antigravity\.Net.*--model\.model antigr"):
        load_pretrained(tmp_path / "a.ckpt")
    save(make(), tmp_path / "folder")
    config = json.loads((tmp_path / "folder" / "config.json").read_text())
    config["model"] = "antigravity.Net"
    (tmp_path / "folder" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"unknown model 'antigravity\.Net'"):
        load_pretrained(tmp_path / "folder")
