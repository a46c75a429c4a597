"""Statements 2 and 3: a fully connected layer is an n x n convolution, or 1x1 on a flatten."""

import itertools
from math import prod
from typing import Any

import pytest
import torch
from torch import nn

from sharedmlp.convert import (
    ConversionError,
    conv_to_fc,
    fc_to_conv,
    linear_to_conv2d,
)
from tests.convert.test_pointwise import identical, num_parameters
from tests.tolerances import assert_close

DTYPES = [torch.float64, torch.float32]
CLASSES = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
KERNELS = [(4,), (3, 4), (4, 4), (2, 3, 4)]
ORDERS = ["channels_first", "channels_last"]


def flatten(x, order):
    return (x if order == "channels_first" else x.movedim(1, -1)).flatten(1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_a_fully_connected_layer_is_a_convolution_as_large_as_its_input(kernel, order, bias, dtype):
    linear = nn.Linear(5 * prod(kernel), 7, bias=bias, dtype=dtype)
    conv = fc_to_conv(linear, 5, kernel, order=order)
    x = torch.randn(2, 5, *kernel, dtype=dtype)
    expected = flatten(x, order) @ linear.weight.T
    expected = expected + linear.bias if bias else expected

    y = conv(x)

    assert type(conv) is CLASSES[len(kernel)]
    assert conv.weight.shape == (7, 5, *kernel)
    assert conv.weight.is_contiguous()
    assert y.shape == (2, 7, *[1] * len(kernel))
    assert_close(y.flatten(1).detach(), expected.detach())
    assert num_parameters(conv) == num_parameters(linear)
    assert num_parameters(conv) == 5 * prod(kernel) * 7 + (7 if bias else 0)

    back = conv_to_fc(conv, kernel, order=order)
    assert type(back) is nn.Linear
    assert identical(back, linear)
    assert identical(fc_to_conv(back, 5, kernel, order=order), conv)


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_each_weight_sits_where_its_input_sat(kernel):
    """By index arithmetic, without a convolution: C is the slowest axis, or the fastest."""
    linear = nn.Linear(5 * prod(kernel), 7, bias=False)
    first = fc_to_conv(linear, 5, kernel).weight
    last = fc_to_conv(linear, 5, kernel, order="channels_last").weight
    for channel in range(5):
        places: Any = itertools.product(*map(range, kernel))
        for number, place in enumerate(places):
            of_first = linear.weight[:, channel * prod(kernel) + number]
            assert torch.equal(first[(slice(None), channel, *place)], of_first)
            of_last = linear.weight[:, number * 5 + channel]
            assert torch.equal(last[(slice(None), channel, *place)], of_last)


@pytest.mark.parametrize("order", ORDERS)
def test_on_a_larger_input_it_is_the_layer_on_every_window(order):
    linear = nn.Linear(5 * 3 * 4, 7).double()
    conv = fc_to_conv(linear, 5, (3, 4), order=order)
    x = torch.randn(2, 5, 6, 9, dtype=torch.float64)
    y = conv(x)
    assert y.shape == (2, 7, 4, 6)
    for i, j in itertools.product(range(4), range(6)):
        window = flatten(x[:, :, i : i + 3, j : j + 4], order)
        assert_close(y[:, :, i, j], window @ linear.weight.T + linear.bias)


def test_an_integer_is_a_square():
    conv = fc_to_conv(nn.Linear(5 * 9, 7), 5, 3)
    assert type(conv) is nn.Conv2d
    assert conv.kernel_size == (3, 3)
    assert identical(conv_to_fc(conv, 3), conv_to_fc(conv, (3, 3)))


@pytest.mark.parametrize(
    ("n", "in_channels", "out_channels", "weights", "parameters"),
    [
        (28, 1, 784, 614_656, 615_440),  # 28 x 28 x 1 -> 784
        (5, 16, 120, 48_000, 48_120),  # LeNet-5's C5: 120 filters of 5 x 5 over 16 maps
        (7, 512, 4096, 102_760_448, 102_764_544),  # VGG's first: K=4096, F=7, P=0, S=1
        (1, 4096, 1000, 4_096_000, 4_097_000),  # AlexNet's last
    ],
)
def test_the_worked_cases(n, in_channels, out_channels, weights, parameters):
    in_features = n * n * in_channels
    linear = nn.Linear(in_features, out_channels, device="meta")
    conv = fc_to_conv(linear, in_channels, n)
    assert conv.weight.shape == (out_channels, in_channels, n, n)
    assert (conv.padding, conv.stride) == ((0, 0), (1, 1))
    assert conv.weight.numel() == weights
    assert num_parameters(conv) == num_parameters(linear) == parameters
    assert conv.weight.device.type == "meta"
    # Statement 3: as many kernels of 1 x 1 x (n * n * i).
    on_flat = linear_to_conv2d(linear)
    assert on_flat.weight.shape == (out_channels, in_features, 1, 1)
    assert num_parameters(on_flat) == parameters
    if in_features < 1000:
        linear = nn.Linear(in_features, out_channels)
        x = torch.randn(2, in_channels, n, n)
        expected = x.flatten(1) @ linear.weight.T + linear.bias
        assert_close(fc_to_conv(linear, in_channels, n)(x).flatten(1), expected)
        flat = x.flatten(1)[..., None, None]
        assert_close(linear_to_conv2d(linear)(flat).flatten(1), expected)


# Statement 2's other half: it is a 1x1 convolution only if n = 1.


def test_for_n_1_it_is_a_1x1_convolution():
    linear = nn.Linear(5, 7)
    assert identical(fc_to_conv(linear, 5, 1), linear_to_conv2d(linear))


@pytest.mark.parametrize("n", [2, 3])
def test_otherwise_it_is_not(n):
    """The counterexample: a 1x1 convolution cannot tell one order of the positions from another."""
    linear = nn.Linear(5 * n * n, 7).double()
    x = torch.randn(2, 5, n, n, dtype=torch.float64, requires_grad=True)
    swapped = x.flip(-1)
    pointwise = nn.Conv2d(5, 7, 1).double()
    assert num_parameters(pointwise) < num_parameters(linear)
    # Same positions in another order: the 1x1 convolution's outputs are in that order too ...
    assert_close(pointwise(swapped).detach(), pointwise(x).flip(-1).detach())
    # ... but the fully connected layer gives other numbers.
    conv = fc_to_conv(linear, 5, n)
    assert (conv(swapped) - conv(x)).abs().min() > 1e-4
    # One output sees one position, or all of them.
    (of_pointwise,) = torch.autograd.grad(pointwise(x)[0, 0, 0, 0], x)
    assert of_pointwise[0].any(0).sum() == 1
    (of_conv,) = torch.autograd.grad(conv(x)[0, 0, 0, 0], x)
    assert of_conv[0].any(0).sum() == n * n
    with pytest.raises(RuntimeError, match="channels"):  # the same weights as a 1x1 convolution
        linear_to_conv2d(linear)(x)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", [1, 3])
def test_the_same_layer_is_a_1x1_convolution_on_the_flattened_input(n, dtype):
    """Statement 3."""
    linear = nn.Linear(5 * n * n, 7, dtype=dtype)
    x = torch.randn(2, 5, n, n, dtype=dtype)
    y = linear_to_conv2d(linear)(x.flatten(1)[..., None, None])
    assert y.shape == (2, 7, 1, 1)
    assert_close(y.flatten(1), x.flatten(1) @ linear.weight.T + linear.bias)
    assert_close(y, fc_to_conv(linear, 5, n)(x))


@pytest.mark.parametrize(
    ("conv", "size", "message"),
    [
        (nn.Conv2d(4, 6, 3), 5, r"kernel \(3, 3\) is smaller than the input.*repeat"),
        (nn.Conv2d(4, 6, 3, stride=2), 5, "smaller than the input"),
        (nn.Conv2d(4, 6, 3), 2, "larger than the input"),
        (nn.Conv2d(4, 6, (3, 3)), (3, 4), "smaller than the input"),
        (nn.Conv2d(4, 6, 3, padding=1), 3, r"padding=\(1, 1\).*several places.*differ"),
        (nn.Conv2d(4, 6, 3, padding="same"), 3, "padding='same'"),
        (nn.Conv2d(4, 6, 3, dilation=2), 5, r"dilation=\(2, 2\) leaves gaps"),
        (nn.Conv1d(4, 6, 3, groups=2), 3, "groups=2 connects each output to a part"),
        (nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 6, 3)), 3, "ParametrizedConv1d"),
    ],
)
def test_other_convolutions_are_refused_with_the_reason(conv, size, message):
    with pytest.raises(ConversionError, match=message):
        conv_to_fc(conv, size)


