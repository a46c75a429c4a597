"""Other people's PointNets: the same numbers as their formulas, keys and shapes both ways."""

import re
from typing import Any

import pytest
import torch

from sharedmlp.models import (
    PointNet,
    ThirdPartyPointNet,
    create_model,
    export_weights,
    load_weights,
)
from sharedmlp.models.third_party.pointnet import DEFAULTS
from tests.covering import pairwise
from tests.models.third_party.formulas import LAYOUTS, Original, random_tensors
from tests.tolerances import assert_close

BACKENDS = ["linear", "conv1d", "conv2d"]


def points_for(name, dtype=torch.float64, clouds=5):
    generator = torch.Generator().manual_seed(1)
    points = torch.randn(clouds, 23, LAYOUTS[name][1], dtype=dtype, generator=generator)
    # Clouds that differ as real ones do: of equal ones, batch norm would enlarge the roundings.
    scales = torch.rand(clouds, 1, points.shape[-1], dtype=dtype, generator=generator)
    return points * (scales + 0.1)


def make(call):
    """Makes the model that an error message says to make."""
    return eval(call, {"create_model": create_model})  # noqa: S307 - from this library's message


def original_logits(name, net, points):
    return getattr(net, LAYOUTS[name][0])(points)


@pairwise(
    name=list(LAYOUTS),
    backend=BACKENDS,
    fused=[True, False],
    dtype=[torch.float64, torch.float32],
)
def test_the_logits_are_the_originals(name, backend, fused, dtype):
    if name == "learning3d without norm" and fused:  # its last layer is too narrow to be fused
        fused = "auto"
    tensors, points = random_tensors(name, dtype), points_for(name, dtype)
    expected = original_logits(name, Original(tensors), points)
    model = load_weights(tensors, backend=backend, fused=fused).eval()
    assert_close(model(points).detach(), expected)
    with torch.no_grad():
        assert_close(model(points), expected)
    if dtype == torch.float64:
        probabilities = model(points).detach().log_softmax(1)
        torch.testing.assert_close(probabilities, expected.log_softmax(1), rtol=0, atol=1e-10)


