"""What stays on its backend, with the reason in words; what is shared stays shared."""

import functools
import re
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from sharedmlp import SharedMLP
from sharedmlp.convert import convert_backend
from tests.convert.steps import compare_steps, types_of
from tests.tolerances import assert_close


class Scaled(nn.Linear):
    def forward(self, input):
        return 2 * super().forward(input)


class WithAdapter(nn.Linear):
    def __init__(self):
        super().__init__(3, 3)
        self.lora = nn.Linear(3, 3)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.Conv1d(3, 3, 3, padding=1), r"kernel \(3,\) sees more than one position"),
        (nn.Conv2d(3, 3, 1, stride=2), r"stride=\(2, 2\) skips positions"),
        (nn.Conv2d(3, 3, 1, padding=1), r"padding=\(1, 1\) adds positions"),
        (nn.Conv1d(3, 3, 1, groups=3), "groups=3 makes its matrix block diagonal"),
        (nn.Conv3d(3, 3, 1), r"nn\.Conv3d"),
        (Scaled(3, 3), "it is a Scaled, not a plain Linear"),
        (nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)), "ParametrizedLinear"),
        (nn.utils.parametrizations.spectral_norm(nn.Conv1d(3, 3, 1)), "ParametrizedConv1d"),
        (prune.l1_unstructured(nn.Linear(3, 3), "weight", 4), "weight_orig, weight_mask"),
    ],
    ids=str,
)
def test_what_cannot_be_replaced_is_reported(layer, reason):
    target = "conv2d" if isinstance(layer, (nn.Linear, nn.Conv1d)) else "conv1d"
    model = nn.ModuleDict({"other": nn.Linear(3, 4), "odd": layer})
    module: Any
    module, replaced, kept = convert_backend(model, target)
    assert replaced == ("other",)
    assert list(kept) == ["odd"]
    assert re.search(reason, kept["odd"])
    assert type(module["odd"]) is type(model["odd"]) or "Parametrized" in reason


def test_children_of_a_subclass_stay():
    _, replaced, kept = convert_backend(nn.ModuleList([WithAdapter()]), "conv1d")
    assert replaced == ()
    assert "not a plain Linear" in kept["0"]
    assert "its parent is a WithAdapter" in kept["0.lora"]


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_torchs_transformer_keeps_what_it_reads_itself(training):
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    model = nn.Sequential(nn.Linear(3, 8), nn.TransformerEncoder(layer, 2)).train(training)
    module, replaced, kept = convert_backend(model, "conv1d")
    assert replaced == ("0",)
    assert len(kept) == 6
    assert "TransformerEncoderLayer, which may read its weight" in kept["1.layers.0.linear1"]
    assert "NonDynamicallyQuantizableLinear" in kept["1.layers.1.self_attn.out_proj"]
    x = torch.randn(4, 5, 3)
    with torch.no_grad():  # the fast path of eval reads linear1.weight
        assert_close(module(x), model(x))


def test_a_tied_weight_stays_tied():
    model = nn.ModuleDict({"a": nn.Linear(3, 5), "b": nn.Linear(3, 5), "c": nn.Linear(5, 5)})
    model["b"].weight = model["a"].weight
    model["embedding"] = nn.Embedding(5, 5)
    model["c"].weight = model["embedding"].weight
    model["free"] = nn.Linear(5, 2)
    module: Any
    module, replaced, kept = convert_backend(model, "conv2d")
    assert replaced == ("free",)
    assert list(kept) == ["a", "b", "c"]
    assert all("weight is shared with another module" in reason for reason in kept.values())
    assert module["a"].weight is module["b"].weight


def test_one_module_under_two_names_is_one_module_afterwards():
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "mlp": SharedMLP([3, 4], norm="batch")})
    model["b"], model["same"] = model["a"], model["mlp"]
    module: Any
    module, replaced, kept = convert_backend(model, "conv2d")
    assert replaced == ("a", "mlp", "b", "same")
    assert kept == {}
    assert module["a"] is module["b"]
    assert module["mlp"] is module["same"]
    assert type(module["mlp"].layers[0].norm) is nn.BatchNorm2d
    x = torch.randn(2, 7, 3)
    assert_close(module["same"](module["b"](x)), model["same"](model["b"](x)))