def test_a_stride_that_never_takes_a_step_is_fine():
    conv = nn.Conv2d(4, 6, 3, stride=2, padding="valid").double()
    x = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    assert_close(conv_to_fc(conv, 3)(x.flatten(1)), conv(x).flatten(1))
    conv = nn.Conv2d(4, 6, (1, 3), dilation=(2, 1)).double()  # and a dilation without a gap
    assert_close(conv_to_fc(conv, (1, 3))(x[:, :, 1].flatten(1)), conv(x[:, :, 1:2]).flatten(1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_channels": 4}, r"in_channels=4 and kernel_size=\(3, 3\) make 36 .* takes 45: pass"),
        ({"kernel_size": (9, 9)}, "make 405 features"),
        ({"kernel_size": (1, 1, 3, 3)}, r"kernel_size is .* one, two or three, got \(1, 1, 3, 3\)"),
        ({"kernel_size": ()}, r"kernel_size is .* got \(\)"),
        ({"kernel_size": 0}, "kernel_size is a positive integer .* got 0"),
        ({"order": "HWC"}, "order is .*channels_first.*channels_last.*got 'HWC'"),
    ],
)
def test_sizes_and_orders_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        fc_to_conv(nn.Linear(45, 7), **{"in_channels": 5, "kernel_size": 3, **arguments})


def test_input_sizes_and_orders_that_do_not_fit():
    conv = nn.Conv2d(5, 7, 3)
    with pytest.raises(ValueError, match="input_size has 3 sizes and Conv2d takes 2"):
        conv_to_fc(conv, (5, 3, 3))
    with pytest.raises(ValueError, match=r"input_size is .* got -3"):
        conv_to_fc(conv, -3)
    with pytest.raises(ValueError, match=r"order is .* got 'last'"):
        conv_to_fc(conv, 3, order="last")  # type: ignore[arg-type]  # what is tested


def test_what_is_kept():
    linear = nn.Linear(45, 7, dtype=torch.float64).eval()
    linear.bias.requires_grad_(False)
    calls = []
    linear.register_forward_pre_hook(lambda *_: calls.append(1))
    conv = fc_to_conv(linear, 5, 3)
    for module in (conv, conv_to_fc(conv, 3)):
        assert not module.training
        assert module.bias is not None
        assert (module.weight.requires_grad, module.bias.requires_grad) == (True, False)
        assert module.weight.dtype == torch.float64
    conv(torch.randn(2, 5, 3, 3, dtype=torch.float64))
    assert calls == [1]
    with torch.no_grad():
        conv.weight.zero_()
    assert linear.weight.all()
