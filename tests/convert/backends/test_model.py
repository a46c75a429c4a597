"""Anybody's model on another backend: the same outputs and gradients, and a word on what stays."""

import copy
import itertools
from typing import Any, cast

import pytest
import torch
from torch import nn

from sharedmlp import SharedMLP, SharedMLPMaxPool, create_model
from sharedmlp.convert import ConversionError, convert_backend
from sharedmlp.convert.backends.adapted import Adapted
from tests.convert.steps import compare_steps, same_state, snapshot, types_of, untouched
from tests.convert.third_party import ConvNet, ConvPointNet, MixerBlock
from tests.covering import pairwise
from tests.formula import randomize
from tests.tolerances import assert_close

BACKENDS = ["linear", "conv1d", "conv2d"]
CLASSES = {"linear": nn.Linear, "conv1d": nn.Conv1d, "conv2d": nn.Conv2d}
DTYPES = [torch.float64, torch.float32]


MODELS = {
    "pointnet": (ConvPointNet, (4, 3, 7), ["conv1", "conv2", "fc"]),
    "mixer": (MixerBlock, (4, 5, 6), ["tokens.0", "tokens.2", "channels.0", "channels.2"]),
    "convnet": (ConvNet, (4, 3, 5, 7), ["conv", "bottleneck", "last", "fc"]),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", MODELS)
def test_models_of_others_give_the_same(name, backend, training, dtype):
    make, shape, names = MODELS[name]
    original = make().to(dtype).train(training)
    randomize(original)
    before, types = snapshot(original), types_of(original)
    module, replaced, kept = convert_backend(original, backend)

    assert untouched(original, before, types)
    target = CLASSES[backend]
    assert set(replaced) | set(kept) == {
        n for n in names if not isinstance(original.get_submodule(n), target)
    }
    assert set(kept) <= {"conv"}
    assert all(isinstance(module.get_submodule(n), target) for n in replaced)
    assert all("kernel (3, 3)" in reason for reason in kept.values())
    assert [n for n, _ in module.named_modules()] == [n for n, _ in original.named_modules()]
    assert list(module.state_dict()) == list(original.state_dict())
    compare_steps(module, original, torch.randn(shape, dtype=dtype))


@pytest.mark.parametrize(("there", "further"), list(itertools.product(BACKENDS, BACKENDS)))
@pytest.mark.parametrize("name", MODELS)
def test_there_and_back_is_bit_identical(name, there, further):
    make, shape, _ = MODELS[name]
    original = make()
    module = convert_backend(convert_backend(original, there).module, further).module
    x = torch.randn(shape)
    assert_close(module.eval()(x), copy.deepcopy(original).eval()(x))
    # Each layer's own backend is where it is called without a move.
    for home in BACKENDS:
        back = convert_backend(module, home).module
        for path, layer in original.named_modules():
            if isinstance(layer, CLASSES[home]):
                assert type(back.get_submodule(path)) is type(layer), path
                assert same_state(back.get_submodule(path), layer)
                assert len(back.get_submodule(path)._load_state_dict_pre_hooks) <= 1


@pytest.mark.parametrize("source", BACKENDS)
@pytest.mark.parametrize("target", BACKENDS)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("norm", ["batch", "layer", "sync_batch", None])
@pytest.mark.parametrize("cls", [SharedMLP, SharedMLPMaxPool])
def test_a_shared_mlp_changes_as_a_whole(cls, norm, source, target, training):
    original = cls([3, 6, 9], backend=source, norm=norm, bias=True).double().train(training)
    randomize(original)
    result = convert_backend(original, target)
    module = result.module
    fresh = cls([3, 6, 9], backend=target, norm=norm, bias=True)

    assert original.backend == source
    assert (result.replaced, result.kept) == (("",) if source != target else (), {})
    assert types_of(module) == types_of(fresh)
    assert (module.backend, module._layout) == (target, fresh._layout)
    assert repr(module) == repr(fresh.train(training))
    compare_steps(module, original, torch.randn(4, 7, 3, dtype=torch.float64))
    back = convert_backend(module, source).module
    again = convert_backend(convert_backend(original, target).module, source).module
    assert types_of(back) == types_of(original)
    assert same_state(again, original)


@pairwise(source=BACKENDS, target=BACKENDS, training=[True, False])
def test_the_projects_own_pointnet(source, target, training):
    options: dict[str, Any] = {
        "local_channels": (6, 5),
        "global_channels": (6, 16),
        "head_channels": (8, 7),
    }
    original = create_model("pointnet", 4, backend=source, dropout=0.0, **options)
    original = original.double().train(training)
    module, replaced, kept = convert_backend(original, target)
    mlps = {name for name, m in module.named_modules() if isinstance(m, SharedMLP)}
    assert kept == {}
    assert set(replaced) <= mlps
    assert all(module.get_submodule(name).backend == target for name in mlps)
    x = torch.randn(3, 17, 3, dtype=torch.float64)
    compare_steps(module, original, x)
    fresh = create_model("pointnet", 4, backend=target, dropout=0.0, **options).double()
    fresh.load_state_dict(module.state_dict())
    module.load_state_dict(original.state_dict())
    assert_close(module.eval()(x), original.eval()(x))
    assert_close(fresh.eval()(x), original(x))


@pytest.mark.parametrize("inplace", [True, False])
def test_hooks_mode_gradients_and_dtype_are_kept(inplace):
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 4).eval()).double()
    model[0].weight.requires_grad_(False)
    shapes: list[Any] = []
    handle = model[0].register_forward_hook(lambda m, x, y: shapes.append((x[0].shape, y.shape)))
    model[0].register_forward_pre_hook(lambda m, x: (2 * x[0],))
    model[1].register_full_backward_hook(lambda m, x, y: shapes.append(cast(Any, x)[0].shape))
    x = torch.randn(2, 7, 3, dtype=torch.float64)
    expected = copy.deepcopy(model)(x).detach()
    shapes.clear()
    module: Any = convert_backend(model, "conv1d", inplace=inplace).module

    assert (module is model) == inplace
    y = module(x)
    y.sum().backward()
    assert_close(y.detach(), expected)
    assert shapes == [((2, 7, 3), (2, 7, 5)), (2, 7, 5)]  # as before: channels last
    assert [(m.training, m.weight.dtype) for m in module] == [
        (True, torch.float64),
        (False, torch.float64),
    ]
    assert module[0].weight.grad is None
    assert module[0].bias.grad is not None
    if inplace:
        handle.remove()
        module(x)
        assert len(shapes) == 2


