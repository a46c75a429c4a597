"""What could tell that a value is computed later than its line: none of it may."""

import copy
import subprocess
import sys
import threading
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import sharedmlp
from sharedmlp.fusion import fuse, fusion_report
from tests.fusion.compare import check, cloud, compare, fused_layers, pair, reason
from tests.fusion.networks import Pattern, PortPointNet, conv1d
from tests.tolerances import assert_close

POINTS = cloud(3, 4, 7)


class Body(nn.Module):
    """Two layers with their norms, and a forward that a test gives."""

    def __init__(self, body, **options):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv1d(4, 8, 1), nn.Conv1d(8, 16, 1)
        self.bn1, self.bn2 = nn.BatchNorm1d(8, **options), nn.BatchNorm1d(16)
        self.body = body

    def forward(self, x):
        return self.body(self, x)


def pooled(m, x):
    """The pattern that everything else is put around."""
    return F.relu(m.bn1(m.conv1(x))).max(2)[0]


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
    seen, results = ([], []), []
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
        (conv1d(lambda x: x.max(2)[0], widths=(4, 4)), POINTS, "are not more than 4 input"),
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


def test_autocast_runs_plainly():
    plain, ours = pair(Body(pooled), torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        want, got = plain(POINTS.float()), ours(POINTS.float())
    assert got.dtype == torch.bfloat16
    assert torch.equal(want, got)
    assert reason(ours, "conv1") == "autocast is on"


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


def test_a_fused_network_inside_a_fused_one():
    model = Body(lambda m, x: m.inner(m.conv1(x)))
    model.inner = Pattern(nn.Conv1d(8, 16, 1), nn.BatchNorm1d(16), lambda x: x.max(2)[0])
    plain, _ = pair(model)
    ours = copy.deepcopy(plain)
    fuse(ours.inner)
    fuse(ours)
    compare([[m(POINTS).detach()] for m in (plain, ours)], plain, ours)
    assert fused_layers(ours) == ["inner.linear"]


def test_only_the_thread_that_runs_the_network_is_watched():
    seen = []

    def body(m, x):
        x = m.bn1(m.conv1(x))
        other = threading.Thread(
            target=lambda: seen.append(type(m.conv2(POINTS.new_ones(1, 8, 3))))
        )
        other.start()
        other.join()
        return x.max(2)[0]

    check(Body(body), POINTS, ["conv1"])
    assert set(seen) == {torch.Tensor}


def test_deferred_tensors_answer_what_is_asked_before_the_max():
    def body(m, x):
        x = m.bn1(m.conv1(x))
        assert isinstance(x, torch.Tensor)
        assert x.shape == x.size() == (3, 8, 7)
        assert (x.dim(), x.ndim, len(x), x.numel(), x.size(-1)) == (3, 3, 3, 168, 7)
        assert (x.dtype, x.device.type, x.is_cuda) == (torch.float64, "cpu", False)
        assert x.requires_grad == torch.is_grad_enabled()
        assert torch.is_tensor(x)
        assert x.is_floating_point()
        return x.max(2)[0]

    check(Body(body), POINTS, ["conv1"])


def test_it_travels_to_another_process():
    ours = fuse(PortPointNet())
    other = ForkingPickler.loads(ForkingPickler.dumps(ours))
    assert type(other) is type(ours)
    other(cloud(4, 3, 5, dtype=torch.float32))
    assert fused_layers(other)


def test_a_copy_is_fused_and_independent():
    _, ours = pair(PortPointNet())
    other = copy.deepcopy(ours)
    assert type(other) is type(ours)
    assert isinstance(other, PortPointNet)
    want = [p.detach().clone() for p in ours.parameters()]
    other(cloud(4, 3, 5))[0].sum().backward()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert fused_layers(other)
    assert all(torch.equal(p, w) for p, w in zip(ours.parameters(), want, strict=True))
    with pytest.raises(ValueError, match="no forward pass"):
        fusion_report(ours)


def test_it_is_the_same_model_with_the_same_checkpoint():
    model = PortPointNet()
    parameters, keys = list(model.parameters()), list(model.state_dict())
    saved = copy.deepcopy(model.state_dict())
    assert fuse(model) is model
    assert fuse(model) is model
    assert type(model).__name__ == "FusedPortPointNet"
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert list(model.state_dict()) == keys
    model(cloud(4, 3, 5, dtype=torch.float32))
    model.load_state_dict(saved, strict=True)
    model.double()(cloud(4, 3, 5))
    assert fused_layers(model)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_what_cannot_be_fused_says_so():
    with pytest.raises(ValueError, match="was not fused"):
        fusion_report(PortPointNet())
    with pytest.raises(TypeError, match="scripted, compiled"):
        fuse(torch.jit.script(nn.ReLU()))
    with pytest.raises(TypeError, match="forward set on the object"):
        fuse(torch.compile(nn.ReLU(), backend="eager"))


def test_the_name_at_the_top_is_imported_by_those_who_ask():
    code = (
        "import sys, sharedmlp; assert 'sharedmlp.fusion' not in sys.modules; "
        "sharedmlp.fuse; assert 'sharedmlp.fusion' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert sharedmlp.fuse is fuse
    assert sharedmlp.fusion_report is fusion_report
    with pytest.raises(AttributeError, match="no attribute 'fusee'"):
        sharedmlp.fusee  # noqa: B018
