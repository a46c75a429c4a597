"""What writes into tensors, and what goes its own way through autograd."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tests.fusion.body import POINTS, Body, pooled
from tests.fusion.compare import check, compare, pair, reason
from tests.tolerances import assert_close


def test_an_input_written_over_is_read_before():
    def body(m, x):
        x = x * 1
        with torch.no_grad():
            y = m.bn1(m.conv1(x))
            x[0] = 0
            z = m.conv1(x)
            x += 1
            u = m.conv1(x)
            F.relu(x, inplace=True)
            v = m.conv1(x)
            torch.add(x, 1, out=x)
        return y.max(2)[0], z.max(2)[0], u.max(2)[0], v.max(2)[0], x

    check(Body(body), POINTS)


def test_a_deferred_value_written_over():
    def body(m, x):
        x = m.bn1(m.conv1(x))
        x += 1
        x[0, 0, 0] = 5
        y = x.transpose(1, 2)
        F.relu(y, inplace=True)  # a view of x
        return x.max(2)[0], y.max(1)[0]

    check(Body(body), POINTS)


def test_a_base_sees_what_is_written_into_its_view():
    def body(m, x):
        x = m.bn1(m.conv1(x))
        y = x.transpose(1, 2)
        F.relu(y, inplace=True)
        return x.max(2)[0], y.max(1)[0]

    check(Body(body), POINTS)


def test_a_view_sees_what_is_written_into_its_base():
    def body(m, x):
        x = m.bn1(m.conv1(x))
        y = x.transpose(1, 2)
        F.leaky_relu_(x)
        return y.max(1)[0]

    check(Body(body), POINTS)


def test_a_layer_on_a_value_that_is_then_written_over():
    def body(m, x):
        with torch.no_grad():
            x = F.relu(m.bn1(m.conv1(x)))
            y = m.bn2(m.conv2(x))
            x.mul_(2)
        return y.max(2)[0] * m.conv1.weight.sum(), x

    check(Body(body), POINTS)


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2


class Same(torch.autograd.Function):
    """Returns its input, as hooks on whole modules do."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 3


@pytest.mark.parametrize("function", [Double, Same])
def test_gradients_go_through_custom_autograd_functions(function):
    """torch shows those to nobody: they get the deferred tensor itself."""

    def body(m, x):
        y = F.relu(m.bn1(m.conv1(function.apply(m.conv1.weight.sum() * x))))
        z = function.apply(y)
        return z.max(2)[0], y.max(2)[0]

    def twice(m, x):
        x = function.apply(x)
        for _ in range(2):
            x = F.relu(m.norm(m.square(x)))
        return function.apply(x).sum(2)

    check(Body(body), POINTS)
    model = Body(twice)
    model.square, model.norm = nn.Conv1d(4, 4, 1), nn.BatchNorm1d(4, track_running_stats=False)
    check(model, POINTS)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints(reentrant):
    def body(m, x):
        x = F.relu(m.bn1(m.conv1(x)))
        x = checkpoint(lambda x: F.relu(m.conv2(x)), x, use_reentrant=reentrant)
        return x.max(2)[0]

    def whole(m, x):
        return checkpoint(lambda x: F.relu(m.conv1(x)), x, use_reentrant=reentrant).max(2)[0]

    check(Body(body), POINTS)
    ours = check(Body(whole), POINTS)
    if not reentrant:
        ours(POINTS)
        assert reason(ours, "conv1").startswith("what autograd saves is watched")


def test_a_gradient_that_is_differentiated_again():
    plain, ours = pair(Body(lambda m, x: Double.apply(m.bn1(m.conv1(x))).max(2)[0].tanh()))
    for network in (Body(pooled), Body(lambda m, x: Double.apply(pooled(m, x)))):
        plain, ours = pair(network)
        results = []
        for m in (plain, ours):
            x = POINTS.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(m(x).tanh().sum(), x, create_graph=True)
            gradient.square().sum().backward()
            results.append([gradient.detach(), x.grad])
        compare(results, plain, ours)


def test_what_is_kept_is_computed_before_forward_ends():
    def body(m, x):
        m.kept = F.relu(m.bn1(m.conv1(x)))
        m.winners = m.kept.max(2)[1]
        return {"list": [m.conv1(x)], "max": m.kept.max(2)[0]}

    plain, ours = pair(Body(body))
    for training in (True, False):
        for m in (plain, ours):
            m.train(training)
        with torch.set_grad_enabled(training):
            want, got = plain(POINTS), ours(POINTS)
        with torch.no_grad():  # as an optimizer would
            for m in (plain, ours):
                m.conv1.weight.copy_(m.conv1.weight.flip(0, 1))
        assert_close(got["list"][0], want["list"][0], kind="fused")
        assert_close(got["max"], want["max"], kind="fused")
        assert_close(ours.kept.detach() + 0, plain.kept.detach(), kind="fused")
        assert torch.equal(ours.winners + 0, plain.winners)
        assert (ours.kept + 0).requires_grad == training


def test_hooks_run_and_see_numbers():
    def install(m, seen):
        m.conv1.register_forward_hook(lambda _, __, y: seen.append(("conv", y.detach().sum())))
        m.bn1.register_forward_hook(lambda _, __, y: y * 2)
        m.bn1.register_forward_pre_hook(lambda _, args: seen.append(("in", args[0].shape)))
        m.conv2.register_full_backward_hook(
            lambda _, into, out: seen.append(("backward", into[0].sum(), out[0].sum()))
        )
        m.bn2.register_forward_hook(lambda _, __, y: y.register_hook(lambda g: g * 3) and None)

    def body(m, x):
        x = F.relu(m.bn1(m.conv1(x)))
        return F.relu(m.bn2(m.conv2(x))).max(2)[0]

    plain, ours = pair(Body(body))
    seen: tuple[list[Any], list[Any]] = ([], [])
    results = []
    for m, notes in zip((plain, ours), seen, strict=True):
        install(m, notes)
        x = POINTS.clone().requires_grad_()
        y = m(x)
        y.square().sum().backward()
        results.append([y.detach(), x.grad])
    compare(results, plain, ours)
    assert [note[0] for note in seen[0]] == ["conv", "in", "backward"]
    for want, got in zip(*seen, strict=True):
        for a, b in zip(want[1:], got[1:], strict=True):
            assert a == b if isinstance(a, torch.Size) else torch.allclose(a, b, rtol=1e-10)