class Recorder:
    def __init__(self):
        self.calls = 0

    def hook(self, *arguments):
        self.calls += 1


def test_methods_as_hooks_record_for_the_same_object():
    model, recorder = nn.Sequential(nn.Linear(3, 5), nn.ReLU()), Recorder()
    for module in (model, *model):
        module.register_forward_hook(recorder.hook)
    convert_backend(model, "conv1d").module(torch.zeros(2, 3))
    assert recorder.calls == 3


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_device_is_kept(backend):
    model = nn.Sequential(nn.Conv1d(3, 5, 1), SharedMLP([5, 6], channel_dim=1)).to("meta")
    module = convert_backend(model, backend).module
    assert {p.device.type for p in module.parameters()} == {"meta"}


def test_the_numbers_are_its_own():
    original = ConvPointNet()
    before, types = snapshot(original), types_of(original)
    module = convert_backend(original, "linear").module
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    assert untouched(original, before, types)


def test_no_random_number_is_drawn():
    state = torch.get_rng_state()
    model = create_model("pointnet", 4)
    after = torch.get_rng_state()
    assert not torch.equal(state, after)
    convert_backend(model, "conv2d")
    assert torch.equal(torch.get_rng_state(), after)


# In place.


def test_in_place_changes_the_module_itself():
    model: Any = create_model("pointnet", 4, head_channels=(8,)).eval()
    x = torch.randn(2, 17, 3)
    expected = model(x).detach()
    running_mean = model.local_mlp.layers[0].norm.running_mean
    module: Any
    module, replaced, kept = convert_backend(model, "conv2d", inplace=True)
    assert module is model
    assert (kept, "head" in replaced) == ({}, True)
    assert model.local_mlp.layers[0].norm.running_mean is running_mean
    assert type(model.local_mlp.layers[0].linear) is nn.Conv2d
    assert_close(model(x).detach(), expected)


def test_a_root_that_is_the_layer():
    linear = nn.Linear(3, 5)
    module, replaced, kept = convert_backend(linear, "conv1d")
    assert (replaced, kept) == (("",), {})
    assert isinstance(module, Adapted)
    assert isinstance(module, nn.Conv1d)
    with pytest.raises(ConversionError, match=r"Linear\(.* in place: take the one"):
        convert_backend(linear, "conv1d", inplace=True)
    assert convert_backend(linear, "linear", inplace=True) == (linear, (), {})


def test_never_half_done(monkeypatch):
    """Whatever fails while the new modules are made, fails before anything has changed."""
    model = nn.Sequential(SharedMLP([3, 4]), nn.Linear(4, 5), nn.Linear(5, 6))
    before, types = snapshot(model), types_of(model)
    calls = []

    def fail(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise MemoryError
        return nn.Identity()

    monkeypatch.setattr("sharedmlp.convert.backends.model.make_on_backend", fail)
    with pytest.raises(MemoryError):
        convert_backend(model, "conv2d", inplace=True)
    assert untouched(model, before, types)
    assert model[0].backend == "linear"


def test_an_unknown_backend():
    with pytest.raises(ValueError, match="unknown backend 'conv3d'"):
        convert_backend(nn.Linear(3, 5), "conv3d")
