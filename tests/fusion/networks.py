"""Networks in the spellings of the field, written anew: what `fuse` is for."""

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.autograd import Variable
from torch.nn import functional as F


class PortTNet(nn.Module):
    """A T-Net as the ports have it: its identity comes from NumPy, inside forward."""

    def __init__(self, size):
        super().__init__()
        self.size = size
        self.conv1, self.conv2, self.conv3 = (
            nn.Conv1d(i, o, 1) for i, o in ((size, 16), (16, 24), (24, 48))
        )
        self.bn1, self.bn2, self.bn3 = nn.BatchNorm1d(16), nn.BatchNorm1d(24), nn.BatchNorm1d(48)
        self.fc1, self.fc2 = nn.Linear(48, 20), nn.Linear(20, size * size)
        self.bn4 = nn.BatchNorm1d(20)
        self.relu = nn.ReLU()

    def forward(self, x):
        batch = x.size()[0]
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = F.relu(self.bn3(self.conv3(x)))
        x = torch.max(x, 2, keepdim=True)[0]
        x = x.view(-1, 48)
        x = self.fc2(F.relu(self.bn4(self.fc1(x))))
        identity: Any = np.eye(self.size).flatten().astype(np.float32)
        identity = Variable(torch.from_numpy(identity)).view(1, self.size**2).repeat(batch, 1)
        if x.is_cuda:
            identity = identity.cuda()
        return (x + identity.to(x.dtype)).view(-1, self.size, self.size)


class PortPointNet(nn.Module):
    """A classifier as the two most used ports write it, in small: (B, 3 or 6, N) -> log softmax."""

    def __init__(self, channels=3, dropout=0.0):
        super().__init__()
        self.stn, self.fstn = PortTNet(3), PortTNet(16)
        self.conv1, self.conv2, self.conv3 = (
            nn.Conv1d(i, o, 1) for i, o in ((channels, 16), (16, 32), (32, 64))
        )
        self.bn1, self.bn2, self.bn3 = nn.BatchNorm1d(16), nn.BatchNorm1d(32), nn.BatchNorm1d(64)
        self.fc1, self.fc2, self.fc3 = nn.Linear(64, 32), nn.Linear(32, 16), nn.Linear(16, 5)
        self.bn4, self.bn5 = nn.BatchNorm1d(32), nn.BatchNorm1d(16)
        self.dropout = nn.Dropout(p=dropout)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        channels = x.size()[1]
        transform = self.stn(x[:, :3, :])
        x = x.transpose(2, 1)
        if channels > 3:
            x, rest = x.split([3, channels - 3], dim=2)
        x = torch.bmm(x, transform)
        if channels > 3:
            x = torch.cat([x, rest], dim=2)
        x = F.relu(self.bn1(self.conv1(x.transpose(2, 1))))
        feature_transform = self.fstn(x)
        x = torch.bmm(x.transpose(2, 1), feature_transform).transpose(2, 1)
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))  # no activation in front of the max
        x = torch.max(x, 2, keepdim=True)[0].view(-1, 64)
        x = self.relu(self.bn4(self.fc1(x)))
        x = self.relu(self.bn5(self.dropout(self.fc2(x))))
        return F.log_softmax(self.fc3(x), dim=1), feature_transform


class SetAbstraction(nn.Module):
    """A level of a PointNet++: neighbours (B, C, K, S), Conv2d 1x1, a max over K or over its axis.

    The S groups are runs of K points, repeated points among them as a ball query pads with.
    """

    def __init__(self, widths, neighbours, last_axis):
        super().__init__()
        self.neighbours, self.last_axis = neighbours, last_axis
        pairs = list(pairwise(widths))
        self.convs = nn.ModuleList(nn.Conv2d(i, o, 1) for i, o in pairs)
        self.norms = nn.ModuleList(nn.BatchNorm2d(o) for _, o in pairs)

    def forward(self, x):
        groups = x.unflatten(2, (-1, self.neighbours))  # (B, C, S, K)
        groups = torch.cat([groups[..., :-1], groups[..., :1]], -1)
        if not self.last_axis:
            groups = groups.permute(0, 1, 3, 2)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            groups = F.relu(norm(conv(groups)))
        if self.last_axis:
            return F.max_pool2d(groups, kernel_size=[1, groups.size(3)]).squeeze(-1)
        return torch.max(groups, 2)[0]


