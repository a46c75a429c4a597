"""torch.func and forward-mode differentiation: per-sample gradients, Jacobians, ensembles."""

import copy

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import (
    functional_call,
    grad,
    hessian,
    jacfwd,
    jacrev,
    jvp,
    stack_module_state,
    vjp,
    vmap,
)

from tests.covering import pairwise
from tests.ops.compare import BACKENDS, LAYERS, make, points, same

each_backend = pytest.mark.parametrize("backend", BACKENDS)
each_layer = pytest.mark.parametrize("kind", LAYERS)
SMALL = (2, 5, 3)


def state_of(module):
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


TRANSFORMS = {
    "grad": lambda f, x: grad(lambda x: f(x).square().sum())(x),
    "vjp": lambda f, x: vjp(f, x)[0],
    "jvp": lambda f, x: jvp(f, (x,), (torch.ones_like(x),)),
    "jacrev": lambda f, x: jacrev(f)(x),
    "jacfwd": lambda f, x: jacfwd(f)(x),
    "vmap": lambda f, x: vmap(f)(x[:, None]),
    "vmap of grad": lambda f, x: vmap(grad(lambda x: f(x[None]).sum()))(x),
}


@pairwise(name=TRANSFORMS, backend=BACKENDS, kind=LAYERS)
def test_transforms_of_the_input(name, kind, backend):
    same(lambda module: TRANSFORMS[name](module, points(*SMALL)), kind, backend)


@each_backend
def test_hessian(backend):
    same(lambda m: hessian(lambda x: m(x).square().sum())(points(1, 4, 3)), "pool", backend)


@each_backend
@each_layer
def test_per_sample_gradients_of_the_parameters(kind, backend):
    def use(module):
        buffers = dict(module.named_buffers())

        def loss(parameters, x):
            return functional_call(module, (parameters, buffers), (x[None],)).square().sum()

        parameters = {name: p.detach() for name, p in module.named_parameters()}
        return vmap(grad(loss), in_dims=(None, 0))(parameters, points(*SMALL))

    same(use, kind, backend)


@each_backend
@each_layer
def test_an_ensemble(kind, backend):
    def use(module):
        other = copy.deepcopy(module)
        with torch.no_grad():
            for p in other.parameters():
                p.add_(0.1)
        parameters, buffers = stack_module_state([module, other])
        base = copy.deepcopy(module)

        def run(parameters, buffers, x):
            return functional_call(base, (parameters, buffers), (x,))

        return vmap(run, in_dims=(0, 0, None))(parameters, buffers, points(*SMALL))

    same(use, kind, backend)


@each_backend
@each_layer
def test_functional_call_with_other_weights(kind, backend, training):
    def use(module):
        weights = {name: (p * 2).detach() for name, p in module.named_parameters()}
        for tensor in weights.values():
            tensor.requires_grad_()
        y = functional_call(module, weights, (points(*SMALL),))
        y.square().sum().backward()
        return y, [tensor.grad for tensor in weights.values()]

    same(use, kind, backend, training=training)


@each_backend
@each_layer
def test_forward_mode(kind, backend):
    def use(module):
        with forward_ad.dual_level():
            y = module(forward_ad.make_dual(points(*SMALL), torch.ones(SMALL).double()))
            return tuple(forward_ad.unpack_dual(y))

    same(use, kind, backend)


@each_backend
def test_a_gradient_that_is_differentiated_again(backend, training):
    def use(module):
        x = points(*SMALL).requires_grad_()
        (first,) = torch.autograd.grad(module(x).square().sum(), x, create_graph=True)
        return first, torch.autograd.grad(first.square().sum(), [x, *module.parameters()][:2])

    same(use, "pool", backend, training=training, plain=False)
    assert make("pool", backend).fused == "auto"