@pytest.mark.parametrize("fused", ["auto", False], ids=["fused", "plain"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_training_step_is_the_originals(name, fused):
    """Logits with dropout, gradients, running statistics and counters, by what is exported."""
    source, rate = LAYOUTS[name][0], 0.1
    tensors, points = random_tensors(name), points_for(name, clouds=6)
    model = load_weights(tensors, source=source, backend="conv1d", fused=fused).train()
    net = Original({k: v.clone() for k, v in tensors.items()}, training=True)
    learned = {
        k: v.requires_grad_()
        for k, v in net.tensors.items()
        if v.is_floating_point() and "running" not in k
    }
    direction = torch.randn(6, 7, dtype=torch.float64)

    torch.manual_seed(2)
    expected = original_logits(name, net, points)
    (expected * direction).sum().backward()
    torch.manual_seed(2)
    logits = model(points)
    (logits * direction).sum().backward()
    assert_close(logits.detach(), expected.detach(), kind="fused")

    with torch.no_grad():
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.sub_(rate * parameter.grad)
        for tensor in learned.values():
            tensor -= rate * tensor.grad
    exported = export_weights(model, source)
    # Through batch norm the gradients of small batches grow: compare at the scale of the largest.
    scale = max(rate * tensor.grad.abs().max().item() for tensor in learned.values())
    assert set(exported) == set(net.tensors)
    for key, value in exported.items():
        want = net.tensors[key].detach()
        assert_close(value, want, kind="fused", scale=scale if key in learned else None, name=key)
        assert not torch.equal(value, tensors[key]) or key.endswith("bias"), key


@pytest.mark.parametrize("name", LAYOUTS)
def test_out_and_in_again_is_bit_identical(name):
    source, _, shapes = LAYOUTS[name]
    tensors = random_tensors(name, torch.float32)
    model = load_weights(tensors, source=source, backend="conv2d")
    exported = export_weights(model, source)
    assert {key: tuple(value.shape) for key, value in exported.items()} == shapes
    for key, value in exported.items():
        assert value.dtype == tensors[key].dtype
        assert torch.equal(value, tensors[key]), key
    other = type(model)(**model.architecture, backend="linear")
    again = load_weights(exported, other, source=source)
    for key, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[key].flatten(), value.flatten()), key
    exported["bn1.weight"].zero_()  # a copy
    assert model.state_dict()["head.layers.0.norm.weight"].any()


def test_the_keys_tell_the_source():
    rates = {name: load_weights(random_tensors(name)).architecture["dropout"] for name in LAYOUTS}
    assert rates == {
        "yanx27": (0.0, 0.4),
        "yanx27 with normals": (0.0, 0.4),
        "fxia22": (0.0, 0.3),
        "fxia22 with feature transform": (0.0, 0.4),  # has the keys of yanx27's
        "learning3d": (0.7, 0.7),
        "learning3d without norm": (0.7, 0.7),
        "antao97": (0.5,),
        "antao97 of another width": (0.5,),
    }
    tensors = random_tensors("fxia22 with feature transform")
    assert load_weights(tensors, source="fxia22").architecture["dropout"] == (0.0, 0.3)


def test_options_of_the_made_model():
    model = load_weights(random_tensors("antao97"), backend="conv1d", fused=False, dropout=0.2)
    assert model.global_pool.backend == "conv1d"
    assert model.global_pool.fused is False
    assert model.architecture["dropout"] == (0.2,)
    assert model.training
    assert next(model.parameters()).dtype == torch.float64
    with pytest.raises(ValueError, match=r"in_channels is 6, expected 3"):
        load_weights(random_tensors("antao97"), in_channels=6)
    with pytest.raises(ValueError, match=r"there is one: leave out \['backend'\]"):
        load_weights(random_tensors("antao97"), model, backend="conv1d")


def test_a_matching_model_keeps_its_dropout_rate_and_dtype():
    tensors = random_tensors("learning3d")
    options = {**load_weights(tensors).architecture, "dropout": (0.1, 0.2)}
    model: Any = ThirdPartyPointNet(**options)
    loaded: Any = load_weights(tensors, model)
    assert loaded is model
    assert model.head.layers[0].dropout.p == 0.1
    assert model.head.layers[0].linear.weight.dtype == torch.float32
    assert torch.equal(model.head.layers[0].linear.weight, tensors["linear1.weight"].float())
    # Without dropout it has no place.
    options |= {"dropout": 0.0, "dropout_before_norm": True}
    load_weights(tensors, ThirdPartyPointNet(**options))


@pytest.mark.parametrize("name", LAYOUTS)
def test_another_network_is_explained_by_the_call_that_makes_the_right_one(name):
    source, _, _ = LAYOUTS[name]
    tensors = random_tensors(name)
    other: Any = create_model("pointnet", num_classes=8)
    with pytest.raises(ValueError, match="the model is another network") as caught:
        load_weights(tensors, other, source=source)
    text = str(caught.value)
    assert "num_classes is 8, expected 7" in text
    for option, there in load_weights(tensors, source=source).architecture.items():
        have = {**DEFAULTS, **other.architecture}[option]
        if option == "dropout":  # a rate is free, a place is not
            have, there = [rate > 0 for rate in have], [rate > 0 for rate in there]
        assert (f"{option} is " in text) == (there != have), option
    call = re.search(r"create_model\(.*?\)(?=, or)", text)
    assert call is not None
    load_weights(tensors, make(call[0]), source=source)


def test_a_model_that_they_do_not_have_is_not_exported():
    own: Any = create_model("pointnet")
    with pytest.raises(ValueError, match=r"get_model, has no such network: local_channels is"):
        export_weights(own, "yanx27")
    own = create_model("pointnet", 9)
    with pytest.raises(ValueError, match="transforms is True, expected False") as caught:
        export_weights(own, "antao97")
    call = re.search(r"create_model\(.*\)", str(caught.value))
    assert call is not None
    exported = export_weights(make(call[0]), "antao97")
    assert exported["linear2.bias"].shape == (9,)
    normals = load_weights(random_tensors("yanx27 with normals"))
    with pytest.raises(ValueError, match="in_channels is 6, expected 3"):
        export_weights(normals, "fxia22")
    narrow: Any = load_weights(random_tensors("antao97 of another width"))
    narrower = PointNet(**{**narrow.architecture, "local_channels": (32, 64)})
    with pytest.raises(ValueError, match=r"local_channels is \(32, 64\), expected \(64, 64\)"):
        export_weights(narrower, "antao97")
    with pytest.raises(ValueError, match="unknown source 'yan': choose one of yanx27, fxia22"):
        export_weights(narrow, "yan")
    with pytest.raises(ValueError, match="expected a PointNet, got a Sequential"):
        export_weights(torch.nn.Sequential(narrow), "antao97")  # type: ignore[arg-type]  # what is tested
    narrow.head.layers[0].register_buffer("mask", torch.ones(1))
    with pytest.raises(ValueError, match=r"has no place for head.layers.0.mask"):
        export_weights(narrow, "antao97")


def test_keys_that_do_not_match_are_listed():
    tensors = random_tensors("learning3d")
    for key in ("feature_model.conv4.bias", "feature_model.bn1.bias", "bn2.running_var"):
        del tensors[key]
    tensors["linear4.weight"] = torch.zeros(2)
    tensors["epoch"] = 3
    tensors["linear3.weight"] = torch.zeros(7, 255)
    with pytest.raises(ValueError, match=r"most like learning3d's") as caught:
        load_weights(tensors)
    text = str(caught.value)
    assert "missing: feature_model.bn1.bias, feature_model.conv4.bias, bn2.running_var;" in text
    assert "unknown: linear4.weight, epoch;" in text
    assert text.endswith("of another shape: linear3.weight is (7, 255), expected (7, 256)")


@pytest.mark.parametrize(
    "tensors",
    [{}, {"layer.weight": torch.zeros(3, 3)}, create_model("pointnet").state_dict()],
    ids=["empty", "strange", "ours"],
)
def test_weights_of_no_known_kind(tensors):
    with pytest.raises(
        ValueError, match=r"no known kind: expected those of yanx27, .* got the key"
    ):
        load_weights(tensors)


def test_strange_shapes_are_listed_and_not_tripped_over():
    tensors = random_tensors("antao97")
    tensors["conv1.weight"] = torch.zeros(64, 1, 1)
    tensors["linear2.weight"] = torch.zeros(0)
    tensors["conv5.weight"] = "lost"
    with pytest.raises(ValueError, match=r"conv1.weight is \(64, 1, 1\), expected \(64, 3, 1\)"):
        load_weights(tensors)