class PointNet2(nn.Module):
    """Two levels and a global one, as the ports of PointNet++ go: (B, 3, N) -> logits."""

    def __init__(self):
        super().__init__()
        self.level1 = SetAbstraction([3, 8, 8, 16], 5, last_axis=False)
        self.level2 = SetAbstraction([16, 16, 32], 3, last_axis=True)
        self.conv, self.norm = nn.Conv1d(32, 64, 1), nn.BatchNorm1d(64)
        self.out = nn.Linear(64, 5)

    def forward(self, x):
        x = self.level2(self.level1(x))
        return self.out(F.relu(self.norm(self.conv(x))).max(dim=-1, keepdim=True)[0].flatten(1))


class EdgeNet(nn.Module):
    """Edge convolutions over neighbours and a global max and mean, as DGCNN has them."""

    def __init__(self):
        super().__init__()
        self.edge1 = nn.Sequential(
            nn.Conv2d(6, 16, 1, bias=False), nn.BatchNorm2d(16), nn.LeakyReLU(negative_slope=0.2)
        )
        self.edge2 = nn.Sequential(
            nn.Conv2d(32, 16, 1, bias=False), nn.BatchNorm2d(16), nn.LeakyReLU(negative_slope=0.2)
        )
        self.conv = nn.Sequential(
            nn.Conv1d(32, 64, 1, bias=False), nn.BatchNorm1d(64), nn.LeakyReLU(negative_slope=0.2)
        )
        self.out = nn.Linear(128, 5)

    def graph_feature(self, x, k=4):
        with torch.no_grad():
            nearest = torch.cdist(x.transpose(1, 2), x.transpose(1, 2)).topk(k, largest=False)[1]
        batch, channels, count = x.shape
        index = nearest.view(batch, 1, -1).expand(-1, channels, -1)
        neighbours = x.gather(2, index).view(batch, channels, count, k)
        centre = x.unsqueeze(-1).expand_as(neighbours)
        return torch.cat((neighbours - centre, centre), dim=1)

    def forward(self, x):
        x1 = self.edge1(self.graph_feature(x)).max(dim=-1, keepdim=False)[0]
        x2 = self.edge2(self.graph_feature(x1)).max(dim=-1, keepdim=False)[0]
        x = self.conv(torch.cat((x1, x2), dim=1))
        batch = x.size(0)
        most = F.adaptive_max_pool1d(x, 1).view(batch, -1)
        mean = F.adaptive_avg_pool1d(x, 1).view(batch, -1)
        return self.out(torch.cat((most, mean), 1))


class Pattern(nn.Module):
    """Layer and batch norm, and then what a test wants: `head(norm(linear(x)))`."""

    def __init__(self, linear, norm, head):
        super().__init__()
        self.linear, self.norm, self.head = linear, norm, head

    def forward(self, x):
        x = self.linear(x)
        if self.norm is not None:
            x = self.norm(x)
        return self.head(x)


def conv1d(head, norm=True, widths: tuple[int, int] = (4, 9)):
    """A Pattern of Conv1d on (B, 4, N)."""
    return Pattern(nn.Conv1d(*widths, 1), nn.BatchNorm1d(widths[1]) if norm else None, head)


def conv2d(head):
    """A Pattern of Conv2d on (B, 4, S, K)."""
    return Pattern(nn.Conv2d(4, 9, 1), nn.BatchNorm2d(9), head)
