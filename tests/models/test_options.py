"""The options that make other people's networks, by themselves."""

import pytest
import torch

from sharedmlp import SharedMLP, SharedMLPMaxPool, TNet
from sharedmlp.models import PointNet, create_model
from tests.tolerances import assert_close


@pytest.mark.parametrize("backend", ["linear", "conv1d", "conv2d"])
def test_a_tnet_that_adds_the_identity_starts_there(backend):
    tnet = TNet(3, in_channels=5, add_identity=True, bias=True, backend=backend)
    assert torch.equal(tnet(torch.randn(4, 9, 5)), torch.eye(3).expand(4, 3, 3))
    assert not tnet.head.layers[-1].linear.bias.any()
    assert tnet.pool.layers[0].linear.bias is not None
    with pytest.raises(ValueError, match=r"expected \(B, N, 5\), got \(9, 5\)"):
        tnet(torch.zeros(9, 5))


def test_one_activation_a_layer():
    mlp = SharedMLP([3, 5, 4], norm=None, activation=["relu", None])
    x = torch.randn(7, 3)
    first, last = (layer.linear for layer in mlp.layers)
    expected = (x @ first.weight.T + first.bias).clamp_min(0) @ last.weight.T + last.bias
    assert_close(mlp(x).detach(), expected.detach())
    assert (expected < 0).any()
    with pytest.raises(ValueError, match="one for each of the 2 layers"):
        SharedMLP([3, 5, 4], activation=["relu"])
    with pytest.raises(ValueError, match="unknown activation 'rule'"):
        SharedMLP([3, 5, 4], activation=[None, "rule"])


def test_dropout_in_front_of_the_norm():
    """A dropped value is zero for the norm, and not behind it."""
    mlp = SharedMLP([3, 8], dropout=0.5, dropout_before_norm=True, activation=None).double()
    x = torch.randn(50, 3, dtype=torch.float64)
    torch.manual_seed(0)
    y = mlp(x)
    torch.manual_seed(0)
    dropped = torch.nn.functional.dropout(x @ mlp.layers[0].linear.weight.T, 0.5)
    expected = (dropped - dropped.mean(0)) / (dropped.var(0, correction=0) + 1e-5).sqrt()
    assert_close(y.detach(), expected.detach())
    late = SharedMLP([3, 8], dropout=0.5)(x.float())
    assert (late == 0).any()


@pytest.mark.parametrize("training", [True, False])
def test_dropout_in_front_of_a_norm_and_a_max_takes_the_plain_path(training):
    pool = SharedMLPMaxPool([3, 8], dropout=0.5, dropout_before_norm=True).train(training)
    reasons = pool.not_supported_reasons()
    assert ("dropout stands" in str(reasons)) == training  # in evaluation it does nothing
    assert pool(torch.randn(4, 9, 3)).shape == (4, 8)


def test_only_the_input_tnet():
    model = create_model("pointnet", 5, transforms="input").eval()
    output = model.forward_detailed(torch.randn(2, 9, 3))
    assert output.input_transform.shape == (2, 3, 3)
    assert output.feature_transform is None


def test_the_input_tnet_may_see_the_further_features():
    model = create_model("pointnet_third_party", 5, in_channels=6, tnet_channels=6).eval()
    torch.nn.init.normal_(model.input_tnet.head.layers[-1].linear.weight)
    points = torch.randn(2, 9, 6)
    other = torch.cat([points[..., :3], torch.randn(2, 9, 3)], -1)
    turned, otherwise = (model.forward_detailed(p).input_transform for p in (points, other))
    assert turned.shape == (2, 3, 3)
    assert not torch.allclose(turned, otherwise)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"transforms": "both"}, "transforms is True, False or \"input\", got 'both'"),
        ({"in_channels": 6, "tnet_channels": 7}, "tnet_channels is 3 .* to in_channels=6, got 7"),
        ({"tnet_channels": 2}, "got 2"),
        ({"dropout": (0.1,)}, "dropout"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        create_model("pointnet_third_party", **options)


def test_the_architecture_makes_the_same_network():
    model = PointNet(5, 6, local_channels=[8], global_channels=[9, 30], dropout=0.2)
    again = PointNet(**model.architecture, backend="conv1d", fused=False)
    again.load_state_dict(model.state_dict())
    points = torch.randn(3, 9, 6)
    assert_close(again.eval()(points).detach(), model.eval()(points).detach())
    assert again.architecture == model.architecture
