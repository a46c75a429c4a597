"""LeNet-5 and VGG-16, narrow or wide, with and without padding."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Classifier(nn.Module):
    """Features, a flatten in any form, and a head."""

    def __init__(self, features: nn.Module, flatten: Callable[[Tensor], Tensor], head: nn.Module):
        super().__init__()
        self.features = features
        self.flatten = flatten
        self.head = head

    def forward(self, x):
        return self.head(self.flatten(self.features(x)))


def lenet5_features(padding: int = 0) -> nn.Sequential:
    """32 x 32 x 1 -> 5 x 5 x 16 without padding, 8 x 8 x 16 with a padding of 2."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=padding),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5, padding=padding),
        nn.Tanh(),
        nn.MaxPool2d(2),
    )


def lenet5_head(size: int = 5) -> nn.Sequential:
    """C5, F6 and the output."""
    return nn.Sequential(
        nn.Linear(16 * size * size, 120),
        nn.Tanh(),
        nn.Linear(120, 84),
        nn.Tanh(),
        nn.Linear(84, 10),
    )


def lenet5(padding: int = 0, flatten: Callable[[Tensor], Tensor] | None = None) -> Classifier:
    """LeCun et al. 1998, figure 2, with all maps connected and a linear output."""
    head = lenet5_head(8 if padding else 5)
    return Classifier(lenet5_features(padding), flatten or nn.Flatten(), head)


def norm_head() -> nn.Sequential:
    """A head of LeNet-5 with batch norms and a bias less."""
    return nn.Sequential(
        *(nn.Linear(400, 12, bias=False), nn.BatchNorm1d(12), nn.PReLU(12), nn.Identity()),
        *(nn.Linear(12, 10), nn.BatchNorm1d(10, affine=False)),
    )


class FunctionalHead(nn.Module):
    """A head of LeNet-5 with functions where others have modules."""

    def __init__(self, softmax):
        super().__init__()
        self.first, self.second = nn.Linear(400, 12), nn.Linear(12, 12)
        self.gate, self.last = nn.Linear(12, 1), nn.Linear(24, 10)
        self.softmax = softmax

    def forward(self, x):
        x = F.relu(self.first(F.dropout(x * 0.5, training=self.training)))
        x = x + torch.tanh(self.second(x))
        x = self.gate(x).sigmoid() * x
        return self.softmax(self.last(torch.cat([x, -x], -1)))


def vgg16(width: float = 1, padding: int = 1, size: int = 7, num_classes: int = 1000) -> Classifier:
    """Simonyan and Zisserman 2015, configuration D; `size` is that of the last features.

    Padded, 224 pixels make 7 of them; unpadded, 212 + 32 * (size - 1) make `size`.
    """
    layers: list[nn.Module] = []
    channels = 3
    for out, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        out = int(out * width)
        for _ in range(count):
            layers += [nn.Conv2d(channels, out, 3, padding=padding), nn.ReLU(inplace=True)]
            channels = out
        layers.append(nn.MaxPool2d(2))
    hidden = int(4096 * width)
    head = nn.Sequential(
        *(nn.Linear(channels * size * size, hidden), nn.ReLU(inplace=True), nn.Dropout()),
        *(nn.Linear(hidden, hidden), nn.ReLU(inplace=True), nn.Dropout()),
        nn.Linear(hidden, num_classes),
    )
    network = Classifier(
        nn.Sequential(*layers), nn.Sequential(nn.AdaptiveAvgPool2d(size), nn.Flatten()), head
    )
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):  # torch's own would fade in 16 layers
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return network


def prepared(model: nn.Module, dtype: torch.dtype = torch.float64) -> nn.Module:
    """In eval mode, with norms that are not trivial."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                if tensor is not None:
                    nn.init.uniform_(tensor, 0.5, 2)
    return model.to(dtype).eval()


def images(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(5))
