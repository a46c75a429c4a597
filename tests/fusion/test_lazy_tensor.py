import weakref

import torch

from sharedmlp.fusion.lazy_tensor import LazyTensor, LazyValue, lazy_value_of, read
from tests.fusion.compare import cloud


def test_a_value_is_computed_once_and_what_it_came_from_is_let_go():
    calls = []

    def double(x):
        calls.append(x)
        return x * 2

    x = cloud(2, 3)
    first = LazyValue(double, x, x.shape)
    second = LazyValue(lambda x: x + 1, first, x.shape)
    gone = weakref.ref(first)
    del first
    assert torch.equal(second.read("a test"), x * 2 + 1)
    assert second.read("a test") is second.value
    assert len(calls) == 1
    assert gone() is None


def test_a_deferred_tensor_is_its_value_wherever_it_goes():
    x = cloud(2, 3).requires_grad_()
    y = LazyTensor.of(LazyValue(lambda x: x * 2, x, x.shape))
    assert lazy_value_of(y) is not None
    assert (y.shape, y.dtype, y.requires_grad) == (x.shape, x.dtype, True)
    assert lazy_value_of(y) is not None
    assert torch.equal(torch.stack([y, y])[1], x * 2)
    assert lazy_value_of(y) is None
    assert type(y + 1) is type(read(y, "a test")) is torch.Tensor
    assert repr(y) == repr(x * 2)
    assert y.numel() == len(y.tolist()) * 3
    y.sum().backward()
    assert torch.equal(x.grad, torch.full((2, 3), 2.0, dtype=x.dtype))
