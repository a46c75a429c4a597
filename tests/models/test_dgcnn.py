"""DGCNN against the plain formula of the whole network: gather edges, multiply, normalize, max."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from sharedmlp import create_model, list_models
from sharedmlp.models import DGCNN, load_safetensors, save_safetensors
from tests.covering import pairwise
from tests.formula import randomize, scale_of
from tests.tolerances import assert_close

BACKENDS = ["linear", "conv1d", "conv2d"]
SMALL: dict[str, Any] = {
    "k": 4,
    "edge_channels": (6, 7),
    "embedding_channels": 24,
    "head_channels": (10, 9),
}


def make(backend="linear", in_channels=3, **options):
    torch.manual_seed(0)
    options = {**SMALL, "dropout": 0.0, **options}
    model = create_model("dgcnn", 5, in_channels, backend=backend, **options).double()
    randomize(model)
    return model


def random(*shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


class Formula:
    """The network by bare matrices, with copies of a model's parameters and statistics."""

    def __init__(self, model):
        self.training = model.training
        self.k = model.architecture["k"]
        self.parameters = {}
        for name, value in model.named_parameters():
            copy = value.detach().clone()
            copy = copy.reshape(copy.shape[:2]) if copy.ndim > 1 else copy
            self.parameters[name] = copy.requires_grad_()
        self.buffers = {name: value.clone() for name, value in model.named_buffers()}

    def layer(self, x, key):
        y = x @ self.parameters[f"{key}.linear.weight"].T
        positions = tuple(range(y.ndim - 1))
        mean, variance = (self.buffers[f"{key}.norm.running_{name}"] for name in ("mean", "var"))
        if self.training:
            count = y[..., 0].numel()
            batch_mean = y.mean(positions)
            batch_variance = ((y - batch_mean) ** 2).mean(positions)
            mean.mul_(0.9).add_(0.1 * batch_mean.detach())
            variance.mul_(0.9).add_(0.1 * batch_variance.detach() * count / (count - 1))
            self.buffers[f"{key}.norm.num_batches_tracked"] += 1
            mean, variance = batch_mean, batch_variance
        y = (y - mean) / (variance + 1e-5) ** 0.5
        y = y * self.parameters[f"{key}.norm.weight"] + self.parameters[f"{key}.norm.bias"]
        return torch.where(y > 0, y, 0.2 * y)

    def __call__(self, points):
        features, x = [], points
        for number in range(len(SMALL["edge_channels"])):
            where = x.detach() if number else x.detach()[..., :3]
            distances = (where[:, :, None] - where[:, None]).square().sum(-1)
            neighbors = distances.sort(-1).indices[..., : self.k]
            ends = x[:, :, None].repeat(1, 1, self.k, 1)
            gathered = torch.stack([x[i][neighbors[i]] for i in range(len(x))])
            edges = torch.cat([gathered - ends, ends], -1)
            x = self.layer(edges, f"edge_convs.{number}.pool.layers.0").max(2).values
            features.append(x)
        y = self.layer(torch.cat(features, -1), "embedding.layers.0")
        y = torch.cat([y.max(1).values, y.sum(1) / y.shape[1]], -1)
        y = self.layer(self.layer(y, "head.layers.0"), "head.layers.1")
        last = "head.layers.2.linear"
        return y @ self.parameters[f"{last}.weight"].T + self.parameters[f"{last}.bias"]


@pairwise(
    backend=BACKENDS,
    training=[True, False],
    fused=[True, "auto", False],
    in_channels=[3, 6],
)
def test_the_numbers_are_those_of_the_formula(backend, training, fused, in_channels):
    model = make(backend, in_channels, fused=fused).train(training)
    formula = Formula(model)
    points = random(4, 13, in_channels)
    leaf, plain = points.clone().requires_grad_(), points.clone().requires_grad_()
    got, want = model(leaf), formula(plain)
    assert_close(got.detach(), want.detach(), kind="fused")
    direction = random(*want.shape, seed=2)
    (got * direction).sum().backward()
    (want * direction).sum().backward()
    assert_close(leaf.grad, plain.grad, kind="fused", scale=scale_of(plain.grad), name="points")
    gradients = {name: parameter.grad for name, parameter in formula.parameters.items()}
    scale = max(map(scale_of, gradients.values()))
    for name, parameter in model.named_parameters():
        found = parameter.grad.view_as(gradients[name])
        assert_close(found, gradients[name], kind="fused", scale=scale, name=name)
    for name, buffer in model.named_buffers():
        assert_close(buffer, formula.buffers[name], kind="fused", name=name)


