"""PointNet++ against loops over centers, neighbors and layers."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from sharedmlp import create_model, list_models
from sharedmlp.models import PointNet2, load_safetensors, save_safetensors
from tests.covering import pairwise
from tests.formula import Formula, compare_parameters, randomize
from tests.layers.neighborhoods import compare_gradients, leaf, plain_set_abstraction
from tests.tolerances import assert_close

BACKENDS = ["linear", "conv1d", "conv2d"]
SMALL = {
    "pointnet2_ssg": (
        {"num_centers": 7, "radius": 0.9, "num_neighbors": 5, "channels": [6, 8]},
        {"num_centers": 4, "radius": 1.5, "num_neighbors": 3, "channels": [9, 10]},
    ),
    "pointnet2_msg": (
        {
            "num_centers": 6,
            "radius": [0.6, 1.2],
            "num_neighbors": [3, 5],
            "channels": [[6, 8], [7, 9, 11]],
        },
        {"num_centers": 4, "radius": [1.5], "num_neighbors": [3], "channels": [[9, 10]]},
    ),
}


def make(name="pointnet2_ssg", num_classes=5, in_channels=3, **options):
    torch.manual_seed(0)
    widths = {"levels": SMALL[name], "global_channels": [12, 13], "head_channels": [14, 15]}
    return create_model(name, num_classes, in_channels, **{**widths, **options}).double()


def clouds(*shape):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pairwise(
    name=SMALL,
    backend=BACKENDS,
    in_channels=[3, 6],
    fused=[True, False, "auto"],
    training=[True, False],
)
def test_against_the_formula(name, backend, in_channels, fused, training):
    model = make(name, in_channels=in_channels, backend=backend, fused=fused, dropout=0.0)
    model.train(training)
    randomize(model)
    points = leaf(clouds(3, 11, in_channels))
    plain = leaf(points)
    layers = [*model.levels, model.global_pool]
    formulas = [[Formula.of(pool, "batch", "relu") for pool in layer.pools] for layer in layers]
    centers = plain[..., :3]
    features: Any = plain[..., 3:] if in_channels > 3 else None
    expected_centers = []
    for layer, of_layer in zip(layers, formulas, strict=True):
        centers, features = plain_set_abstraction(layer, of_layer, centers, features)
        expected_centers.append(centers)
    head = Formula.of(model.head, "batch", "relu")
    last = {name: head.parameters.pop(f"layers.2.linear.{name}") for name in ("weight", "bias")}
    logits = head(features[:, 0]) @ last["weight"].T + last["bias"]
    head.parameters |= {f"layers.2.linear.{name}": value for name, value in last.items()}

    output = model.forward_detailed(points)
    assert_close(output.logits.detach(), logits.detach(), kind="fused", name="logits")
    assert_close(output.global_feature.detach(), features[:, 0].detach(), kind="fused")
    for found, expected in zip(output.centers, expected_centers[:-1], strict=True):
        assert_close(found.detach(), expected.detach(), name="centers")
    direction = torch.randn_like(logits)
    (output.logits * direction).sum().backward()
    (logits * direction).sum().backward()
    compare_gradients([points], [plain], "fused")
    for layer, of_layer in zip(layers, formulas, strict=True):
        for pool, formula in zip(layer.pools, of_layer, strict=True):
            compare_parameters(pool, formula, "fused")
    compare_parameters(model.head, head, "fused")


def train(backend, fused, name, steps):
    model = make(name, backend=backend, fused=fused, dropout=0.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        points = torch.randn(6, 11, 3, dtype=torch.float64, generator=generator)
        labels = torch.randint(5, (6,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model(points), labels).backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("steps", [5, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", SMALL)
def test_optimizer_steps_stay_together(name, steps):
    expected = train("linear", False, name, steps).state_dict()
    for backend in BACKENDS:
        for key, value in train(backend, True, name, steps).state_dict().items():
            want = expected[key].reshape(value.shape)
            if value.is_floating_point():
                assert_close(value, want, kind="training, fused", scale=1.0, name=key)


def test_the_widths_are_the_papers():
    assert list_models(task="classification", tag="pointnet2") == sorted(SMALL)
    single: Any = create_model("pointnet2_ssg", 40, 6)
    multi: Any = create_model("pointnet2_msg", 40, 6)
    assert [[pool.channels for pool in level.pools] for level in single.levels] == [
        [(6, 64, 64, 128)],
        [(131, 128, 128, 256)],
    ]
    assert [[pool.channels for pool in level.pools] for level in multi.levels] == [
        [(6, 32, 32, 64), (6, 64, 64, 128), (6, 64, 96, 128)],
        [(323, 64, 64, 128), (323, 128, 128, 256), (323, 128, 128, 256)],
    ]
    for model, width in ((single, 259), (multi, 643)):
        assert model.global_pool.pools[0].channels == (width, 256, 512, 1024)
        assert model.head.channels == (1024, 512, 256, 40)
        assert [layer.dropout and layer.dropout.p for layer in model.head.layers] == [
            0.5,
            0.5,
            None,
        ]
        assert [level.num_centers for level in model.levels] == [512, 128]
    assert [level.radii for level in single.levels] == [(0.2,), (0.4,)]
    assert [level.radii for level in multi.levels] == [(0.1, 0.2, 0.4), (0.2, 0.4, 0.8)]
    assert [level.num_neighbors for level in single.levels] == [(32,), (64,)]
    assert [level.num_neighbors for level in multi.levels] == [(16, 32, 128), (32, 64, 128)]


@pytest.mark.parametrize("name", SMALL)
def test_saved_and_loaded_on_another_backend(name, tmp_path):
    model = make(name, in_channels=6).float()
    points = clouds(3, 11, 6).float()
    model(points)  # running statistics
    save_safetensors(model.eval(), tmp_path / "a.safetensors")
    other = load_safetensors(tmp_path / "a.safetensors", backend="conv2d")
    assert isinstance(other, PointNet2)
    with torch.no_grad():
        assert_close(other(points), model(points), kind="fused")


def test_another_number_of_classes():
    model = make()
    hidden = model.head.layers[0]
    model.reset_classifier(7)
    assert model.head.layers[0] is hidden
    assert model(clouds(3, 11, 3)).shape == (3, 7)
    model.reset_classifier(0)
    assert model(clouds(3, 11, 3)).shape == (3, 13)
    assert torch.equal(model(clouds(3, 11, 3)), model.forward_features(clouds(3, 11, 3)))
    with pytest.raises(ValueError, match="num_classes >= 0"):
        model.reset_classifier(-1)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 11, 4), "make the model with in_channels=4"),
        ((2, 3, 11), r"points.transpose\(1, 2\)"),
        ((11, 3), r"points.unsqueeze\(0\)"),
        ((1, 11, 3), "at least two clouds"),
    ],
)
def test_bad_inputs(shape, message):
    with pytest.raises(ValueError, match=message):
        make()(clouds(*shape))


def test_bad_arguments():
    with pytest.raises(ValueError, match="in_channels=2"):
        create_model("pointnet2_ssg", in_channels=2)
