"""PointNet: interchangeable, invariant, as in the paper."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from sharedmlp import TNet, create_model, list_models, orthogonality_penalty
from tests.tolerances import assert_close

BACKENDS = ["linear", "conv1d", "conv2d"]
MODELS = ["pointnet", "pointnet_vanilla"]


def train(backend, steps, name="pointnet", fused=False):
    torch.manual_seed(0)
    model: Any = create_model(name, 5, backend=backend, fused=fused).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        points = torch.randn(11, 17, 3, dtype=torch.float64, generator=generator)
        # Clouds that differ as real ones do: of equal ones, batch norm would enlarge the roundings.
        points = points * torch.rand(11, 1, 3, dtype=torch.float64, generator=generator)
        labels = torch.randint(5, (11,), generator=generator)
        output = model.forward_detailed(points)
        loss = F.cross_entropy(output.logits, labels)
        if output.feature_transform is not None:
            loss = loss + 0.001 * orthogonality_penalty(output.feature_transform)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


@pytest.mark.parametrize(
    ("steps", "runs"),
    [
        (4, [(backend, False) for backend in BACKENDS]),
        (6, [("linear", False), *((backend, True) for backend in BACKENDS)]),
        pytest.param(
            20, [("linear", False), *((b, True) for b in BACKENDS)], marks=pytest.mark.slow
        ),
    ],
    ids=["plain", "fused", "fused, long"],
)
def test_optimiser_steps_stay_together(steps, runs):
    (backend, fused), *others = runs
    expected = train(backend, steps, fused=fused).state_dict()
    start = train(backend, 0).state_dict()
    assert (expected["head.layers.0.linear.weight"] - start["head.layers.0.linear.weight"]).any()
    for backend, fused in others:
        for name, value in train(backend, steps, fused=fused).state_dict().items():
            if value.is_floating_point():
                want = expected[name].reshape(value.shape)
                kind = "training, fused" if fused else "training"
                assert_close(value, want, kind=kind, scale=1.0, name=f"{backend} {name}")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", MODELS)
def test_the_order_of_the_points_does_not_matter(backend, name):
    model = create_model(name, 5, backend=backend).double().eval()
    points = torch.randn(3, 19, 3, dtype=torch.float64)
    order = torch.randperm(19)
    assert_close(model(points[:, order]), model(points))


@pytest.mark.parametrize("name", MODELS)
def test_the_forward_pass_is_the_papers(name):
    """Rebuilds eval mode from bare matrices: x @ W.T, batch norm, ReLU, max."""
    model: Any = create_model(name, 5).double()
    train_points = torch.randn(4, 19, 3, dtype=torch.float64)
    model(train_points)  # moves the running statistics
    torch.nn.init.normal_(model.head.layers[-1].linear.bias)
    model.eval()
    if name == "pointnet":
        for transform in (model.input_tnet, model.feature_tnet):
            torch.nn.init.normal_(transform.head.layers[-1].linear.weight, std=0.01)

    def mlp(module, x):
        for layer in module.layers:
            x = x @ layer.linear.weight.T
            if layer.linear.bias is not None:
                x = x + layer.linear.bias
            if layer.norm is not None:
                x = (x - layer.norm.running_mean) / (layer.norm.running_var + 1e-5).sqrt()
                x = torch.relu(x * layer.norm.weight + layer.norm.bias)
        return x

    def tnet(module, x):
        return mlp(module.head, mlp(module.pool, x).amax(1)).reshape(-1, module.dim, module.dim)

    x = points = torch.randn(3, 19, 3, dtype=torch.float64)
    if name == "pointnet":
        x = torch.einsum("bnc,bcd->bnd", x, tnet(model.input_tnet, x))
    x = mlp(model.local_mlp, x)
    if name == "pointnet":
        x = torch.einsum("bnc,bcd->bnd", x, tnet(model.feature_tnet, x))
    x = mlp(model.global_pool, x).amax(1)
    assert_close(model(points), mlp(model.head, x))


def test_the_sizes_are_the_papers():
    count = {name: sum(p.numel() for p in create_model(name).parameters()) for name in MODELS}
    # Appendix and table 6 of the paper: 3.5 million parameters with T-Nets, 0.8 without.
    assert round(count["pointnet"] / 1e6, 1) == 3.5
    assert round(count["pointnet_vanilla"] / 1e6, 1) == 0.8


@pytest.mark.parametrize("name", MODELS)
def test_forward_detailed_agrees_with_forward(name):
    model: Any = create_model(name, 5).eval()
    points = torch.randn(3, 700, 3)
    output = model.forward_detailed(points)
    assert_close(output.logits, model(points))
    assert output.global_feature.shape == output.critical_indices.shape == (3, 1024)
    assert (output.input_transform is None) == (name == "pointnet_vanilla")
    # The critical points alone give the same global feature (theorem 2 of the paper); T-Nets have
    # critical points of their own.
    if name == "pointnet_vanilla":
        for cloud, indices, feature in zip(
            points, output.critical_indices, output.global_feature, strict=True
        ):
            kept = cloud[indices.unique()]
            assert len(kept) < len(cloud)
            assert_close(model.forward_detailed(kept[None]).global_feature[0], feature)


@pytest.mark.parametrize("num_points", [1, 2, 33])
def test_any_number_of_points(num_points):
    assert create_model("pointnet", 5)(torch.randn(3, num_points, 3)).shape == (3, 5)


def test_one_cloud_is_fine_in_eval_and_explained_in_training():
    model = create_model("pointnet_vanilla", 5)
    assert model.eval()(torch.randn(1, 9, 3)).shape == (1, 5)
    with pytest.raises(ValueError, match=r"at least two clouds.*got \(1, 9, 3\).*drop or merge"):
        model.train()(torch.randn(1, 9, 3))


def test_the_input_tnet_leaves_further_features_alone():
    model: Any = create_model("pointnet", 5, in_channels=6).eval()
    seen = []
    model.local_mlp.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    torch.nn.init.normal_(model.input_tnet.head.layers[-1].linear.bias)
    points = torch.randn(3, 9, 6)
    model(points)
    assert torch.equal(seen[0][..., 3:], points[..., 3:])
    assert not torch.allclose(seen[0][..., :3], points[..., :3])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_tnet_starts_at_the_identity(backend):
    transform = TNet(5, backend=backend)(torch.randn(3, 9, 5))
    assert torch.equal(transform, torch.eye(5).expand(3, 5, 5))


def test_the_penalty_is_the_mean_squared_frobenius_distance():
    transform = torch.randn(2, 3, 3, dtype=torch.float64)
    expected = sum(torch.linalg.norm(torch.eye(3) - a @ a.T, ord="fro") ** 2 for a in transform) / 2
    assert_close(orthogonality_penalty(transform), expected)
    rotation = torch.linalg.qr(transform).Q
    assert orthogonality_penalty(rotation) < 1e-20


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((4, 3, 1024), r"expected \(B, N, 3\), got \(4, 3, 1024\): .*transpose\(1, 2\)"),
        ((4, 1024, 6), r"got \(4, 1024, 6\): make the model with in_channels=6"),
        ((1024, 3), r"got \(1024, 3\): add a batch dimension"),
    ],
)
def test_shapes_that_are_not_clouds(shape, message):
    with pytest.raises(ValueError, match=message):
        create_model("pointnet_vanilla")(torch.zeros(shape))


@pytest.mark.parametrize("name", MODELS)
def test_without_classes_it_gives_the_global_feature(name):
    model: Any = create_model(name, 0).eval()
    points = torch.randn(2, 9, 3)
    output = model.forward_detailed(points)
    assert model(points).shape == (2, 1024)
    assert not list(model.head.parameters())
    for feature in (model.forward_features(points), output.logits, output.global_feature):
        assert_close(feature, model(points))
    one = points[:1]
    if name == "pointnet_vanilla":
        assert model.train()(one).shape == (1, 1024)
    else:  # its T-Nets are fully connected in the end
        with pytest.raises(ValueError, match="at least two clouds"):
            model.train()(one)
    with pytest.raises(ValueError, match="num_classes=-1"):
        create_model(name, -1)


def test_another_number_of_classes_takes_a_new_last_layer():
    model: Any = create_model("pointnet_vanilla", 5).double().eval()
    model.metadata = {"class_names": list("abcde"), "up_axis": "z"}
    points = torch.randn(3, 9, 3, dtype=torch.float64)
    expected = model.head.layers[1](model.head.layers[0](model.forward_features(points)))
    model.reset_classifier(7)
    assert model(points).shape == (3, 7)
    assert_close(
        model.head.layers[1](model.head.layers[0](model.forward_features(points))), expected
    )
    assert model.options["num_classes"] == model.architecture["num_classes"] == 7
    assert model.metadata == {"up_axis": "z"}
    assert not any(module.training for module in model.modules())
    create_model("pointnet_vanilla", 7).load_state_dict(model.state_dict())
    feature = model.forward_features(points)
    model.reset_classifier(0)
    assert_close(model(points), feature)
    model.reset_classifier(2)
    assert model(points).shape == (3, 2)
    with pytest.raises(ValueError, match="got -2"):
        model.reset_classifier(-2)


def test_the_extra_loss_is_the_penalty_of_the_feature_transform():
    points = torch.randn(3, 9, 3)
    model: Any
    for transforms in ("input", False):
        model = create_model("pointnet", 5, transforms=transforms)
        assert model.extra_loss(model.forward_detailed(points)) is None
    model = create_model("pointnet", 5)
    torch.nn.init.normal_(model.feature_tnet.head.layers[-1].linear.weight)
    output = model.forward_detailed(points)
    assert model.extra_loss(output) == orthogonality_penalty(output.feature_transform) > 0


def test_create_model():
    assert list_models(task="classification") == sorted(
        [*MODELS, "dgcnn", "pointnet2_msg", "pointnet2_ssg"]
    )
    with pytest.raises(
        ValueError, match=r"unknown model 'pointnet3'.*pointnet,.* pointnet_vanilla"
    ):
        create_model("pointnet3")
    with pytest.raises(ValueError, match="in_channels=2"):
        create_model("pointnet", in_channels=2)
    with pytest.raises(ValueError, match="unknown backend"):
        create_model("pointnet", backend="dense")
