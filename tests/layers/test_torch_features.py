"""torch.compile and torch.export on every backend."""

import shutil

import pytest
import torch

from sharedmlp import SharedMLP, SharedMLPMaxPool, create_model
from tests.tolerances import assert_close

BACKENDS = ["linear", "conv1d", "conv2d"]


def gradients(module, x):
    module.zero_grad()
    y = module(x)
    y.square().sum().backward()
    return y.detach(), {name: p.grad.clone() for name, p in module.named_parameters()}


@pytest.mark.parametrize(
    "compiler",
    [
        "aot_eager",
        pytest.param(
            "inductor",
            marks=[
                pytest.mark.slow,
                pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler"),
            ],
        ),
    ],
)
@pytest.mark.parametrize(
    ("backend", "cls"), zip(BACKENDS, [SharedMLP, SharedMLPMaxPool, SharedMLPMaxPool], strict=True)
)
def test_compile_gives_the_same_training_step(backend, compiler, cls):
    torch._dynamo.reset()
    torch.manual_seed(0)
    module = cls([3, 6, 9], backend=backend).double()
    state = {name: value.clone() for name, value in module.state_dict().items()}
    x = torch.randn(4, 7, 3, dtype=torch.float64)
    expected, expected_gradients = gradients(module, x)
    expected_state = {name: value.clone() for name, value in module.state_dict().items()}

    module.load_state_dict(state)
    compiled = torch.compile(module, backend=compiler)
    y, compiled_gradients = gradients(compiled, x)

    assert_close(y, expected)
    for name, gradient in expected_gradients.items():
        assert_close(compiled_gradients[f"_orig_mod.{name}"], gradient, name=name)
    for name, value in expected_state.items():
        assert_close(module.state_dict()[name], value, name=name)


@pytest.mark.parametrize(
    "backend",
    ["conv2d", *(pytest.param(b, marks=pytest.mark.slow) for b in ["linear", "conv1d"])],
)
def test_export_with_a_dynamic_batch_and_number_of_points(backend):
    torch.manual_seed(0)
    model = create_model("pointnet", 5, backend=backend).eval()
    # Before torch 2.12 a convolution wants to know that its indices fit 32 bits.
    axes = {0: torch.export.Dim("batch", min=1), 1: torch.export.Dim("points", max=2**20)}
    program = torch.export.export(model, (torch.randn(4, 32, 3),), dynamic_shapes=(axes,))
    for shape in [(4, 32, 3), (3, 50, 3), (2, 17, 3)]:
        x = torch.randn(shape)
        assert_close(program.module()(x), model(x))
