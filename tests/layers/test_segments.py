"""Clouds of different sizes, flat with a batch vector or with a mask, against the formula."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sharedmlp import SharedMLPMaxPool
from sharedmlp.ops.cpu import argmax_tiles
from tests.covering import pairwise
from tests.formula import Formula, compare_parameters, randomize, scale_of
from tests.tolerances import assert_close

BACKENDS = ["linear", "conv1d", "conv2d"]
DTYPES = [torch.float64, torch.float32]
COUNTS = [7, 1, 12, 0, 4, 0]


def make(widths=(3, 6, 9), dtype=torch.float64, **options):
    torch.manual_seed(0)
    pool = SharedMLPMaxPool(list(widths), **options).to(dtype)
    randomize(pool)
    return pool


def normal(*shape, dtype=torch.float64, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def batch_of(counts):
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))


def plain_max(y, batch, num_clouds):
    """The max of each cloud in a loop, zeros for one without points; and the rows that won."""
    values, rows = [], []
    for cloud in range(num_clouds):
        own = (batch == cloud).nonzero()[:, 0]
        if len(own) == 0:
            values.append(y.new_zeros(y.shape[1]))
            rows.append(torch.full((y.shape[1],), -1))
            continue
        found = y[own].max(0)
        values.append(found.values)
        rows.append(own[found.indices])
    return torch.stack(values), torch.stack(rows)


def compare_flat(pool, x, batch, num_clouds, *, activation="relu", norm="batch", kind="fused"):
    formula = Formula.of(pool, norm, activation)
    x, plain_x = x.clone().requires_grad_(), x.clone().requires_grad_()
    expected, rows = plain_max(formula(plain_x), batch, num_clouds)
    y, indices = pool(x, return_indices=True, batch=batch, num_clouds=num_clouds)
    assert_close(y.detach(), expected.detach(), kind=kind, name="output")
    if activation is None:  # ReLU makes ties of all that it switches off
        assert torch.equal(indices, rows)
    direction = normal(*y.shape, dtype=x.dtype, seed=2)
    (y * direction).sum().backward()
    (expected * direction).sum().backward()
    assert_close(x.grad, plain_x.grad, kind=kind, scale=scale_of(plain_x.grad), name="input")
    compare_parameters(pool, formula, kind)


@pairwise(
    backend=BACKENDS,
    activation=["relu", "leaky_relu", None],
    fused=[True, False],
    dtype=DTYPES,
    training=[True, False],
)
def test_flat_batches(backend, dtype, activation, fused, training):
    pool = make(dtype=dtype, backend=backend, activation=activation, fused=fused).train(training)
    batch = batch_of(COUNTS)
    x = normal(len(batch), 3, dtype=dtype)
    compare_flat(pool, x, batch, len(COUNTS), activation=activation)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("norm", ["layer", None])
def test_other_norms(norm, fused):
    pool = make(norm=norm, fused="auto" if fused else False)
    batch = batch_of(COUNTS)
    compare_flat(pool, normal(len(batch), 3), batch, len(COUNTS), norm=norm)


@pytest.mark.parametrize("widths", [(3, 9), (3, 6, 4, 9), (3, 6, 6, 9)], ids=str)
def test_depths(widths, training):
    """No narrow layer, one that cannot be fused, two."""
    pool = make(widths).train(training)
    batch = batch_of(COUNTS)
    compare_flat(pool, normal(len(batch), 3), batch, len(COUNTS))


@pytest.mark.parametrize(
    "counts", [[2500, 3, 1100], [40] * 60, [1] * 30, [1024, 1025, 1023, 0]], ids=str
)
def test_clouds_larger_and_smaller_than_a_tile(counts, training):
    pool = make(activation=None).train(training)
    batch = batch_of(counts)
    compare_flat(pool, normal(len(batch), 3), batch, len(counts), activation=None)


def test_rows_in_any_order(training):
    pool = make(activation=None, fused=True).train(training)
    batch = batch_of(COUNTS)[torch.randperm(24, generator=torch.Generator().manual_seed(0))]
    compare_flat(pool, normal(24, 3), batch, len(COUNTS), activation=None)


def test_few_numbers_gathered_at_a_time(monkeypatch):
    monkeypatch.setattr(argmax_tiles, "GATHERED", 2 * 54)
    batch = batch_of([3] * 7)
    compare_flat(make(fused=True), normal(21, 3), batch, 7)


@pytest.mark.parametrize("fused", [True, False])
def test_equal_clouds_give_what_a_dense_batch_gives(fused, training):
    pool = make(fused=fused).train(training)
    x = normal(5, 7, 3)
    dense = [t.clone() for t in pool(x, return_indices=True)]
    values, rows = pool(x.flatten(0, 1), return_indices=True, batch=batch_of([7] * 5))
    pool.zero_grad()
    assert_close(values, dense[0], kind="fused")
    alive = values > 0
    assert torch.equal((rows % 7)[alive], dense[1][alive])


@pytest.mark.parametrize("sign", [1.0, -1.0, 0.0])
@pytest.mark.parametrize("fused", [True, False])
def test_gammas_of_any_sign(sign, fused, training):
    pool = make(activation=None, fused=fused).train(training)
    with torch.no_grad():
        pool.layers[-1].norm.weight.copy_(sign * pool.layers[-1].norm.weight.abs())
    batch = batch_of(COUNTS)
    compare_flat(pool, normal(len(batch), 3), batch, len(COUNTS), activation=None)


@pytest.mark.parametrize("channel_dim", [-1, 1])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("fused", [True, False])
def test_a_mask_leaves_the_padding_out(backend, channel_dim, fused, training):
    """Statistics, winners and gradients: those of the real points alone, laid end to end."""
    pool = make(backend=backend, channel_dim=channel_dim, fused=fused, activation=None)
    pool.train(training)
    mask = torch.rand(2, 5, 4, generator=torch.Generator().manual_seed(0)) < 0.6
    mask[1, 2] = False
    x = normal(2, 5, 4, 3)
    x[~mask] = torch.nan  # whatever stands in the padding
    formula = Formula.of(pool, "batch", None)
    plain_x = x[mask].clone().requires_grad_()
    batch = torch.arange(10).repeat_interleave(4)[mask.flatten()]
    expected, rows = plain_max(formula(plain_x), batch, 10)
    points = mask.flatten().nonzero()[:, 0] % 4

    x.requires_grad_()
    y, indices = pool(x.movedim(-1, channel_dim), return_indices=True, mask=mask)
    y, indices = y.movedim(channel_dim, -1), indices.movedim(channel_dim, -1)
    assert y.shape == (2, 5, 9)
    assert_close(y.detach().flatten(0, 1), expected.detach(), kind="fused")
    want = torch.where(rows < 0, rows, points[rows])
    assert torch.equal(indices.flatten(0, 1), want)
    assert not y[1, 2].any()
    direction = normal(2, 5, 9, seed=2)
    (y * direction).sum().backward()
    (expected * direction.flatten(0, 1)).sum().backward()
    assert_close(x.grad[mask], plain_x.grad, kind="fused")
    assert not x.grad[~mask].any()
    compare_parameters(pool, formula, "fused")


@pytest.mark.parametrize("fused", [True, False])
def test_nothing_but_padding(fused):
    pool = make(fused=fused).eval()
    y, indices = pool(normal(2, 4, 3), return_indices=True, mask=torch.zeros(2, 4).bool())
    assert y.shape == (2, 9)
    assert not y.any()
    assert (indices == -1).all()
    assert pool(normal(0, 3), batch=torch.zeros(0).long(), num_clouds=3).shape == (3, 9)


def test_bfloat16_search_computes_the_winners_values_exactly():
    pool = make(search_precision="bfloat16", activation=None, fused=True).eval()
    batch = batch_of([300, 1500, 20])
    x = normal(len(batch), 3)
    values, rows = pool(x, return_indices=True, batch=batch)
    exact = make(activation=None, fused=False).eval()
    exact.load_state_dict(pool.state_dict())
    every = super(SharedMLPMaxPool, exact).forward(x)
    assert_close(values, every.gather(0, rows), kind="fused")


def test_double_backward():
    pool = make((2, 4), activation=None, fused=True)
    batch = batch_of([3, 2])
    x = normal(5, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: pool(x, batch=batch), (x,))
    assert torch.autograd.gradgradcheck(lambda x: pool(x, batch=batch), (x,))


@settings(max_examples=30, deadline=None)
@given(
    counts=st.lists(st.integers(0, 9), min_size=1, max_size=8).filter(lambda c: sum(c) > 1),
    width=st.integers(1, 5),
    out=st.integers(1, 8),
    fused=st.booleans(),
)
def test_any_shape(counts, width, out, fused):
    pool = make((width, out), activation=None, fused="auto" if fused else False)
    batch = batch_of(counts)
    compare_flat(pool, normal(len(batch), width), batch, len(counts), activation=None)


def test_nan_is_not_lost():
    x = normal(6, 3)
    x[4, 0] = torch.nan
    pool = make(fused=False, norm=None)
    y = pool(x, batch=batch_of([3, 3]))
    assert not y[0].isnan().any()
    assert y[1].isnan().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": torch.zeros(5).long()}, "int64 tensor"),
        ({"batch": torch.zeros(6)}, "int64 tensor"),
        ({"batch": torch.full((6,), -1)}, "got -1 to -1"),
        ({"batch": torch.arange(6), "num_clouds": 5}, "got 0 to 5 with num_clouds=5"),
        ({"num_clouds": 5}, "int64 tensor"),
        ({"mask": torch.ones(6).bool()}, "with clouds and points"),
        ({"mask": torch.ones(6).bool(), "batch": torch.arange(6)}, "pass either"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make()(normal(6, 3), **options)


@pytest.mark.parametrize("mask", [torch.ones(2, 4), torch.ones(2, 5).bool()])
def test_another_mask_is_refused(mask):
    with pytest.raises(ValueError, match=r"expected \(2, 4\), got"):
        make()(normal(2, 4, 3), mask=mask)


def test_batch_norm_needs_two_real_points():
    mask = torch.zeros(2, 4).bool()
    mask[0, 0] = True
    with pytest.raises(ValueError, match="at least two positions"):
        make()(normal(2, 4, 3), mask=mask)
