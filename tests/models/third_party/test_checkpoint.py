"""Checkpoints of others as files: wrappers, safetensors, and objects that nobody unpickles."""

import os
import re
import sys
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sharedmlp.models import load_weights
from tests.models.third_party.formulas import random_tensors


class Touches:
    """Unpickling one makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def tensors():
    return random_tensors("antao97 of another width", torch.float32)


def check(source, tensors):
    """Loads, and finds a weight in its place."""
    model: Any = load_weights(source)
    assert torch.equal(model.global_pool.layers[2].linear.weight, tensors["conv5.weight"][..., 0])
    assert model.global_pool.layers[2].norm.num_batches_tracked == 3
    return model


@pytest.mark.parametrize(
    "wrap",
    [
        lambda t: t,
        lambda t: {"model_state_dict": t, "epoch": 3, "optimizer_state_dict": {"state": {}}},
        lambda t: {"state_dict": t},
        lambda t: {"model": t, "min_loss": 0.5},
        lambda t: {f"module.{k}": v for k, v in t.items()},
        lambda t: {"state_dict": {f"module.{k}": v for k, v in t.items()}},
    ],
    ids=["bare", "model_state_dict", "state_dict", "model", "module", "both"],
)
@pytest.mark.parametrize("where", ["dict", "zip", "old"])
def test_wrappers(wrap, where, tensors, tmp_path):
    source = wrap(tensors)
    if where != "dict":
        path = tmp_path / "weights.t7"
        torch.save(source, path, _use_new_zipfile_serialization=where == "zip")
        source = str(path)
    check(source, tensors)


def test_old_checkpoints_count_no_batches(tensors):
    old = {k: v for k, v in tensors.items() if not k.endswith("num_batches_tracked")}
    model: Any = load_weights(old)
    assert model.head.layers[0].norm.num_batches_tracked == 0
    assert torch.equal(model.head.layers[0].norm.running_var, tensors["bn6.running_var"])


def test_safetensors(tensors, tmp_path, monkeypatch):
    path = tmp_path / "weights.safetensors"
    save_file(tensors, path)
    check(path, tensors)
    path.write_bytes(b"no safetensors")
    with pytest.raises(ValueError, match=r"weights.safetensors cannot be read .*SafetensorError"):
        load_weights(path)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ImportError, match=r"pip install 'sharedmlp\[export\]'"):
        load_weights(path)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old"])
def test_numpy_scalars_are_named_and_the_conversion_works(zipped, tensors, tmp_path):
    """yanx27's training saves the accuracies as NumPy scalars."""
    path = tmp_path / "best_model.pth"
    checkpoint = {"instance_acc": np.float64(0.9), "model_state_dict": tensors}
    torch.save(checkpoint, path, _use_new_zipfile_serialization=zipped)
    check_conversion(path, r"numpy\.\w+\.multiarray\.scalar", tensors)


def test_whole_modules_are_named_and_the_conversion_works(tensors, tmp_path):
    path = tmp_path / "model.pt"
    module = torch.nn.Module()
    for key, value in tensors.items():
        parent = module
        *names, last = key.split(".")
        for name in names:
            if not hasattr(parent, name):
                parent.add_module(name, torch.nn.Module())
            parent = getattr(parent, name)
        parent.register_buffer(last, value)
    torch.save({"model": module}, path)
    check_conversion(path, r"torch\.nn\.modules\.module\.Module", tensors)


def check_conversion(path, wanted, tensors):
    with pytest.raises(ValueError, match=f"wants the object {wanted}, .*only tensors") as caught:
        load_weights(path)
    head, conversion = str(caught.value).split("\n\n", 1)
    assert "If you trust" in head
    exec(compile(conversion, "conversion", "exec"), {})
    saved = re.search(r"torch.save\(tensors, '(.*)'\)", conversion)
    assert saved is not None
    check(saved[1], tensors)


def test_nothing_but_tensors_is_unpickled(tensors, tmp_path):
    path, made = tmp_path / "model.pth", tmp_path / "made"
    torch.save({**tensors, "more": Touches(made)}, path)
    with pytest.raises(ValueError, match=r"wants the object (posix|nt)\.mkdir"):
        load_weights(path)
    assert not made.exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 cut off"])
def test_files_that_are_no_checkpoints(content, tmp_path):
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model.pth cannot be read as a checkpoint of tensors"):
        load_weights(path)
    with pytest.raises(FileNotFoundError):
        load_weights(tmp_path / "none.pth")


def test_something_else_in_the_file(tmp_path):
    torch.save([torch.zeros(3)], tmp_path / "list.pth")
    with pytest.raises(ValueError, match=r"a dict with one under .*, got a list: save model.state"):
        load_weights(tmp_path / "list.pth")
