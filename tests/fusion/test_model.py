"""A fused network is the same model: copies, threads, checkpoints, errors."""

import copy
import threading
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
from torch import nn

import sharedmlp
from sharedmlp.fusion import fuse, fusion_report
from tests.fusion.body import POINTS, Body
from tests.fusion.compare import check, cloud, compare, fused_layers, pair
from tests.fusion.networks import Pattern, PortPointNet


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
        fuse(torch.compile(nn.ReLU(), backend="eager"))  # type: ignore[type-var]  # what is tested


def test_the_name_at_the_top_is_this_one():
    assert sharedmlp.fuse is fuse
    assert sharedmlp.fusion_report is fusion_report
    with pytest.raises(AttributeError, match="no attribute 'fusee'"):
        sharedmlp.fusee  # noqa: B018
