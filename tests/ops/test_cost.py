"""From which size on the default is fused; that it pays is the benchmark's to show."""

import pytest
import torch

from sharedmlp import SharedMLP, SharedMLPMaxPool, fuse, fusion_report
from sharedmlp.ops import cost
from sharedmlp.ops.cost import fusion_pays

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _as_it_is(monkeypatch):
    monkeypatch.setattr(cost, "MIB", 2**20)


@pytest.mark.parametrize(
    ("channels", "rows", "clouds", "folded", "expected"),
    [
        # The widest output has 32 MiB, in evaluation more: 64 channels of float32 are 256 bytes.
        ((9, 64), 2**17, 4096, False, True),
        ((9, 64), 2**17 - 1, 4096, False, False),
        ((9, 64), 2**17, 4096, True, False),
        ((3, 64, 64), 2**17 + 1, None, True, True),
        ((3, 64, 64), 2**17, None, True, False),
        # 128 x 1024 hides the calls: 16 MiB in training, 8 MiB in evaluation with several clouds.
        ((64, 128, 1024), 4096, 4, False, True),
        ((64, 128, 1024), 4095, 4, False, False),
        ((64, 128, 1024), 2048, 2, True, True),
        ((64, 128, 1024), 2048, 1, True, False),
        ((64, 128, 1024), 8193, 1, True, True),
        ((64, 128, 1024), 4096, None, False, False),  # without a max it is written all the same
    ],
)
def test_sizes(channels, rows, clouds, folded, expected):
    assert fusion_pays(channels, rows, clouds, torch.float32, CPU, folded=folded) is expected


def test_a_wider_dtype_reaches_the_size_earlier():
    assert fusion_pays((9, 64), 2**16, 4096, torch.float64, CPU, folded=False)


def test_other_devices_were_not_measured_and_fuse():
    assert fusion_pays((9, 64), 1, 1, torch.float32, torch.device("cuda"), folded=False)


@pytest.mark.parametrize("training", [True, False])
def test_small_inputs_take_the_modules_unless_they_must_not(training, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("fused")

    monkeypatch.setattr("sharedmlp.layers.max_pool.run_max", refuse)
    monkeypatch.setattr("sharedmlp.layers.shared_mlp.run_mlp", refuse)
    small = torch.randn(2, 40, 3)
    for cls, large in (
        (SharedMLPMaxPool, torch.randn(8, 1024, 3)),
        (SharedMLP, torch.randn(8, 2**14, 3)),
    ):
        with torch.set_grad_enabled(training):
            module = cls([3, 64, 1024], fused="auto").train(training)
            module(small)
            assert module.not_supported_reasons() == []
            with pytest.raises(AssertionError, match="fused"):
                module(large)
            with pytest.raises(AssertionError, match="fused"):
                cls([3, 64, 1024], fused=True).train(training)(small)


def test_a_small_cloud_in_somebody_elses_network_is_reported():
    network = fuse(torch.nn.Sequential(torch.nn.Conv1d(3, 9, 1), torch.nn.AdaptiveMaxPool1d(1)))
    network(torch.randn(2, 3, 10))
    assert str(fusion_report(network)[0]) == "0: plain: 20 rows are too few for fusion to pay"
