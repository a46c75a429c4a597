"""The fused layer in two gloo processes, with and without synchronised statistics."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sharedmlp import SharedMLP, SharedMLPMaxPool
from sharedmlp.ops import cost
from tests.formula import check_against_formula, randomize, scale_of
from tests.processes import run_processes
from tests.tolerances import assert_close

BACKENDS = ["linear", "conv1d", "conv2d"]
# Five clouds here, two there: the counts of points differ too.
SHARES = [slice(0, 5), slice(5, 7)]


def make(backend, norm="batch", fused=True):
    torch.manual_seed(0)
    pool = SharedMLPMaxPool([3, 5, 9], backend=backend, fused=fused, bias=True, norm=norm).double()
    randomize(pool)
    return pool


def clouds():
    return torch.randn(7, 11, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def direction():
    return torch.randn(7, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def run(pool, x, direction):
    x = x.clone().requires_grad_()
    y = pool(x)
    (y * direction).sum().backward()
    return y.detach(), x.grad


def check(rank, backend, synchronised, fused):
    pool = make(backend, "sync_batch" if synchronised else "batch", fused)
    share = SHARES[rank]
    got = run(DistributedDataParallel(pool), clouds()[share], direction()[share])

    if synchronised:  # as one process sees the whole batch
        whole = make(backend)
        y, gradient = run(whole, clouds(), direction())
        want = (y[share], gradient[share])
        references = [whole]
    else:  # as each process sees its own share
        references = [make(backend) for _ in SHARES]
        results = [
            run(reference, clouds()[s], direction()[s])
            for reference, s in zip(references, SHARES, strict=True)
        ]
        want = results[rank]
    for value, expected, name in zip(got, want, ("output", "input gradient"), strict=True):
        assert_close(value, expected, name=name)
    # DistributedDataParallel averages over the two processes.
    totals = {
        name: sum(dict(r.named_parameters())[name].grad for r in references) / 2
        for name, _ in pool.named_parameters()
    }
    scale = max(map(scale_of, totals.values()))
    for name, parameter in pool.named_parameters():
        assert_close(parameter.grad, totals[name], kind="gradient", scale=scale, name=name)
    own = references[0] if synchronised else references[rank]
    for name, buffer in own.named_buffers():
        assert_close(pool.state_dict()[name], buffer, name=name)


def work(rank, folder):
    for case in itertools.product(BACKENDS, [True, False], [True, False]):
        try:
            check(rank, *case)
        except AssertionError as error:
            raise AssertionError(f"backend, synchronised, fused = {case}: {error}") from error


def test_two_processes_synchronised_and_not(tmp_path):
    run_processes(2, work, tmp_path)


def work_on_both_sides_of_the_limit(rank, folder):
    """One process has so many points that fusion pays, the other has too few."""
    cost.MIB = 5 * 11 * 9 * 8 // 32  # five clouds of 11 points and 9 channels
    for backend in BACKENDS:
        pool = make(backend, "sync_batch", "auto")
        rows = clouds()[SHARES[rank]]
        alone = cost.fusion_pays(
            (3, 5, 9), rows.shape[0] * 11, len(rows), rows.dtype, rows.device, folded=False
        )
        assert alone == (rank == 0)
        y, gradient = run(pool, rows, direction()[SHARES[rank]])
        want, wanted_gradient = run(make(backend), clouds(), direction())
        assert_close(y, want[SHARES[rank]], kind="fused")
        assert_close(gradient, wanted_gradient[SHARES[rank]], kind="fused")


def test_processes_that_share_statistics_take_the_same_path(tmp_path):
    run_processes(2, work_on_both_sides_of_the_limit, tmp_path)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_process_is_plain_batch_norm(backend):
    mlp = SharedMLP([3, 6, 4], backend=backend, norm="sync_batch")
    check_against_formula(mlp, -1, (4, 7, 3), torch.float64, "batch", "relu")


def test_torchs_own_is_fused_too():
    pool = nn.SyncBatchNorm.convert_sync_batchnorm(make("linear"))
    assert pool.not_supported_reasons() == []
