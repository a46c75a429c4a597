import copy

import pytest
import torch
from torch import nn

from sharedmlp import SharedMLP
from sharedmlp.convert import adapt_optimizer_state

MAKERS = {
    "adam": lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
}


def step(model, optimizer, points):
    optimizer.zero_grad()
    model(points).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("target", ["linear", "conv1d", "conv2d"])
@pytest.mark.parametrize("source", ["linear", "conv1d", "conv2d"])
def test_steps_go_on_on_another_backend(source, target, make):
    points = torch.randn(2, 7, 3, dtype=torch.float64)
    models = [SharedMLP([3, 5, 4], backend=name).double() for name in (source, target)]
    optimizers = [make(model.parameters()) for model in models]
    step(models[0], optimizers[0], points)
    models[1].load_state_dict(models[0].state_dict())
    saved = copy.deepcopy(optimizers[0].state_dict())
    kept = copy.deepcopy(saved)
    optimizers[1].load_state_dict(adapt_optimizer_state(saved, models[1].parameters()))
    for model, optimizer in zip(models, optimizers, strict=True):
        step(model, optimizer, points)
    for a, b in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(a.flatten(), b.flatten(), rtol=0, atol=1e-9)
    for number, values in kept["state"].items():  # untouched
        for name, value in values.items():
            assert torch.equal(value, saved["state"][number][name])


def test_only_pointwise_weights_change_their_shape():
    conv = nn.Conv1d(3, 4, 2)
    optimizer = MAKERS["sgd"](conv.parameters())
    step(conv, optimizer, torch.randn(2, 3, 5))
    with pytest.raises(ValueError, match=r"\(4, 3, 2\) does not fit one of \(4, 6\)"):
        adapt_optimizer_state(optimizer.state_dict(), nn.Linear(6, 4).parameters())


def test_another_number_of_parameters_is_refused():
    optimizer = MAKERS["sgd"](nn.Linear(3, 4).parameters())
    with pytest.raises(ValueError, match="2 parameters, but 1 were given"):
        adapt_optimizer_state(optimizer.state_dict(), nn.Linear(3, 4, bias=False).parameters())