def test_one_layer_twice_in_a_shared_mlp():
    model = SharedMLP([3, 3, 3]).double()
    model.layers[1] = model.layers[0]
    module: Any
    module, replaced, _ = convert_backend(model, "conv2d")
    assert replaced == ("",)
    assert module.layers[0] is module.layers[1]
    compare_steps(module, model, torch.randn(2, 7, 3, dtype=torch.float64))


def group_norm(mlp):
    mlp.layers[1].norm = nn.GroupNorm(1, 5)


def parametrised(mlp):
    nn.utils.parametrizations.weight_norm(mlp.layers[1].linear)


def own_layer(mlp):
    mlp.layers[1] = nn.Identity()


def softmax(mlp):
    mlp.layers[1].activation = nn.Softmax(-1)


def lower_rank(mlp):
    mlp.layers[1].linear = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 5))


def stateful(mlp):
    mlp.layers[1].linear.forward = functools.partial(nn.Linear.forward, mlp.layers[1].linear)


def channel_dropout(mlp):
    mlp.layers[1].dropout = nn.Dropout1d(0.0)


def tied(mlp):
    mlp.layers[1].linear.bias = mlp.layers[1].norm.bias


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (group_norm, r"layers\.1\.norm is a GroupNorm"),
        (parametrised, r"layers\.1\.linear: it is a ParametrizedLinear"),
        (own_layer, r"layers\.1 is a Identity, not a PointwiseLayer"),
        (softmax, r"layers\.1\.activation is a Softmax"),
        (lower_rank, r"layers\.1\.linear: it is a Sequential, not a plain Linear"),
        (stateful, r"layers\.1\.linear: its forward was replaced"),
        (channel_dropout, r"layers\.1\.dropout is a Dropout1d"),
        (tied, r"layers\.1\.linear: its bias is shared"),
    ],
)
def test_a_shared_mlp_with_contents_of_the_users_stays_as_a_whole(change, reason):
    model = nn.ModuleDict({"mlp": SharedMLP([3, 4, 5], bias=True), "after": nn.Linear(5, 2)})
    change(model["mlp"])
    types = types_of(model["mlp"])
    module: Any
    module, replaced, kept = convert_backend(model, "conv1d")
    assert replaced == ("after",)
    assert list(kept) == ["mlp"]
    assert re.search(reason, kept["mlp"])
    assert module["mlp"].backend == "linear"
    assert [name for name, _ in types_of(module["mlp"])] == [name for name, _ in types]
    x = torch.randn(2, 7, 3)
    assert_close(module["mlp"](x), model["mlp"](x))


def test_a_shared_mlp_with_groups():
    mlp = SharedMLP([3, 4, 6], backend="conv1d")
    mlp.layers[1].linear = nn.Conv1d(4, 6, 1, groups=2)
    assert "layers.1.linear: groups=2" in convert_backend(mlp, "linear").kept[""]


def test_a_part_of_a_shared_mlp_in_use_elsewhere():
    mlp: Any = SharedMLP([3, 4])
    model = nn.ModuleDict({"mlp": mlp, "same": mlp.layers[0].linear})
    _, replaced, kept = convert_backend(model, "conv1d")
    assert replaced == ()
    assert "layers.0 is shared with another module" in kept["mlp"]
    assert "part of a shared MLP" in kept["same"]
    model = nn.ModuleDict({"mlp": mlp, "same": mlp.layers})
    assert (
        "its list of layers is shared with another module"
        in convert_backend(model, "conv1d").kept["mlp"]
    )


def test_the_children_that_a_subclass_of_shared_mlp_adds():
    class Residual(SharedMLP):
        def __init__(self):
            super().__init__([3, 4])
            self.skip = nn.Linear(3, 4)

        def forward(self, x):
            return super().forward(x) + self.skip(x)

    model = Residual().eval()
    module, replaced, _ = convert_backend(model, "conv2d")
    assert replaced == ("", "skip")
    x = torch.randn(2, 7, 3)
    assert_close(module(x), model(x))
