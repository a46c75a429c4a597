"""Statement 1: a linear layer at every position is a convolution with kernel 1; statement 6."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from sharedmlp import SharedMLP
from sharedmlp.convert import (
    ConversionError,
    conv_to_fc,
    conv_to_linear,
    fc_to_conv,
    linear_to_conv1d,
    linear_to_conv2d,
)
from tests.tolerances import assert_close

DTYPES = [torch.float64, torch.float32]
# To a convolution, and the axes of its input: batch, positions, channels -> channels first.
TO_CONV: dict[str, tuple[Any, Any, tuple[int, ...]]] = {
    "conv1d": (linear_to_conv1d, nn.Conv1d, (2, 7, 3)),
    "conv2d": (linear_to_conv2d, nn.Conv2d, (2, 4, 7, 3)),
}


def num_parameters(module):
    return sum(p.numel() for p in module.parameters())


def identical(module, other):
    return module.state_dict().keys() == other.state_dict().keys() and all(
        torch.equal(value, other.state_dict()[name]) for name, value in module.state_dict().items()
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", TO_CONV)
def test_a_linear_layer_at_every_position_is_a_convolution(kind, bias, dtype):
    convert, cls, shape = TO_CONV[kind]
    linear = nn.Linear(3, 5, bias=bias, dtype=dtype)
    conv = convert(linear)
    x: Any = torch.randn(shape, dtype=dtype, requires_grad=True)
    plain_x = x.detach().clone().requires_grad_()
    weight: Any = linear.weight.detach().clone().requires_grad_()
    expected = plain_x @ weight.T
    if bias:
        expected = expected + linear.bias.detach()

    y = conv(x.movedim(-1, 1)).movedim(1, -1)

    assert type(conv) is cls
    assert_close(y.detach(), expected.detach())
    direction = torch.randn(y.shape, dtype=dtype)
    (y * direction).sum().backward()
    (expected * direction).sum().backward()
    assert_close(x.grad, plain_x.grad)
    assert_close(conv.weight.grad.flatten(1), weight.grad, kind="gradient")
    assert linear.weight.grad is None


@pytest.mark.parametrize("kind", TO_CONV)
def test_the_worked_example(kind):
    """W = [[0, 1, 1], [2, 3, 5]], b = [8, 13], ReLU: 3 inputs, 2 outputs, 8 parameters."""
    linear = nn.Linear(3, 2).double()
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[0, 1, 1], [2, 3, 5]]))
        linear.bias.copy_(torch.tensor([8, 13]))
    convert, _, shape = TO_CONV[kind]
    conv = convert(linear)

    assert conv.weight.numel() == 6
    assert num_parameters(conv) == num_parameters(linear) == 8
    kernels = [kernel.flatten().tolist() for kernel in conv.weight]
    assert kernels == [[0, 1, 1], [2, 3, 5]]
    assert all(kernel.shape == (3, *[1] * (len(shape) - 2)) for kernel in conv.weight)

    x = torch.randint(-9, 9, shape).double()
    a, b, c = x.unbind(-1)
    # A weighted sum of the input maps.
    expected = torch.stack([b + c + 8, 2 * a + 3 * b + 5 * c + 13], dim=1).clamp(min=0)
    assert torch.equal(conv(x.movedim(-1, 1)).relu(), expected)
    assert (expected == 0).any()
    assert torch.equal(linear(x).relu().movedim(-1, 1), expected)
    for backend in ["linear", "conv1d", "conv2d"]:
        mlp = SharedMLP([3, 2], backend=backend, norm=None).double()
        mlp.load_state_dict({f"layers.0.linear.{k}": v for k, v in linear.state_dict().items()})
        assert torch.equal(mlp(x).movedim(-1, 1), expected)
        assert num_parameters(mlp) == 8


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", TO_CONV)
def test_round_trips_are_bit_identical(kind, bias):
    convert, cls, _ = TO_CONV[kind]
    linear = nn.Linear(3, 5, bias=bias)
    assert type(conv_to_linear(convert(linear))) is nn.Linear
    assert identical(conv_to_linear(convert(linear)), linear)
    conv = cls(3, 5, 1, bias=bias)
    assert identical(convert(conv_to_linear(conv)), conv)


def test_conv3d_to_linear():
    conv: Any = nn.Conv3d(3, 5, 1).double()
    x = torch.randn(2, 4, 6, 7, 3, dtype=torch.float64)
    assert_close(conv_to_linear(conv)(x), x @ conv.weight.reshape(5, 3).T + conv.bias)
    same = nn.Conv2d(3, 5, 1, padding="same", dilation=2).double()  # all of which change nothing
    assert_close(conv_to_linear(same)(x[0]), same(x[0].movedim(-1, 1)).movedim(1, -1))


@pytest.mark.parametrize(
    ("conv", "message"),
    [
        (nn.Conv2d(4, 6, 3), r"kernel \(3, 3\) sees more than one position; conv_to_fc"),
        (nn.Conv2d(4, 6, (1, 3)), r"kernel \(1, 3\)"),
        (nn.Conv1d(4, 6, 1, groups=2), "groups=2 makes its matrix block diagonal"),
        (nn.Conv1d(4, 6, 1, stride=2), r"stride=\(2,\) skips positions"),
        (nn.Conv2d(4, 6, 1, padding=1), r"padding=\(1, 1\) adds positions.*bias alone"),
        (nn.Conv3d(4, 6, 1, padding=(0, 0, 1)), r"padding=\(0, 0, 1\)"),
        (nn.ConvTranspose1d(4, 6, 1), "it is a ConvTranspose1d, not a plain Conv1d"),
    ],
)
def test_other_convolutions_are_refused_with_the_reason(conv, message):
    with pytest.raises(ConversionError, match=message):
        conv_to_linear(conv)


class Doubled(nn.Linear):
    def forward(self, input):
        return 2 * super().forward(input)


def replaced_forward():
    linear = nn.Linear(3, 5)
    linear.forward = lambda x: 2 * x  # type: ignore[method-assign, assignment]
    return linear


class Named(nn.Parameter):
    pass


def own_parameter():
    linear = nn.Linear(3, 5)
    linear.bias = Named(linear.bias.data)
    return linear


def own_child():
    linear = nn.Linear(3, 5)
    linear.lora = nn.Linear(3, 5)
    return linear


def no_parameter():
    linear = nn.Linear(3, 5)
    del linear.weight
    linear.weight = torch.zeros(5, 3)
    return linear


@pytest.mark.parametrize(
    ("linear", "message"),
    [
        (Doubled(3, 5), "it is a Doubled, not a plain Linear"),
        (replaced_forward(), "its forward was replaced"),
        (nn.utils.parametrizations.weight_norm(nn.Linear(3, 5)), "ParametrizedLinear"),
        (prune.l1_unstructured(nn.Linear(3, 5), "weight", 4), "weight_orig, weight_mask"),
        (nn.LazyLinear(5), "LazyLinear"),
        (own_parameter(), "parameters are of type Named, not plain"),
        (own_child(), "computed from lora"),
        (no_parameter(), "computed from elsewhere"),
    ],
)
def test_what_is_more_than_a_weight_and_a_bias_is_refused(linear, message):
    for convert in (linear_to_conv1d, linear_to_conv2d, lambda x: fc_to_conv(x, 3, 1)):
        with pytest.raises(ConversionError, match=message):
            convert(linear)


@pytest.mark.parametrize("kind", TO_CONV)
def test_what_is_kept(kind):
    convert, _, shape = TO_CONV[kind]
    linear = nn.Linear(3, 5, dtype=torch.float64).eval()
    linear.weight.requires_grad_(False)
    calls = []
    handle = linear.register_forward_hook(lambda *_: calls.append("forward"))
    linear.register_load_state_dict_pre_hook(lambda m, *_: calls.append(m))
    state = torch.get_rng_state()
    conv = convert(linear)

    assert torch.equal(torch.get_rng_state(), state)
    assert not conv.training
    assert conv.weight.dtype == torch.float64
    assert (conv.weight.requires_grad, conv.bias.requires_grad) == (False, True)
    assert list(conv.state_dict()) == ["weight", "bias"]
    assert conv.weight.is_contiguous()
    conv(torch.randn(shape, dtype=torch.float64).movedim(-1, 1))
    assert calls == ["forward"]
    conv.load_state_dict(linear.state_dict())  # the checkpoint of the linear layer
    assert calls == ["forward", conv]
    handle.remove()
    conv(torch.randn(shape, dtype=torch.float64).movedim(-1, 1))
    assert calls == ["forward", conv]

    with torch.no_grad():
        conv.weight.zero_()
        conv.bias.zero_()
    assert linear.weight.all()
    assert linear.bias.all()
    assert convert(nn.Linear(3, 5, device="meta")).weight.device.type == "meta"


def test_an_integer_weight_and_one_that_is_a_view():
    linear = nn.Linear(3, 5, bias=False)
    linear.weight = nn.Parameter(torch.randint(9, (5, 3)), requires_grad=False)
    assert linear_to_conv1d(linear).weight.dtype == torch.int64
    base = torch.randn(3, 5)
    linear.weight = nn.Parameter(base.T)
    assert torch.equal(linear_to_conv2d(linear).weight[..., 0, 0], base.T)


# Statement 6: 1x1 convolutions as a change of depth, and as class maps.


def test_a_change_of_depth():
    conv = linear_to_conv2d(nn.Linear(192, 16))
    assert conv(torch.randn(1, 192, 7, 6)).shape == (1, 16, 7, 6)
    assert num_parameters(conv) == 192 * 16 + 16


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_summed_class_maps_are_the_layer_on_summed_features(dtype):
    linear = nn.Linear(6, 10, dtype=dtype)
    features = torch.randn(2, 6, 4, 5, dtype=dtype)
    maps = linear_to_conv2d(linear)(features)  # how much of each class is at each position
    summed = features.sum((2, 3)) @ linear.weight.T + 4 * 5 * linear.bias
    assert_close(maps.sum((2, 3)), summed)
    assert_close(maps.mean((2, 3)), features.mean((2, 3)) @ linear.weight.T + linear.bias)


def test_they_are_a_fully_connected_layer_with_the_same_weights_at_every_position():
    shared = nn.Linear(6, 10).double()
    features = torch.randn(2, 6, 4, 5, dtype=torch.float64)
    pooled = linear_to_conv2d(shared)(features).mean((2, 3))
    fully_connected = nn.Linear(6 * 4 * 5, 10).double()
    with torch.no_grad():
        repeated = (shared.weight / 20)[:, :, None].expand(10, 6, 20)
        fully_connected.weight.copy_(repeated.flatten(1))
        fully_connected.bias.copy_(shared.bias)
    assert_close(fully_connected(features.flatten(1)), pooled)


def test_no_other_fully_connected_layer_is_class_maps():
    """The counterexample: class maps forget where; weights that differ by position do not."""
    fully_connected = nn.Linear(6 * 4 * 5, 10).double()
    features = torch.randn(2, 6, 4, 5, dtype=torch.float64)
    moved = features.roll((1, 2), dims=(2, 3))
    maps = linear_to_conv2d(nn.Linear(6, 10).double())
    assert_close(maps(moved).mean((2, 3)), maps(features).mean((2, 3)))
    change = fully_connected(moved.flatten(1)) - fully_connected(features.flatten(1))
    assert change.abs().min() > 1e-3
    with pytest.raises(ConversionError, match=r"kernel \(1, 1\) is smaller than the input"):
        conv_to_fc(maps, (4, 5))
