"""What is not the pattern runs plainly, and the report says why."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sharedmlp.fusion import fusion_report
from tests.fusion.body import POINTS, Body, pooled
from tests.fusion.compare import check, cloud, fused_layers, pair, reason
from tests.fusion.networks import Pattern, conv1d
from tests.tolerances import assert_close


@pytest.mark.parametrize(
    ("head", "why"),
    [
        (lambda x: F.gelu(x).max(2)[0], "its output is read by gelu"),
        (lambda x: F.dropout(x, 0.0).max(2)[0], "its output is read by dropout"),
        (lambda x: x.max(), "its output is read by max"),
        (lambda x: torch.max(x, x * 2).sum(), "its output is read by mul"),
        (lambda x: x.max(1)[0], "the max that follows is not over points"),
        (lambda x: x.amax((1, 2)), "the max that follows is not over points"),
        (lambda x: F.max_pool1d(x, 3), "its output is read by max_pool1d"),
        (lambda x: F.max_pool1d(x, 7, padding=1), "its output is read by max_pool1d"),
        (lambda x: F.adaptive_max_pool1d(x, 2), "its output is read by adaptive_max_pool1d"),
        (lambda x: F.max_pool1d(x, 7, return_indices=True), "max_pool1d_with_indices"),
        (lambda x: x.unsqueeze(-1).max(2)[0], "its output is read by unsqueeze"),
        (lambda x: F.relu(F.relu(x)).max(2)[0], "its output is read by relu"),
        (lambda x: torch.stack([x, x]).max(3)[0], "its output is read by stack"),
        (lambda x: x.reshape(3, -1).max(1)[0], "its output is read by reshape"),
        (lambda x: x.view(3, 9, 7, 1).max(2)[0], "its output is read by view"),
        (lambda x: x.permute(dims=(2, 0, 1)).max(0)[0], "its output is read by permute"),
        (lambda x: (x.view(torch.int64).max(2)[0] > 0, x.sum()), "its output is read by view"),
        (lambda x: x, "its output is read by the caller of the network"),
    ],
)
def test_another_pattern_runs_plainly_and_says_why(head, why):
    ours = check(conv1d(head), POINTS, [])
    assert why in reason(ours)


class HalfNorm(nn.Module):
    """Batch norm with a scale and no shift."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.randn(9))

    def forward(self, x):
        return F.batch_norm(x, None, None, self.scale, training=True)


@pytest.mark.parametrize(
    ("model", "points", "why"),
    [
        (Pattern(nn.Conv1d(4, 9, 1), nn.GroupNorm(3, 9), pooled), POINTS, "group_norm"),
        (
            Pattern(nn.Conv1d(4, 9, 1), nn.ReLU(), nn.Sequential(nn.BatchNorm1d(9))),
            POINTS,
            "read by batch_norm",
        ),
        (
            Pattern(
                nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 9, 1)),
                nn.BatchNorm1d(9),
                lambda x: x.max(2)[0],
            ),
            POINTS,
            "computed, not a parameter",
        ),
        (
            Pattern(nn.Conv1d(4, 9, 1), HalfNorm(), nn.AdaptiveMaxPool1d(1)),
            POINTS,
            "read by batch_norm",
        ),
    ],
)
def test_another_layer_runs_plainly_and_says_why(model, points, why):
    if model.head is pooled:
        model.head = nn.AdaptiveMaxPool1d(1)
    ours = check(model, points, [])
    (entry,) = fusion_report(ours)
    assert why in entry.detail


def test_a_layer_that_does_not_widen_runs_plainly_in_training_alone():
    """There it would need a covariance, which costs more than the layer."""
    ours = check(conv1d(lambda x: x.max(2)[0], widths=(4, 4)), POINTS)
    ours.train()(POINTS)
    (entry,) = fusion_report(ours)
    assert "are not more than 4 input" in entry.detail
    ours.eval()(POINTS)
    assert fusion_report(ours)[0].fused


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv1d(4, 9, 3),
        nn.Conv1d(4, 9, 1, stride=2),
        nn.Conv1d(4, 9, 1, padding=1),
        nn.Conv1d(4, 12, 1, groups=2),
    ],
)
def test_another_convolution_is_no_pointwise_layer(layer):
    norm = nn.BatchNorm1d(layer.out_channels)
    ours = check(Pattern(layer, norm, lambda x: x.max(2)[0]), POINTS, [])
    assert fusion_report(ours) == ()


@pytest.mark.parametrize(
    ("body", "points"),
    [
        (pooled, cloud(3, 5, 7)),
        (pooled, cloud(1, 4, 1)),
        (lambda m, x: m.conv1(x).max(2)[0], cloud(3, 4, 7, dtype=torch.float32)),
        (lambda m, x: m.conv1(x).max(2)[0], cloud(3, 4, 0)),
        (lambda m, x: m.conv1(x).max(3)[0], POINTS),
        (lambda m, x: m.conv1(x).amax((-1, 2)), POINTS),
        (lambda m, x: m.conv1(x).transpose(1, 3).max(1)[0], POINTS),
        (lambda m, x: m.conv1(x).permute(0, 2, 4).max(1)[0], POINTS),
        (lambda m, x: m.conv1(x).view(5, -1).max(1)[0], POINTS),
    ],
)
def test_errors_are_those_of_the_original(body, points):
    messages = []
    for m in pair(Body(body)):
        with pytest.raises((RuntimeError, ValueError, IndexError)) as error:
            m(points)
        messages.append((type(error.value), str(error.value)))
    assert messages[0] == messages[1]


def test_autocast_gives_the_answer_of_float32_in_its_dtype(training, grad):
    """As the layers do: what is fused is computed in the weights' dtype, nearer to the truth."""
    plain, ours = pair(Body(pooled), torch.float32)
    x = POINTS.float()
    for m in (plain, ours):
        m.train(training)
    exact = copy.deepcopy(plain)(x)
    with torch.set_grad_enabled(grad), torch.autocast("cpu", dtype=torch.bfloat16):
        got = ours(x)
        lower = plain(x)
    assert "conv1" in fused_layers(ours)
    assert got.dtype == lower.dtype == torch.bfloat16
    error, plain_error = ((y.float() - exact).abs().max() for y in (got, lower))
    assert error <= plain_error
    assert error < 2**-7 * exact.abs().max()  # the rounding of the result itself


def test_autocast_that_starts_later_is_not_for_what_came_before():
    def body(m, x):
        x = m.conv1(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return x.max(2)[0], x.mean(2)

    check(Body(body), POINTS, dtype=torch.float32)


def test_transforms_of_torch_func():
    plain, ours = pair(Body(pooled))
    plain.eval(), ours.eval()
    jacobians = [torch.func.jacrev(m)(POINTS[:1]) for m in (plain, ours)]
    assert_close(jacobians[1], jacobians[0], kind="fused")
    values = [torch.func.vmap(m)(POINTS[:, None]) for m in (plain, ours)]
    assert_close(values[1], values[0], kind="fused")
    parameters = {k: v.detach() * 2 for k, v in ours.named_parameters()}
    values = [torch.func.functional_call(m, parameters, (POINTS,)) for m in (plain, ours)]
    assert_close(values[1], values[0], kind="fused")


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_compiled_traced_and_exported_networks_run_plainly():
    plain, ours = pair(Body(pooled))
    plain.eval(), ours.eval()
    want = plain(POINTS)
    assert_close(torch.compile(ours, backend="eager", fullgraph=True)(POINTS), want)
    assert_close(torch.export.export(ours, (POINTS,)).module()(POINTS), want)
    assert_close(torch.jit.trace(ours, (POINTS,))(POINTS), want)