def train(backend, fused):
    model = make(backend, fused=fused)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for step in range(20):
        points = random(8, 15, 3, seed=step) * (1 + random(8, 1, 3, seed=100 + step).abs())
        labels = torch.arange(8) % 5
        optimizer.zero_grad()
        F.cross_entropy(model(points), labels).backward()
        optimizer.step()
    return model.state_dict()


def test_training_stays_together_in_every_backend():
    want = train("linear", False)
    for backend in BACKENDS:
        state = train(backend, True)
        assert list(state) == list(want)
        for name, value in want.items():
            assert_close(
                state[name].view_as(value), value, kind="training, fused", scale=1.0, name=name
            )


@pytest.mark.parametrize("backend", BACKENDS)
def test_files_go_to_any_backend(backend, tmp_path):
    model = make().float().eval()
    model.metadata = {"class_names": list("abcde")}
    save_safetensors(model, tmp_path / "dgcnn.safetensors")
    other = load_safetensors(tmp_path / "dgcnn.safetensors", backend=backend)
    assert isinstance(other, DGCNN)
    assert other.metadata == model.metadata
    assert other.architecture == model.architecture
    points = random(2, 9, 3).float()
    with torch.no_grad():
        assert_close(other(points), model(points), kind="fused")


def test_initial_weights_are_the_same_in_every_backend():
    states = []
    for backend in BACKENDS:
        torch.manual_seed(0)
        states.append(create_model("dgcnn", 5, backend=backend, **SMALL).state_dict())
    for state in states[1:]:
        for name, value in states[0].items():
            assert torch.equal(state[name].view_as(value), value), name


def test_it_is_listed_and_of_the_papers_size():
    assert "dgcnn" in list_models()
    assert list_models(task="classification", tag="dgcnn") == ["dgcnn"]
    model: Any = create_model("dgcnn", 40)
    # The authors' program has 256 more, the bias before the second batch norm of the head.
    assert sum(parameter.numel() for parameter in model.parameters()) == 1_809_576 - 256
    assert [layer.dropout.p for layer in model.head.layers[:2]] == [0.5, 0.5]
    assert [layer.k for layer in model.edge_convs] == [20] * 4
    slopes = {m.negative_slope for m in model.modules() if isinstance(m, torch.nn.LeakyReLU)}
    assert slopes == {0.2}


def test_the_order_of_the_points_does_not_matter():
    model = make().eval()
    points, order = random(3, 19, 3), torch.randperm(19)
    assert_close(model(points[:, order]), model(points), kind="fused")


def test_everything_of_one_pass():
    model = make().eval()
    points = random(3, 9, 3)
    output = model.forward_detailed(points)
    assert torch.equal(output.logits, model(points))
    assert torch.equal(output.global_feature, model.forward_features(points))
    assert [f.shape for f in output.edge_features] == [(3, 9, 6), (3, 9, 7)]
    assert model.extra_loss(output) is None


def test_another_number_of_classes():
    model = make()
    hidden = model.head.layers[0]
    model.metadata = {"class_names": list("abcde")}
    model.reset_classifier(3)
    assert model(random(2, 9, 3)).shape == (2, 3)
    assert model.head.layers[0] is hidden
    assert model.metadata == {}
    model.reset_classifier(0)
    assert model(random(2, 9, 3)).shape == (2, 48)
    again = DGCNN(**model.architecture)
    assert list(again.state_dict()) == list(model.state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": -1}, "num_classes >= 0"),
        ({"in_channels": 2}, "in_channels >= 3"),
        ({"k": 0}, "positive"),
        ({"search_precision": "float16"}, "search_precision"),
        ({"edge_channels": ()}, "edge_channels"),
        ({"dropout": (0.1,)}, "dropout"),
        ({"backend": "conv3d"}, "backend"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        DGCNN(**{"num_classes": 5, **options})


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((9, 3), "unsqueeze"),
        ((2, 3, 9), "transpose"),
        ((2, 9, 4), "in_channels=4"),
        ((2, 0, 3), "empty clouds"),
        ((1, 9, 3), "at least two clouds"),
    ],
)
def test_wrong_points(shape, message):
    with pytest.raises(ValueError, match=message):
        create_model("dgcnn", 5, **SMALL)(torch.zeros(shape))
