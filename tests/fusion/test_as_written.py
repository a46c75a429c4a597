"""Values that are read, by whom and when, come out as the plain network's."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sharedmlp.fusion import fuse, fusion_report
from tests.fusion.body import POINTS, Body, pooled
from tests.fusion.compare import check, compare, fused_layers, pair, reason


def test_a_value_for_two_readers_is_one_value():
    def body(m, x):
        x = F.relu(m.bn1(m.conv1(x)))
        return x.max(2)[0], x.mean(2), x.std(2)

    ours = check(Body(body), POINTS, None)
    assert reason(ours, "conv1") == "its output is read by mean"  # known since the first pass
    ours = fuse(ours).train()
    ours(POINTS)
    (entry,) = fusion_report(ours)
    assert entry.fused
    assert str(entry) == (
        "conv1: fused: with batch norm, ReLU, max; run plainly as well (its output is read by "
        "mean), and so only plainly from now on"
    )


def test_reading_first_leaves_the_max_plain():
    def body(m, x):
        x = F.relu(m.bn1(m.conv1(x)))
        mean = x.mean(2)
        return mean, x.max(2)[0]

    check(Body(body), POINTS, [])


def test_a_value_inside_the_pattern_is_read():
    def body(m, x):
        x = m.bn1(m.conv1(x))
        y = F.relu(x)
        return x.sum(), y.max(2)[0]

    check(Body(body), POINTS, [])


def test_a_gradient_hook_on_a_value_that_something_else_is_made_of_already():
    def body(m, x):
        x = m.bn1(m.conv1(x))
        y = F.relu(x)
        if x.requires_grad:
            x.register_hook(lambda gradient: gradient * 3)
        return F.relu(m.bn2(m.conv2(y))).max(2)[0]

    check(Body(body), POINTS)
    check(Body(body, track_running_stats=False), POINTS)


def test_two_maxima_over_different_axes():
    def body(m, x):
        x = F.relu(m.bn1(m.conv1(x)))
        return x.max(2)[0], x.amax((0, 2)), x.max(1)[0]

    check(Body(body), POINTS)


def test_a_layer_read_by_two_chains():
    """The first chain takes the layer in; the second has to find its statistics moved already."""

    def body(m, x):
        x = F.relu(m.bn1(m.conv1(x)))
        y, z = m.bn2(m.conv2(x)), m.bn3(m.conv2(x))
        return F.relu(y).max(2)[0], F.relu(z).max(2)[0], m.bn2(m.conv2(x)).amax(2), x.mean()

    model = Body(body)
    model.bn3 = nn.BatchNorm1d(16)
    check(model, POINTS)


def test_statistics_move_where_nothing_is_read():
    def body(m, x):
        m.bn1(m.conv1(x))
        return x * 2

    ours = check(Body(body), POINTS, [])
    ours.train()(POINTS)
    assert reason(ours, "conv1") == "its output is read by nothing"


def test_statistics_move_once_a_call_and_in_order():
    """One batch norm sees two inputs: the order of the calls decides."""

    def body(m, x):
        y = m.bn1(m.conv1(x))
        z = m.bn1(m.conv1(x * 3 + 1))
        return z.max(2)[0], y.max(2)[0]

    check(Body(body), POINTS)
    check(Body(body, momentum=None), POINTS)


def test_statistics_are_as_new_as_their_reader_expects():
    def body(m, x):
        before = m.bn1.running_mean.clone()
        y = m.bn1(m.conv1(x))
        between = m.bn1.running_mean.clone()
        return y.max(2)[0], before, between

    check(Body(body), POINTS)


def test_statistics_move_where_forward_raises():
    def body(m, x):
        m.bn1(m.conv1(x))
        raise KeyError("stop here")

    plain, ours = pair(Body(body))
    for m in (plain, ours):
        with pytest.raises(KeyError, match="stop here"):
            m(POINTS)
    compare([[], []], plain, ours)
    ours.body = plain.body = pooled
    ours(POINTS)
    assert fused_layers(ours) == ["conv1"]


@pytest.mark.parametrize("mode", [torch.no_grad(), torch.inference_mode()])
def test_a_value_read_without_gradients_has_its_own(mode):
    def body(m, x):
        x = F.relu(m.bn1(m.conv1(x)))
        with mode:
            order = x.sum((1, 2)).argsort()
        return x[order.clone()].max(2)[0]

    check(Body(body), POINTS)


def test_a_layer_without_gradients_has_none_when_it_is_read_with_them():
    def body(m, x):
        with torch.no_grad():
            x = F.relu(m.bn1(m.conv1(x)))
        y = F.relu(m.bn2(m.conv2(x)))
        return y.max(2)[0], x.max(2)[0] * m.conv1.weight.sum()

    check(Body(body), POINTS)
