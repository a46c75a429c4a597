"""What cannot be converted is refused with the node and the reason."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from sharedmlp.convert import ConversionError, convolutionalize
from tests.convert.networks import Classifier, lenet5, lenet5_features, lenet5_head


class Function(nn.Module):
    """A forward that is one function of the module and its input."""

    def __init__(self, function, **members):
        super().__init__()
        self.function = function
        for name, member in members.items():
            setattr(self, name, member)

    def forward(self, x):
        return self.function(self, x)


def in_front(function, **members):
    return Classifier(
        nn.Sequential(lenet5_features(), Function(function, **members)),
        nn.Flatten(),
        lenet5_head(),
    )


def behind(function, channels=400, **members):
    return Classifier(
        lenet5_features(),
        nn.Flatten(),
        nn.Sequential(Function(function, **members), nn.Linear(channels, 10)),
    )


def squeeze_excite(self, x):
    return x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid()


FRONT = {
    "squeeze and excitation": (
        in_front(squeeze_excite, gate=nn.Conv2d(16, 16, 1)),
        r"mul.*broadcasts maps of different sizes \(1 x 1, 5 x 5\)",
    ),
    "attention": (
        in_front(lambda self, x: F.scaled_dot_product_attention(x, x, x)),
        r"function scaled_dot_product_attention\): in attention every position sees every other",
    ),
    "linear over the last axis": (
        in_front(lambda self, x: self.fc(x), fc=nn.Linear(5, 5)),
        r"'features.1.fc', Linear\): it works along the last axis",
    ),
    "F.linear": (
        in_front(lambda self, x: F.linear(x, self.weight), weight=nn.Parameter(torch.eye(5))),
        "function linear.*make it an nn.Linear",
    ),
    "positions": (
        in_front(lambda self, x: x + self.table, table=nn.Parameter(torch.rand(16, 5, 5))),
        r"'features.1.table' of shape \(16, 5, 5\) that does not come from the input",
    ),
    "group norm": (
        in_front(lambda self, x: self.norm(x), norm=nn.GroupNorm(2, 16)),
        "GroupNorm.*statistics are taken over all positions",
    ),
    "batch norm without statistics": (
        in_front(lambda self, x: self.norm(x), norm=nn.BatchNorm2d(16, track_running_stats=False)),
        "BatchNorm2d.*without running statistics",
    ),
    "softmax over positions": (
        in_front(lambda self, x: x.softmax(-1)),
        "method softmax.*over dimension -1, a sum over positions",
    ),
    "softmax of a row": (in_front(lambda self, x: self.act(x), act=nn.Softmax(-1)), "dimension -1"),
    "transposed": (
        in_front(lambda self, x: x.transpose(2, 3)),
        "method transpose.*not known to be local",
    ),
    "size in the numbers": (
        in_front(lambda self, x: x / x.shape[2]),
        "truediv.*computes with a number, such as the size of its input",
    ),
    "circular padding": (
        in_front(
            lambda self, x: self.conv(x),
            conv=nn.Conv2d(16, 16, 3, padding=1, padding_mode="circular"),
        ),
        "Conv2d.*circular padding",
    ),
    "joined along positions": (
        in_front(lambda self, x: torch.cat([x, x], 2)[:, :, :5]),
        "function cat.*along dimension 2",
    ),
    "split": (
        in_front(lambda self, x: torch.cat(x.chunk(2, 1)[::-1], 1)),
        "method chunk.*not known to be local",
    ),
    "mean in another dtype": (
        nn.Sequential(
            lenet5_features(), Function(lambda self, x: x.mean((2, 3), dtype=torch.float64))
        ),
        "method mean.*changes the dtype",
    ),
    "a kernel made of the input": (
        nn.Sequential(lenet5_features(), Function(lambda self, x: F.conv2d(x, x))),
        "function conv2d.*its kernel is made of the input",
    ),
    "mean over two axes": (
        nn.Sequential(lenet5_features(), Function(lambda self, x: x.mean((1, 3)))),
        r"method mean.*reduces over \(1, 3\), not over the positions",
    ),
    "mean over one axis": (
        in_front(lambda self, x: x - x.mean(1, keepdim=True)),
        r"method mean.*reduces over 1, not over the positions",
    ),
}


@pytest.mark.parametrize("case", FRONT)
@pytest.mark.parametrize("mode", ["spatial", "flatten"])
def test_in_front_of_the_flatten(case, mode):
    model, message = FRONT[case]
    with pytest.raises(ConversionError, match=message) as caught:
        convolutionalize(model.eval(), (1, 32, 32), mode)
    assert str(caught.value).startswith("node '")


def test_branches_with_different_strides():
    # Both make 2 x 2 of 5 x 5; of 6 x 6 they make 2 x 2 and 3 x 3.
    model = Classifier(
        Function(
            lambda self, x: self.wide(x) + self.narrow(x),
            wide=nn.Conv2d(1, 4, 3, stride=2),
            narrow=nn.Conv2d(1, 4, 4),
        ),
        nn.Flatten(),
        nn.Linear(16, 3),
    )
    with pytest.raises(ConversionError, match=r"different strides \(2, 1\)"):
        convolutionalize(model, (1, 5, 5))


BEHIND = {
    "layer norm": (behind(lambda self, x: self.norm(x), norm=nn.LayerNorm(400)), "LayerNorm"),
    "a view to a map": (
        behind(lambda self, x: x.view(-1, 16, 25).flatten(1)),
        "method view.*after the flatten only linear layers",
    ),
    "a table": (
        behind(lambda self, x: x + self.table, table=nn.Parameter(torch.rand(400))),
        "reads the tensor 'head.0.table'",
    ),
    "weights per feature": (
        behind(lambda self, x: self.act(x), act=nn.PReLU(400)),
        r"PReLU.*MapShape\(channels=16, height=5, width=5\).*mode=\"flatten\"",
    ),
    "the number of features": (
        behind(lambda self, x: x / x.size(1)),
        "truediv.*computes with the size of its input",
    ),
    "softmax of features": (behind(lambda self, x: x.softmax(1)), "softmax can only be taken"),
    "softmax over the batch": (
        behind(lambda self, x: self.fc(x).softmax(0), 5, fc=nn.Linear(400, 5)),
        "over all features of a vector, dim=1",
    ),
    "joined with flat features": (
        behind(lambda self, x: torch.cat([x, x], 1), 800),
        "function cat.*joins vectors that were maps",
    ),
    "joined with a table": (
        behind(
            lambda self, x: torch.cat([self.fc(x), self.table], 1),
            8,
            fc=nn.Linear(400, 5),
            table=nn.Parameter(torch.rand(2, 3)),
        ),
        "function cat.*only vectors can be joined",
    ),
    "joined along the batch": (
        behind(lambda self, x: torch.cat([self.fc(x)] * 2), 5, fc=nn.Linear(400, 5)),
        "function cat.*along their features",
    ),
    "parametrized": (
        behind(lambda self, x: self.fc(x), 5, fc=parametrizations.weight_norm(nn.Linear(400, 5))),
        "'head.0.fc', ParametrizedLinear",
    ),
    "batch norm without statistics": (
        behind(
            lambda self, x: self.norm(self.fc(x)),
            5,
            fc=nn.Linear(400, 5),
            norm=nn.BatchNorm1d(5, track_running_stats=False),
        ),
        "BatchNorm1d.*without running statistics",
    ),
    "flat features returned": (
        nn.Sequential(lenet5_features(), nn.Flatten()),
        r"flattened features of \(16, 5, 5\).*mode=\"flatten\"",
    ),
}


@pytest.mark.parametrize("case", BEHIND)
def test_behind_the_flatten(case):
    model, message = BEHIND[case]
    with pytest.raises(ConversionError, match=message) as caught:
        convolutionalize(model.eval(), (1, 32, 32))
    assert str(caught.value).startswith("node '")


def test_vectors_of_other_maps():
    def forward(self, x):
        return self.fc(x.flatten(1) + self.conv(x).mean((2, 3)))

    model = Function(forward, conv=nn.Conv2d(4, 16, 1), fc=nn.Linear(16, 3))
    with pytest.raises(ConversionError, match=r"add.*joins vectors that were maps of different"):
        convolutionalize(model, (4, 2, 2))


def test_a_vector_and_a_map():
    # (2, 4) and (2, 4, 2, 4) can be added, for a batch of two.
    with pytest.raises(ConversionError, match=r"add.*joins a vector and a map"):
        convolutionalize(Function(lambda self, x: x + x.mean((2, 3))), (4, 2, 4))


def test_weights_that_are_shared():
    model = Classifier(
        lenet5_features(), nn.Flatten(), nn.Sequential(nn.Linear(400, 400), nn.Linear(400, 400))
    )
    model.head[1].weight = model.head[0].weight
    with pytest.raises(ConversionError, match=r"'head.0'.*shares a parameter with .*'head.1'"):
        convolutionalize(model, (1, 32, 32))


def test_one_layer_for_two_sizes_of_features():
    fc = nn.Linear(16, 16)

    def forward(self, x):
        return self.fc(self.fc(x.flatten(1)))

    with pytest.raises(ConversionError, match=r"'fc'.*called twice, once as .*once as "):
        convolutionalize(Function(forward, fc=fc), (4, 2, 2))


def test_pooling_that_is_not_one_window():
    model = Classifier(
        lenet5_features(), nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten()), nn.Linear(64, 3)
    )
    with pytest.raises(ConversionError, match=r"'flatten.0'.*pools 5 x 5 to 2 x 2"):
        convolutionalize(model, (1, 32, 32))
    pool = nn.AdaptiveMaxPool2d(1, return_indices=True)
    model = Function(lambda self, x: self.pool(x)[0], pool=pool)
    with pytest.raises(ConversionError, match="it returns indices into its input"):
        convolutionalize(model, (1, 32, 32))


def test_control_flow_on_data():
    model = in_front(lambda self, x: x if x.sum() > 0 else -x)
    with pytest.raises(ConversionError, match=r"cannot trace .*Classifier .*control flow"):
        convolutionalize(model, (1, 32, 32))


def test_several_results():
    model = Function(lambda self, x: (x, x))
    with pytest.raises(ConversionError, match=r"one tensor .* wrap the model"):
        convolutionalize(model, (1, 32, 32))


@pytest.mark.parametrize("size", [(1, 40, 40), (3, 32, 32)])
def test_an_input_size_that_is_not_the_models(size):
    with pytest.raises(ConversionError, match=r"node '.*is input_size the model's own\?"):
        convolutionalize(lenet5(), size)
    with pytest.raises(ConversionError, match=r"node '.*"):
        convolutionalize(lenet5(flatten=lambda x: x.view(-1, 400)), size)


@pytest.mark.parametrize("size", [(32, 32), (1, 1, 32, 32), (1, 32, 0), (1, 32.0, 32)])
def test_input_sizes(size):
    with pytest.raises(ValueError, match=r"input_size is \(C, H, W\).*leave the batch out"):
        convolutionalize(lenet5(), size)


def test_modes():
    with pytest.raises(ValueError, match='mode is "spatial" or "flatten", got \'full\''):
        convolutionalize(lenet5(), (1, 32, 32), "full")
