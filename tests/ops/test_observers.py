"""Whoever watches operations or modules sees the plain ones; tensors without numbers work."""

from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from sharedmlp import create_model, fuse
from tests.covering import pairwise
from tests.ops.compare import BACKENDS, LAYERS, SHAPE, is_fused, make, points, same

each_backend = pytest.mark.parametrize("backend", BACKENDS)
each_layer = pytest.mark.parametrize("kind", LAYERS)


class CountedOperations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


class CountedFunctions(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.names.append(getattr(func, "__name__", str(func)))
        return func(*args, **(kwargs or {}))


def step(module, training):
    y = module(points())
    if training:
        y.square().sum().backward()
    return y


@each_backend
@each_layer
def test_a_flop_counter_counts_everything(kind, backend, training):
    def use(module):
        with FlopCounterMode(display=False) as counter:
            y = step(module, training)
        assert counter.get_total_flops() > 0
        return y, counter.get_total_flops()

    same(use, kind, backend, training=training)


@pairwise(
    backend=BACKENDS,
    kind=LAYERS,
    mode=[CountedOperations, CountedFunctions],
    training=[True, False],
)
def test_modes_see_the_same_operations(kind, backend, mode, training):
    def use(module):
        with mode() as counted:
            y = step(module, training)
        # In a training mode the layers check their input first: no operation, but a function.
        names = [name for name in counted.names if "__get__" not in name and name != "dim"]
        assert any("linear" in name or "conv" in name or "mm" in name for name in names)
        return y, names if mode is CountedOperations else len(set(names)) > 0

    same(use, kind, backend, training=training)


@each_backend
@each_layer
def test_a_profiler_sees_the_same_operations(kind, backend, training):
    def use(module):
        with profile(activities=[ProfilerActivity.CPU], with_flops=True) as profiler:
            y = step(module, training)
        events = profiler.key_averages()
        return y, sum(event.flops for event in events), sorted(event.key for event in events)

    same(use, kind, backend, training=training)


@each_backend
@each_layer
def test_a_default_device_is_not_an_observer(kind, backend):
    module = make(kind, backend)
    with torch.device("cpu"):
        assert is_fused(module, points())
        module(points())


@each_backend
@each_layer
def test_fake_tensors(kind, backend, training):
    with FakeTensorMode() as mode:
        module = LAYERS[kind](backend=backend).train(training)
        fake = module(torch.empty(SHAPE))
    outside = module(mode.from_tensor(torch.empty(SHAPE)))
    want = LAYERS[kind](backend=backend).train(training)(torch.empty(SHAPE).normal_())
    assert fake.shape == outside.shape == want.shape


@pairwise(backend=BACKENDS, kind=LAYERS, fused=["auto", True], training=[True, False])
def test_the_meta_device(kind, backend, fused, training):
    with torch.device("meta"):
        built: Any = LAYERS[kind](backend=backend, fused=fused).train(training)
    moved = LAYERS[kind](backend=backend).to("meta").train(training)
    x = torch.empty(SHAPE, device="meta")
    shapes = {moved(x).shape}
    if fused == "auto":
        shapes.add(built(x).shape)
        assert built.to_empty(device="cpu").state_dict().keys() == moved.state_dict().keys()
    else:
        with pytest.raises(ValueError, match="meta device"):
            (built.pool if kind == "tnet" else built)(x)
    assert len(shapes) == 1


@each_backend
def test_models_and_fused_networks_on_the_meta_device(backend):
    with torch.device("meta"):
        model = create_model("pointnet", 5, backend=backend)
        assert model(torch.empty(4, 50, 3)).shape == (4, 5)
        network = fuse(nn.Sequential(nn.Conv1d(3, 9, 1), nn.ReLU(), nn.AdaptiveMaxPool1d(1)))
        assert network(torch.empty(4, 3, 50)).shape == (4, 9, 1)
    with FakeTensorMode():
        network = fuse(nn.Sequential(nn.Conv1d(3, 9, 1), nn.ReLU(), nn.AdaptiveMaxPool1d(1)))
        assert network(torch.empty(4, 3, 50)).shape == (4, 9, 1)


HOOKS = {
    "forward": lambda m, seen: m.register_forward_hook(lambda *_: seen.append(1)),
    "forward_pre": lambda m, seen: m.register_forward_pre_hook(lambda *_: seen.append(1)),
    "full_backward": lambda m, seen: m.register_full_backward_hook(lambda *_: seen.append(1)),
    "full_backward_pre": lambda m, seen: m.register_full_backward_pre_hook(
        lambda *_: seen.append(1)
    ),
    "global_forward": lambda m, seen: nn.modules.module.register_module_forward_hook(
        lambda module, *_: seen.append(1) if module is m else None
    ),
    "global_backward": lambda m, seen: nn.modules.module.register_module_full_backward_hook(
        lambda module, *_: seen.append(1) if module is m else None
    ),
    "forward on the object": lambda m, seen: _watch_forward(m, seen),
}


def _watch_forward(module, seen):
    forward = module.forward
    module.forward = lambda x: (seen.append(1), forward(x))[1]


@pairwise(
    hook=HOOKS,
    part=["", ".linear", ".norm", ".activation"],
    backend=BACKENDS,
    number=[0, 1],
    kind=["mlp", "pool"],
)
def test_hooks_of_every_kind_on_every_submodule(backend, hook, part, number, kind):
    counts = []

    def use(module):
        seen: list[Any] = []
        handle = HOOKS[hook](module.get_submodule(f"layers.{number}{part}"), seen)
        x = points(2, 5, 3).requires_grad_()
        y = module(x)
        y.sum().backward()
        if handle is not None:
            handle.remove()
        counts.append(len(seen))
        return y, x.grad

    same(use, kind, backend, training=True, plain=False)
    assert counts == [1, 1]
