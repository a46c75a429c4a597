"""What all networks offer under timm's names, whatever is before the head."""

import pytest
import torch

from sharedmlp import create_model, list_models
from sharedmlp.models import PointCloudModel
from sharedmlp.models.class_head import match_class_names, select_classes
from sharedmlp.models.saved import network_name
from tests.models.small import SMALL
from tests.tolerances import assert_close

SMALL = {**SMALL, "pointnet": SMALL["pointnet_vanilla"]}
BACKENDS = ("linear", "conv1d", "conv2d")


def make(name, num_classes=5, **options):
    torch.manual_seed(0)
    return create_model(name, num_classes, **{**SMALL[name], **options})


def make_points(count=3):
    return torch.randn(count, 20, 3, generator=torch.Generator().manual_seed(1)) / 2


@pytest.mark.parametrize("name", list_models(task="classification"))
def test_features_then_head_is_the_network(name):
    model, points = make(name).eval(), make_points()
    features = model.forward_features(points)
    assert features.shape == (3, model.num_features)
    assert torch.equal(model.forward_head(features), model(points))
    hidden = model.forward_head(features, pre_logits=True)
    assert hidden.shape == (3, 12)
    assert torch.equal(model.get_classifier().layers[-1](hidden), model(points))
    without = make(name, num_classes=0).eval()
    without.load_state_dict(
        {k: v for k, v in model.state_dict().items() if not k.startswith("head.")}
    )
    assert torch.equal(without(points), features)
    assert torch.equal(without.forward_head(features), features)


@pytest.mark.parametrize("name", list_models(task="classification"))
def test_another_number_of_classes_keeps_the_hidden_layers(name):
    model, points = make(name).eval(), make_points()
    hidden = model.forward_head(model.forward_features(points), pre_logits=True)
    model.reset_classifier(2)
    assert model(points).shape == (3, 2)
    assert torch.equal(model.forward_head(model.forward_features(points), pre_logits=True), hidden)
    model.reset_classifier(0)
    assert model(points).shape == (3, model.num_features)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["pointnet_vanilla", "dgcnn", "pointnet2_msg"])
def test_some_classes_are_those_columns_of_the_logits(name, backend):
    model, points = make(name, backend=backend).eval(), make_points()
    model.metadata = {"class_names": list("abcde"), "up_axis": "y"}
    logits = model(points)
    select_classes(model, [3, 0, 4])
    assert_close(model(points), logits[:, [3, 0, 4]])
    assert model.num_classes == model.options["num_classes"] == 3
    assert model.metadata == {"class_names": ["d", "a", "e"], "up_axis": "y"}


def test_a_permutation_of_as_many_classes_as_hidden_features_moves_the_last_layer_alone():
    model, points = make("pointnet_vanilla", head_channels=(5, 5)).eval(), make_points()
    logits = model(points)
    select_classes(model, [4, 3, 2, 1, 0])
    assert_close(model(points), logits.flip(1))


def test_names_of_classes_match_without_regard_to_case_and_separators():
    known = ["night_stand", "chair", "tv_stand"]
    assert match_class_names(known, ["Chair", "TV stand", "lamp"]) == [1, 2, None]
    assert match_class_names(known, ["night-stand"]) == [0]
    # Where that would be ambiguous, only the same name is the same class.
    assert match_class_names(["a", "A"], ["a", "A"]) == [0, 1]
    assert match_class_names(["a"], ["a", "A"]) == [0, None]


def test_models_are_listed_by_wildcard_task_tag_and_weights():
    assert list_models("pointnet2*", task="classification") == ["pointnet2_msg", "pointnet2_ssg"]
    assert list_models("dgcnn") == ["dgcnn"]
    assert list_models("*vanilla", task="classification", tag="pointnet") == ["pointnet_vanilla"]
    assert list_models("dgcnn", tag="pointnet") == list_models(task="detection") == []
    assert list_models(pretrained=True) == ["pointnet_vanilla"]
    assert list_models("dgcnn", pretrained=True) == []


def test_the_default_weights_bring_their_number_of_classes():
    model = create_model("pointnet_vanilla", pretrained=True)
    named = create_model("pointnet_vanilla", pretrained="modelnet40")
    assert model.num_classes == 40
    assert torch.equal(model(make_points()), named(make_points()))
    assert create_model("pointnet_vanilla", pretrained=False).num_classes == 40
    assert create_model("pointnet_vanilla", 0, pretrained=True)(make_points()).shape == (3, 1024)
    with pytest.raises(ValueError, match="no weights dgcnn_"):
        create_model("dgcnn", pretrained=True)


@pytest.mark.parametrize("name", list_models(task="classification"))
def test_a_network_is_called_what_makes_it(name):
    assert network_name(create_model(name, 3)) == name


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dgcn", {}, r"unknown model 'dgcn': choose one of .*; did you mean dgcnn\?"),
        (
            "dgcnn",
            {"edge_chanels": (3,)},
            r"no option 'edge_chanels': its options are .*; did you mean edge_channel",
        ),
        ("pointnet", {"k": 3}, "pointnet has no option 'k': its options are num_classes, in_chan"),
        ("pointnet_third_party", {"local": 3}, "tnet_channels.*local_channels"),
        ("nowhere.Net", {}, "there is no network nowhere.Net: No module named 'nowhere'"),
        ("json.Net", {}, "there is no network json.Net: module 'json' has no attribute 'Net'"),
        ("json.JSONDecoder", {}, "JSONDecoder is no network: .*PointCloudModel"),
    ],
)
def test_unknown_names_are_errors_that_help(name, options, message):
    with pytest.raises(ValueError, match=message):
        create_model(name, 3, **options)


class Mine(PointCloudModel):
    """The least that a network of one's own needs."""

    def __init__(self, num_classes, in_channels=3, width=7):
        arguments = {"num_classes": num_classes, "in_channels": in_channels, "width": width}
        super().__init__(arguments, {})
        self.points = torch.nn.Linear(in_channels, width)
        self.reset_classifier(num_classes)

    def forward_features(self, points):
        return self.points(points).amax(1)

    def reset_classifier(self, num_classes):
        self.architecture["num_classes"] = self.options["num_classes"] = num_classes
        width = self.architecture["width"]
        self.head = torch.nn.Linear(width, num_classes) if num_classes else torch.nn.Identity()


def test_a_class_of_ones_own_is_made_by_its_path():
    path = f"{__name__}.Mine"
    with pytest.raises(ValueError, match="Mine has no option 'backend'"):
        create_model(path, 4, backend="conv1d")
    mine = create_model(path, 4, width=9)
    assert isinstance(mine, Mine)
    assert network_name(mine) == path
    assert mine.forward_detailed(make_points()).logits.shape == (3, 4)
    logits = mine(make_points())
    select_classes(mine, [2, 1])
    assert_close(mine(make_points()), logits[:, [2, 1]])
