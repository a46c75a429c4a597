"""Models as other people write them."""

from torch import nn
from torch.nn import functional as F


class ConvPointNet(nn.Module):
    """A usual port: Conv1d on (B, C, N), the max, Linear on (B, C)."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv1d(3, 6, 1), nn.BatchNorm1d(6)
        self.conv2, self.bn2 = nn.Conv1d(6, 9, kernel_size=1, bias=False), nn.BatchNorm1d(9)
        self.fc = nn.Linear(9, 4)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x)).max(2, keepdim=True).values
        return self.fc(x.view(-1, 9))


class MixerBlock(nn.Module):
    """Linear on (B, N, C) and, transposed, on (B, C, N); `view` wants contiguous outputs."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(6)
        self.tokens = nn.Sequential(nn.Linear(5, 8), nn.GELU(), nn.Linear(8, 5))
        self.channels = nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 6))

    def forward(self, x):
        x = x + self.tokens(self.norm(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm(x)).view(len(x), -1).view(x.shape)


class ConvNet(nn.Module):
    """3x3 and 1x1 convolutions, and a flatten by `view` right behind a 1x1."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.bottleneck = nn.Conv2d(6, 4, 1)
        self.bn = nn.BatchNorm2d(4)
        self.last = nn.Conv2d(4, 2, 1, bias=False)
        self.fc = nn.Linear(2 * 5 * 7, 3)

    def forward(self, x):
        x = self.last(F.relu(self.bn(self.bottleneck(self.conv(x)))))
        return self.fc(x.view(len(x), self.fc.in_features))
