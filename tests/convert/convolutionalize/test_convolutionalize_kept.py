"""What the converted network keeps of its model, and what it leaves out."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

from sharedmlp.convert import convolutionalize
from tests.convert.checks import MODES
from tests.convert.networks import (
    Classifier,
    FunctionalHead,
    images,
    lenet5,
    lenet5_features,
    norm_head,
    prepared,
)
from tests.tolerances import assert_close


@pytest.mark.parametrize("mode", MODES)
def test_training_takes_the_same_step(mode):
    torch.manual_seed(0)
    model = prepared(Classifier(lenet5_features(), nn.Flatten(), norm_head())).train()
    network = convolutionalize(model, (1, 32, 32), mode)
    assert network.training
    x, direction = images(4, 1, 32, 32), images(4, 10)
    (model(x) * direction).sum().backward()
    (network(x).flatten(1) * direction).sum().backward()
    expected: dict[str, Any] = dict(model.named_parameters())
    scale = max(p.grad.abs().max().item() for p in expected.values())
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None
        gradient = parameter.grad.reshape(expected[name].shape)
        assert_close(gradient, expected[name].grad, kind="gradient", scale=scale, name=name)
    buffers = dict(model.named_buffers())
    for name, buffer in network.named_buffers():
        assert_close(buffer, buffers[name], name=name)


def test_dropout_functions_follow_the_mode():
    model = prepared(Classifier(lenet5_features(), nn.Flatten(), FunctionalHead(nn.Identity())))
    x = images(2, 1, 32, 32)
    network = convolutionalize(model.train(), (1, 32, 32))
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))
    assert_close(network(x), model.eval()(x)[..., None, None])


class Dropouts(nn.Module):
    """One that a mode switches, in place, and one that is never off."""

    def __init__(self, always):
        super().__init__()
        self.always = always
        self.dropout = nn.Linear(1000, 1000, bias=False)  # the name that functions get too
        nn.init.eye_(self.dropout.weight)

    def forward(self, x):
        x = x.flatten(1) + 0
        F.dropout(x, 0.8, self.training, True)
        x = self.dropout(x)
        return F.dropout(x, 0.8) if self.always else x


def test_dropout_functions_keep_their_arguments():
    x = torch.ones(1, 1000, 1, 1)
    network = convolutionalize(Dropouts(always=False).train(), (1000, 1, 1))
    assert 100 < network(x).count_nonzero() < 300
    assert torch.equal(network.eval()(x), x)
    network = convolutionalize(Dropouts(always=True), (1000, 1, 1))
    assert 100 < network.eval()(x).count_nonzero() < 300


def test_the_model_is_left_alone():
    model: Any = Classifier(lenet5_features(), nn.Flatten(), norm_head()).train()
    model.features[0].eval()
    model.head[0].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    network = convolutionalize(model, (1, 32, 32))
    modes = {name: module.training for name, module in model.named_modules()}
    assert {name: network.get_submodule(name).training for name in modes} == modes
    assert not modes["features.0"]
    assert modes["head"]
    for name, parameter in network.named_parameters():
        assert parameter.requires_grad == (name != "head.0.weight")
        assert torch.equal(parameter.flatten(), before[name].flatten())
    with torch.no_grad():
        for tensor in [*network.parameters(), *network.buffers()]:
            tensor.zero_()
    assert isinstance(model.head[0], nn.Linear)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


class Recorder:
    def __init__(self):
        self.shapes = []

    def hook(self, module, inputs, output):
        self.shapes.append(tuple(output.shape))


def test_hooks_of_whole_modules_go_on_and_others_are_listed():
    model: Any = lenet5()
    kept, lost = Recorder(), Recorder()
    for module in (model.features[0], model.flatten, model.head[0]):
        module.register_forward_hook(kept.hook)
    model.head.register_forward_hook(lost.hook)
    model.register_forward_pre_hook(lambda module, inputs: None)
    with pytest.warns(UserWarning, match="hooks .* taken apart: the model itself, head") as caught:
        network = convolutionalize(model, (1, 32, 32))
    assert caught[0].filename == __file__
    assert kept.shapes == lost.shapes == []  # nothing ran that the caller could hear of
    network(torch.zeros(1, 1, 36, 32))
    assert kept.shapes == [(1, 6, 32, 28), (1, 16, 6, 5), (1, 120, 2, 1)]
    assert lost.shapes == []
    model(torch.zeros(1, 1, 32, 32))
    assert lost.shapes == [(1, 10)]


def test_hooks_of_a_model_that_is_one_layer_of_torchs():
    model = nn.Conv2d(1, 2, 3)
    model.register_forward_hook(lambda *_: pytest.fail("called"))
    with pytest.warns(UserWarning, match="taken apart: the model itself"):
        convolutionalize(model, (1, 8, 8))


def test_pruned_features():
    model: Any = prepared(lenet5())
    prune.l1_unstructured(model.features[3], "weight", 100)  # a weight that is no leaf
    network = convolutionalize(model, (1, 32, 32))
    x = images(2, 1, 32, 32)
    assert_close(network(x), model(x)[..., None, None])
    pruned: Any = network.get_submodule("features.3")
    pruned(images(2, 6, 14, 14)).sum().backward()
    assert (pruned.weight_orig.grad == 0).sum() >= 100
    assert model.features[3].weight_orig.grad is None


def test_the_device_is_kept():
    network = convolutionalize(lenet5().to("meta"), (1, 32, 32), "flatten")
    assert {p.device.type for p in network.parameters()} == {"meta"}
    assert network(torch.zeros(1, 1, 36, 32, device="meta")).shape == (1, 10, 2, 1)


def test_parameters_that_are_not_used_are_listed():
    model = lenet5()
    model.auxiliary = nn.Linear(3, 2, bias=False)
    model.register_buffer("calls", torch.zeros(()))
    with pytest.warns(UserWarning, match=r"never uses: \['auxiliary.weight', 'calls'\]"):
        network = convolutionalize(model, (1, 32, 32))
    assert "auxiliary.weight" not in network.state_dict()
