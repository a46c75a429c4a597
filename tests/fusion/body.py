"""A small network with the pattern in it."""

from torch import nn
from torch.nn import functional as F

from tests.fusion.compare import cloud

POINTS = cloud(3, 4, 7)


class Body(nn.Module):
    """Two layers with their norms, and a forward that a test gives."""

    def __init__(self, body, **options):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv1d(4, 8, 1), nn.Conv1d(8, 16, 1)
        self.bn1, self.bn2 = nn.BatchNorm1d(8, **options), nn.BatchNorm1d(16)
        self.body = body

    def forward(self, x):
        return self.body(self, x)


def pooled(m, x):
    """The pattern that everything else is put around."""
    return F.relu(m.bn1(m.conv1(x))).max(2)[0]
