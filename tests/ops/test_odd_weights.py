"""Weights that are computed, shared, frozen, quantized or wrapped."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from tests.covering import pairwise
from tests.ops.compare import BACKENDS, is_fused, make, points, same

each_backend = pytest.mark.parametrize("backend", BACKENDS)
each_kind = pytest.mark.parametrize("kind", ["mlp", "pool"])
each_number = pytest.mark.parametrize("number", [0, 1])


class Doubled(nn.Module):
    def forward(self, x):
        return 2 * x


class LoRA(nn.Module):
    """A frozen linear map and a trained one of low rank beside it."""

    def __init__(self, base):
        super().__init__()
        self.base = base.requires_grad_(False)
        torch.manual_seed(1)
        channels = base.weight.shape[:2]
        self.down = nn.Parameter(torch.randn(2, channels[1], dtype=base.weight.dtype))
        self.up = nn.Parameter(torch.randn(channels[0], 2, dtype=base.weight.dtype))

    def forward(self, x):
        weight = self.up @ self.down
        delta = weight.reshape(self.base.weight.shape)
        if isinstance(self.base, nn.Linear):
            return self.base(x) + nn.functional.linear(x, delta)
        run = nn.functional.conv1d if delta.ndim == 3 else nn.functional.conv2d
        return self.base(x) + run(x, delta)


class InheritedLoRA(nn.Linear):
    """The other common way: a subclass with a forward of its own."""

    def forward(self, x):
        return super().forward(x) * 1.5


def prune_all(linear):
    prune.l1_unstructured(linear, "weight", amount=0.5)
    if linear.bias is not None:
        prune.random_unstructured(linear, "bias", amount=0.5)


OLD = "ignore:.*norm.*:FutureWarning"
CHANGES = {
    "pruned": prune_all,
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "old weight_norm": nn.utils.weight_norm,
    "old spectral_norm": nn.utils.spectral_norm,
    "parametrized": lambda m: parametrize.register_parametrization(m, "weight", Doubled()),
    "frozen": lambda m: m.requires_grad_(False),
}


def step(module):
    x = points(2, 50, 3).requires_grad_()
    y = module(x)
    y.square().sum().backward()
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    return y, x.grad, gradients


@pytest.mark.filterwarnings(OLD, "ignore:.*weight_norm.*", "ignore:.*spectral_norm.*")
@pairwise(
    change=CHANGES,
    backend=BACKENDS,
    kind=["mlp", "pool"],
    number=[0, 1],
    training=[True, False],
)
def test_changed_linear_maps(kind, backend, number, change, training):
    def prepare(module):
        torch.manual_seed(2)  # spectral norm starts at a random vector
        CHANGES[change](module.layers[number].linear)

    same(step, kind, backend, training=training, prepare=prepare, plain=False)
    if not training:

        def evaluate(module):
            with torch.no_grad():
                return module(points(2, 50, 3))

        same(evaluate, kind, backend, prepare=prepare, plain=False)


@each_backend
@each_kind
@each_number
def test_a_low_rank_adapter(kind, backend, number, training):
    def prepare(module):
        module.layers[number].linear = LoRA(module.layers[number].linear)

    same(step, kind, backend, training=training, prepare=prepare, plain=False)


@each_kind
def test_a_subclass_of_linear_with_a_forward_of_its_own(kind, training):
    def prepare(module):
        module.layers[1].linear.__class__ = InheritedLoRA

    same(step, kind, "linear", training=training, prepare=prepare, plain=False)


@each_backend
@each_kind
@each_number
def test_a_wrapped_layer(kind, backend, number, training):
    def prepare(module):
        module.layers[number] = nn.Sequential(module.layers[number], nn.Identity())

    same(step, kind, backend, training=training, prepare=prepare, plain=False)


@each_backend
@each_kind
def test_frozen_batch_norm(kind, backend):
    """In evaluation, with gradients off, in a network that trains."""

    def prepare(module):
        for layer in module.layers:
            layer.norm.eval().requires_grad_(False)

    same(step, kind, backend, training=True, prepare=prepare, plain=False)

    def freeze_one(module):
        module.layers[0].norm.eval()

    same(step, kind, backend, training=True, prepare=freeze_one, plain=False)


@each_backend
@each_kind
def test_batch_norm_with_half_of_its_affine_map(kind, backend, training):
    def prepare(module):
        module.layers[1].norm.bias = None

    same(step, kind, backend, training=training, prepare=prepare, plain=False)


@each_backend
@each_kind
def test_tied_weights(kind, backend, training):
    def prepare(module):
        first, last = (layer.linear for layer in module.layers)
        last.weight = nn.Parameter(first.weight.detach().clone())
        last.weight = first.weight

    def build(backend):
        return same(
            step,
            "square " + kind,
            backend,
            training=training,
            prepare=prepare,
            plain=False,
        )

    from sharedmlp import SharedMLP, SharedMLPMaxPool
    from tests.ops.compare import LAYERS

    classes = {"mlp": SharedMLP, "pool": SharedMLPMaxPool}
    LAYERS["square " + kind] = lambda **options: classes[kind]([3, 3, 3], **options)
    try:
        build(backend)
    finally:
        del LAYERS["square " + kind]


@pytest.mark.filterwarnings("ignore:.*quantiz.*:DeprecationWarning", "ignore::UserWarning")
@each_kind
def test_quantize_dynamic(kind):
    quantize = pytest.importorskip("torch.ao.quantization").quantize_dynamic
    if not torch.backends.quantized.supported_engines[1:]:
        pytest.skip("this torch has no engine for quantized layers")

    def prepare(module):
        return quantize(module, {nn.Linear}, dtype=torch.qint8)

    def use(module):
        with torch.no_grad():
            return module(points(2, 50, 3, dtype=torch.float32))

    same(use, kind, "linear", prepare=prepare, dtype=torch.float32)


@each_backend
@each_kind
def test_another_dtype_is_the_error_that_torch_gives(kind, backend, training):
    messages = []
    for fused in ("auto", False):
        module = make(kind, backend, fused).train(training)
        with pytest.raises(RuntimeError) as error:
            module(points(2, 50, 3, dtype=torch.float32))
        messages.append(str(error.value))
    assert messages[0] == messages[1]


@each_backend
@each_kind
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_lower_precisions_take_the_modules(kind, backend, dtype):
    module = make(kind, backend, dtype=dtype).eval()
    x = points(2, 50, 3, dtype=torch.float32).to(dtype)
    assert not is_fused(module, x)
    assert module(x).dtype == dtype
