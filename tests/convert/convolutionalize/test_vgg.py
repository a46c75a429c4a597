"""VGG-16 on larger images, narrow and in full size, with and without its padding."""

import pytest
import torch

from sharedmlp.convert import convolutionalize
from tests.convert.checks import MODES, check, check_padded, windows_at
from tests.convert.networks import images, prepared, vgg16
from tests.tolerances import assert_close


@pytest.mark.parametrize("mode", MODES)
def test_vgg16_padded(mode):
    torch.manual_seed(0)
    model = prepared(vgg16(1 / 32, num_classes=7))
    network = convolutionalize(model, (3, 224, 224), mode)
    x = images(1, 3, 224, 224)
    assert_close(network(x), model(x)[..., None, None])
    x = images(1, 3, 288, 288)
    assert network(x).shape == (1, 7, 3, 3)
    check_padded(model, network, x, 224, 32)


def test_vgg16_unpadded_window_by_window():
    torch.manual_seed(0)
    windows = check(
        vgg16(1 / 32, padding=0, size=2, num_classes=7), (3, 244, 244), (308, 330), "spatial"
    )
    assert torch.equal(windows, windows_at((244, 244), 32, 3, 3))


@pytest.mark.slow
def test_vgg16_in_full_size():
    torch.manual_seed(0)
    model = vgg16().eval()
    with torch.no_grad():
        network = convolutionalize(model, (3, 224, 224))
        first = network.get_submodule("head.0").weight
        assert first.shape == (4096, 512, 7, 7)
        assert sum(p.numel() for p in network.parameters()) == 138_357_544
        x = images(1, 3, 224, 224, dtype=torch.float32)
        assert_close(network(x), model(x)[..., None, None])
        x = images(1, 3, 288, 288, dtype=torch.float32)
        assert model.features(x).shape == (1, 512, 9, 9)
        assert network(x).shape == (1, 1000, 3, 3)
        check_padded(model, network, x, 224, 32)
