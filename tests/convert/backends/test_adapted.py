"""A module that runs on one backend and is called as on another."""

import copy
import itertools
import pickle  # noqa: TID251 - what is tested is that users may pickle a layer
from typing import Any

import pytest
import torch
from torch import nn

from sharedmlp.convert import convert_backend
from tests.tolerances import assert_close

BACKENDS = ["linear", "conv1d", "conv2d"]
CLASSES = {"linear": nn.Linear, "conv1d": nn.Conv1d, "conv2d": nn.Conv2d}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Linear(3, 5), (3,)),
        (nn.Linear(3, 5), (7, 3)),
        (nn.Linear(3, 5), (2, 4, 6, 7, 3)),
        (nn.Conv1d(3, 5, 1), (3, 7)),
        (nn.Conv1d(3, 5, 1, bias=False), (2, 3, 7)),
        (nn.Conv1d(3, 5, 1), (1, 3, 7)),
        (nn.Conv2d(3, 5, 1), (3, 6, 7)),
        (nn.Conv2d(3, 5, 1), (2, 3, 6, 7)),
        (nn.Conv2d(3, 5, 1), (2, 3, 3, 3)),
    ],
    ids=str,
)
def test_every_shape_that_the_original_takes(module, shape, backend):
    module = copy.deepcopy(module).double()
    x = torch.randn(shape, dtype=torch.float64)
    weight = module.weight.flatten(1)
    channel_dim = -1
    if not isinstance(module, nn.Linear):
        channel_dim = -len(module.kernel_size) - 1
    expected = x.movedim(channel_dim, -1) @ weight.T
    expected = expected if module.bias is None else expected + module.bias
    y = convert_backend(module, backend).module(x)
    assert_close(y, expected.movedim(-1, channel_dim))
    assert y.is_contiguous()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("module", "shape", "out"),
    [
        (nn.Linear(3, 5), (2, 0, 3), (2, 0, 5)),
        (nn.Linear(3, 5), (0, 3), (0, 5)),
        (nn.Conv1d(3, 5, 1), (0, 3, 7), (0, 5, 7)),
        (nn.Conv2d(3, 5, 1), (0, 3, 6, 7), (0, 5, 6, 7)),
    ],
)
def test_empty_positions(module, shape, out, backend):
    converted: Any = convert_backend(module, backend).module
    x = torch.zeros(shape, requires_grad=True)
    y = converted(x)
    assert y.shape == out
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.shape == shape
    assert not any(parameter.grad.any() for parameter in converted.parameters())


@pytest.mark.parametrize(
    ("module", "backend", "shape", "message"),
    [
        (
            nn.Linear(3, 5),
            "conv1d",
            (2, 3, 7),
            r"expected \(\.\.\., 3\), as the linear .*\(2, 3, 7\)",
        ),
        (nn.Linear(3, 5), "conv2d", (), r"expected \(\.\.\., 3\).* got \(\)"),
        (nn.Conv1d(3, 5, 1), "linear", (2, 7, 3), r"expected \(B, 3, N\) or \(3, N\).*\(2, 7, 3\)"),
        (nn.Conv1d(3, 5, 1), "conv2d", (2, 3, 7, 1), r"expected \(B, 3, N\)"),
        (nn.Conv2d(3, 5, 1), "conv1d", (3, 7), r"expected \(B, 3, H, W\) or \(3, H, W\)"),
    ],
)
def test_inputs_of_another_layout(module, backend, shape, message):
    with pytest.raises(ValueError, match=message):
        convert_backend(module, backend).module(torch.zeros(shape))


@pytest.mark.parametrize("backend", ["conv1d", "conv2d"])
def test_widths_have_both_names(backend):
    linear: Any = convert_backend(nn.Linear(3, 5), backend).module
    conv: Any = convert_backend(nn.Conv2d(3, 5, 1), "linear").module
    for module in (linear, conv):
        assert (module.in_features, module.out_features) == (3, 5)
        assert (module.in_channels, module.out_channels) == (3, 5)
    assert "interface='linear'" in repr(linear)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_adapted_module_loads_every_backend_and_is_copied_and_pickled(backend):
    sources: list[Any] = [nn.Linear(3, 5), nn.Conv1d(3, 5, 1), nn.Conv2d(3, 5, 1)]
    interfaces = [source for source in sources if not isinstance(source, CLASSES[backend])]
    for interface, source in itertools.product(interfaces, sources):
        module: Any = convert_backend(interface, backend).module
        for twin in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
            twin.load_state_dict(source.state_dict())
            assert torch.equal(twin.weight.flatten(), source.weight.flatten())
    with pytest.raises(RuntimeError, match="size mismatch"):
        module.load_state_dict({"weight": torch.zeros(5, 3, 2), "bias": torch.zeros(5)})
