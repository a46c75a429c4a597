"""Local and global features: against the plain formula on their concatenation."""

import pytest
import torch
from torch import fx, nn

from sharedmlp.layers import LocalGlobalMLP, SharedMLP
from tests.covering import pairwise
from tests.formula import Formula, compare_parameters, randomize, scale_of
from tests.tolerances import assert_close

BACKENDS = ["linear", "conv1d", "conv2d"]
LOCAL, GLOBAL = 4, 7


def make(backend="linear", fused="auto", dtype=torch.float64, channels=(11, 6, 9, 5), **options):
    torch.manual_seed(0)
    mlp = LocalGlobalMLP(channels, backend=backend, fused=fused, **options)
    randomize(mlp)
    return mlp.to(dtype)


def random(*shape, seed=1, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def features(clouds=(3,), num_points=8, dtype=torch.float64):
    """The global features are not small beside the local ones, and far from zero."""
    of_cloud = 3 * random(*clouds, GLOBAL, seed=2) + 5
    return random(*clouds, num_points, LOCAL, dtype=dtype), of_cloud.to(dtype)


@pairwise(
    backend=BACKENDS,
    fused=[True, "auto", False],
    norm=["batch", "layer", None],
    activation=["relu", "leaky_relu", None],
    channels=[[11, 8], [11, 6, 9, 5], [11, 12, 3]],
    shape=[((3,), 8), ((1,), 9), ((5,), 1), ((2, 3), 4)],
    channel_dim=[-1, 1],
    dtype=[torch.float64, torch.float32],
    bias=[None, True],
    training=[True, False],
)
def test_the_numbers_are_those_of_the_concatenation(
    backend, fused, norm, activation, channels, shape, channel_dim, dtype, bias, training
):
    options = {"norm": norm, "activation": activation, "channel_dim": channel_dim, "bias": bias}
    mlp = make(backend, fused, dtype, channels, **options).train(training)
    assert mlp.not_supported_reasons() == []
    formula = Formula.of(mlp, norm, activation)
    plain = [x.requires_grad_() for x in features(shape[0], shape[1], dtype)]
    wide = plain[1][..., None, :].expand(*plain[0].shape[:-1], GLOBAL)
    both = torch.cat([plain[0], wide], -1)
    want = formula(both.flatten(0, -2)).view(*both.shape[:-1], -1)
    given = [x.detach().movedim(-1, channel_dim).requires_grad_() for x in plain]
    got = mlp(*given).movedim(channel_dim, -1)
    assert_close(got.detach(), want.detach(), kind="fused")
    direction = random(*want.shape, seed=3, dtype=dtype)
    (got * direction).sum().backward()
    (want * direction).sum().backward()
    scale = max(scale_of(x.grad) for x in plain)
    for name, x, y in zip(("local", "global"), given, plain, strict=True):
        found = x.grad.movedim(channel_dim, -1)
        assert_close(found, y.grad, kind="fused", scale=scale, name=name)
    compare_parameters(mlp, formula, "fused")
    if not training:
        with torch.no_grad():
            folded = mlp(*given).movedim(channel_dim, -1)
        assert_close(folded, got.detach(), kind="fused", name="without gradients")
        if fused is not True:  # there is nothing to split then
            alone = mlp(both.detach().movedim(-1, channel_dim)).movedim(channel_dim, -1)
            assert_close(alone.detach(), got.detach(), kind="fused", name="concatenated")


def test_the_concatenation_is_never_made(monkeypatch, training):
    mlp = make().train(training)
    want = mlp(*features())
    monkeypatch.setattr(torch, "cat", None)
    assert_close(mlp(*features()).detach(), want.detach(), kind="fused")
    with torch.no_grad():
        mlp.eval()(*features())


def test_keys_and_first_weights_are_those_of_a_shared_mlp():
    mlp = make()
    torch.manual_seed(0)
    other = SharedMLP([11, 6, 9, 5])
    assert list(mlp.state_dict()) == list(other.state_dict())
    for name, parameter in other.named_parameters():
        if "linear" in name:
            assert torch.equal(parameter.double(), mlp.get_parameter(name))


@pytest.mark.parametrize("watched", ["layers.0", "layers.0.norm", "layers.0.linear"])
def test_who_watches_the_first_layer_sees_it_called(watched):
    mlp, calls = make(), []
    mlp.get_submodule(watched).register_forward_hook(lambda *_: calls.append(watched))
    assert "hooks are registered" in str(mlp.not_supported_reasons())
    mlp(*features())
    assert calls == [watched]
    mlp.fused = True
    with pytest.raises(ValueError, match="fused=True, but this cannot run fused: hooks"):
        mlp(*features())


def test_who_watches_a_later_layer_sees_it_called_without_gradients_too():
    mlp, calls = make().eval(), []
    mlp.layers[1].norm.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        mlp(*features())
    assert calls == [1]


def test_dropout_is_applied():
    mlp = make(dropout=0.5, norm=None)
    assert not torch.equal(mlp(*features()), mlp(*features()))


@pytest.mark.parametrize(
    ("shapes", "channel_dim", "message"),
    [
        ([(3, 8, 4), (2, 7)], -1, r"one global feature for each cloud, got clouds \(3,\)"),
        ([(3, 8, 4), (3, 1, 7)], -1, r"global features of \(3, 1\)"),
        ([(3, 8, 4), (3, 6)], -1, "make the first of channels 10"),
        ([(3, 4, 8), (3, 6)], 1, "got 4 and 6"),
        ([(3, 4, 8), (2, 7)], 1, "one global feature for each cloud"),
    ],
)
def test_shapes_that_do_not_fit(shapes, channel_dim, message):
    with pytest.raises(ValueError, match=message):
        make(channel_dim=channel_dim)(*[torch.zeros(shape).double() for shape in shapes])


def test_one_position_is_too_few_for_batch_norm_in_training():
    with pytest.raises(ValueError, match="at least two positions"):
        make()(*features((1,), 1))


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_points(backend):
    assert make(backend).eval()(*features(num_points=0)).shape == (3, 0, 5)


@pytest.mark.parametrize(("backend", "channel_dim"), [("linear", -1), ("conv1d", 1)])
def test_fx_and_export_record_the_plain_operations(backend, channel_dim):
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.mlp = make(backend, channel_dim=channel_dim).eval()

        def forward(self, x, global_feature):
            return self.mlp(x, global_feature)

    def inputs(num_points):
        return [x.movedim(-1, channel_dim) for x in features(num_points=num_points)]

    network = Network()
    points = torch.export.Dim("points", min=2)
    shapes = [{2 if channel_dim == 1 else 1: points}, {}]
    exported = torch.export.export(network, tuple(inputs(8)), dynamic_shapes=shapes)
    for other in (exported.module(), fx.symbolic_trace(network)):
        assert_close(other(*inputs(11)), network(*inputs(11)), kind="fused")


def test_gradcheck():
    mlp = make(channels=(11, 6, 3))
    given = [x.requires_grad_() for x in features((2,), 3)]
    assert torch.autograd.gradcheck(mlp, given, fast_mode=True)
