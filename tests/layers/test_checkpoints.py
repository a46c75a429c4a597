"""One checkpoint for three backends."""

import copy
import io
import pickle  # noqa: TID251 - what is tested is that users may pickle a layer

import pytest
import torch
from torch import nn

from sharedmlp import SharedMLP, SharedMLPMaxPool, TNet, create_model
from tests.covering import pairwise
from tests.formula import randomize
from tests.tolerances import assert_close

BACKENDS = ["linear", "conv1d", "conv2d"]
MAKERS = {
    "SharedMLP": lambda backend: SharedMLP([3, 6, 5], backend=backend, bias=True),
    "SharedMLPMaxPool": lambda backend: SharedMLPMaxPool([3, 6, 5], backend=backend),
    "TNet": lambda backend: TNet(3, backend=backend, channels=(6, 9), hidden_channels=(5,)),
    "pointnet": lambda backend: create_model("pointnet", 4, backend=backend),
}
REAL_MODULES = {"linear": nn.Linear, "conv1d": nn.Conv1d, "conv2d": nn.Conv2d}


@pairwise(name=list(MAKERS), source=BACKENDS, target=BACKENDS, assign=[False, True])
def test_a_checkpoint_of_any_backend_loads_into_any(name, source, target, assign):
    make = MAKERS[name]
    torch.manual_seed(0)
    trained = make(source).double().eval()
    randomize(trained)
    torch.manual_seed(1)
    fresh = make(target).double().eval()
    x = torch.randn(2, 7, 3, dtype=torch.float64)
    file = io.BytesIO()
    torch.save(trained.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)  # noqa: TID251 - tensors alone
    shapes = {name: value.shape for name, value in state.items()}

    fresh.load_state_dict(state, strict=True, assign=assign)

    assert {name: value.shape for name, value in state.items()} == shapes, "caller's dict changed"
    assert_close(fresh(x), trained(x))


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_the_same_seed_gives_bit_identical_weights_and_keys(make):
    states = []
    for backend in BACKENDS:
        torch.manual_seed(3)
        states.append(make(backend).state_dict())
    for state in states[1:]:
        assert list(state) == list(states[0])
        for name, value in state.items():
            assert torch.equal(value.flatten(), states[0][name].flatten()), name


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_backend_is_made_of_the_real_modules(backend):
    mlp = SharedMLP([3, 6, 5], backend=backend)
    assert [type(layer.linear) for layer in mlp.layers] == [REAL_MODULES[backend]] * 2


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(6, 4), (5, 3), (6, 3, 2), (3, 6), (6, 3, 1, 1, 1), (18,)])
def test_any_other_shape_fails_as_usual(backend, shape):
    mlp = SharedMLP([3, 6], backend=backend)
    state = mlp.state_dict()
    state["layers.0.linear.weight"] = torch.zeros(shape)
    with pytest.raises(RuntimeError, match=r"size mismatch for layers\.0\.linear\.weight"):
        mlp.load_state_dict(state)


@pytest.mark.parametrize("backend", BACKENDS)
def test_missing_and_unexpected_keys_fail_as_usual(backend):
    mlp = SharedMLP([3, 6], backend=backend)
    with pytest.raises(RuntimeError, match="Missing key"):
        mlp.load_state_dict({})
    with pytest.raises(RuntimeError, match="Unexpected key"):
        mlp.load_state_dict({**mlp.state_dict(), "other": torch.zeros(1)})


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))],
    ids=["deepcopy", "pickle"],
)
def test_copies_are_independent_and_still_load_any_backend(backend, duplicate):
    original = create_model("pointnet", 4, backend=backend).eval()
    twin = duplicate(original)
    x = torch.randn(2, 7, 3)
    assert torch.equal(original(x), twin(x))
    with torch.no_grad():
        twin.local_mlp.layers[0].linear.weight.zero_()
    assert not torch.equal(original(x), twin(x))
    other = create_model("pointnet", 4, backend="conv1d" if backend == "linear" else "linear")
    twin.load_state_dict(other.state_dict())
    assert_close(twin(x), other.eval()(x))
