"""Four public PointNet classifiers as formulas, from bare tensors under their own keys.

Written from the descriptions of the networks: matrices, textbook batch norm, max. Each takes points
``(B, N, C)`` and returns logits; `LAYOUTS` has their keys and shapes.
"""

from dataclasses import dataclass
from functools import cache

import torch
from torch.nn import functional as F


@dataclass
class Original:
    """A network of another repository: tensors, mode, and the operations that it is made of."""

    tensors: dict
    training: bool = False

    def linear(self, name, x):
        weight = self.tensors[f"{name}.weight"]
        y = x @ weight.reshape(len(weight), -1).T
        return y + self.tensors[f"{name}.bias"] if f"{name}.bias" in self.tensors else y

    def norm(self, name, x):
        t = self.tensors
        mean, variance = t[f"{name}.running_mean"], t[f"{name}.running_var"]
        if self.training:
            rows = x.reshape(-1, x.shape[-1])
            seen_mean, count = rows.sum(0) / len(rows), len(rows)
            squares = ((rows - seen_mean) ** 2).sum(0)
            t[f"{name}.running_mean"] = (0.9 * mean + 0.1 * seen_mean).detach()
            t[f"{name}.running_var"] = (0.9 * variance + 0.1 * squares / (count - 1)).detach()
            t[f"{name}.num_batches_tracked"] = t[f"{name}.num_batches_tracked"] + 1
            mean, variance = seen_mean, squares / count
        y = (x - mean) / (variance + 1e-5) ** 0.5
        return y * t[f"{name}.weight"] + t[f"{name}.bias"]

    def drop(self, x, rate):
        return F.dropout(x, rate, self.training)

    def block(self, linear, norm, x):
        return self.norm(norm, self.linear(linear, x)).clamp_min(0)

    def tnet(self, name, x, size):
        for i in (1, 2, 3):
            x = self.block(f"{name}.conv{i}", f"{name}.bn{i}", x)
        x = x.max(1).values
        x = self.block(f"{name}.fc1", f"{name}.bn4", x)
        x = self.block(f"{name}.fc2", f"{name}.bn5", x)
        return self.linear(f"{name}.fc3", x).reshape(-1, size, size) + torch.eye(size).to(x)

    def with_tnets(self, points, rate):
        """The network of fxia22, which yanx27 took over and gave normals."""
        turn = self.tnet("feat.stn", points, 3)
        xyz, normals = points[..., :3], points[..., 3:]
        x = torch.cat([torch.einsum("bnc,bcd->bnd", xyz, turn), normals], -1)
        x = self.block("feat.conv1", "feat.bn1", x)
        if "feat.fstn.conv1.weight" in self.tensors:
            x = torch.einsum("bnc,bcd->bnd", x, self.tnet("feat.fstn", x, 64))
        x = self.block("feat.conv2", "feat.bn2", x)
        x = self.norm("feat.bn3", self.linear("feat.conv3", x)).max(1).values
        x = self.block("fc1", "bn1", x)
        x = self.norm("bn2", self.drop(self.linear("fc2", x), rate)).clamp_min(0)
        return self.linear("fc3", x)

    def yanx27(self, points):
        return self.with_tnets(points, 0.4)

    def fxia22(self, points):
        return self.with_tnets(points, 0.3)

    def learning3d(self, x):
        for i in range(1, 6):
            x = self.linear(f"feature_model.conv{i}", x)
            if f"feature_model.bn{i}.weight" in self.tensors:
                x = self.norm(f"feature_model.bn{i}", x)
            x = x.clamp_min(0)
        x = x.max(1).values
        x = self.drop(self.block("linear1", "bn1", x), 0.7)
        x = self.drop(self.block("linear2", "bn2", x), 0.7)
        return self.linear("linear3", x)

    def antao97(self, x):
        for i in range(1, 6):
            x = self.block(f"conv{i}", f"bn{i}", x)
        x = self.block("linear1", "bn6", x.max(1).values)
        return self.linear("linear2", self.drop(x, 0.5))


def linear_keys(name, sizes, bias=True):
    """Keys and shapes of a linear map of (inputs, outputs); a convolution's has a third size."""
    inputs, outputs, *kernel = sizes
    shapes = {f"{name}.weight": (outputs, inputs, *kernel)}
    return {**shapes, f"{name}.bias": (outputs,)} if bias else shapes


def norm_keys(name, width):
    names = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.num_batches_tracked": (), **{f"{name}.{n}": (width,) for n in names}}


def tnet_keys(name, inputs, outputs):
    shapes = {}
    for i, sizes in enumerate([(inputs, 64, 1), (64, 128, 1), (128, 1024, 1)], 1):
        shapes |= linear_keys(f"{name}.conv{i}", sizes) | norm_keys(f"{name}.bn{i}", sizes[1])
    for i, sizes in enumerate([(1024, 512), (512, 256), (256, outputs)], 1):
        shapes |= linear_keys(f"{name}.fc{i}", sizes)
    return shapes | norm_keys(f"{name}.bn4", 512) | norm_keys(f"{name}.bn5", 256)


def with_tnets_keys(channels, classes, feature_tnet):
    shapes = tnet_keys("feat.stn", channels, 9)
    if feature_tnet:
        shapes |= tnet_keys("feat.fstn", 64, 64 * 64)
    for i, sizes in enumerate([(channels, 64, 1), (64, 128, 1), (128, 1024, 1)], 1):
        shapes |= linear_keys(f"feat.conv{i}", sizes) | norm_keys(f"feat.bn{i}", sizes[1])
    for i, sizes in enumerate([(1024, 512), (512, 256), (256, classes)], 1):
        shapes |= linear_keys(f"fc{i}", sizes)
    return shapes | norm_keys("bn1", 512) | norm_keys("bn2", 256)


def five_layer_keys(prefix, width, bias, norm):
    shapes = {}
    for i, (c, d) in enumerate([(3, 64), (64, 64), (64, 64), (64, 128), (128, width)], 1):
        shapes |= linear_keys(f"{prefix}conv{i}", (c, d, 1), bias)
        shapes |= norm_keys(f"{prefix}bn{i}", d) if norm else {}
    return shapes


def learning3d_keys(width, classes, norm):
    shapes = five_layer_keys("feature_model.", width, True, norm)
    for i, sizes in enumerate([(width, 512), (512, 256), (256, classes)], 1):
        shapes |= linear_keys(f"linear{i}", sizes)
    return shapes | norm_keys("bn1", 512) | norm_keys("bn2", 256)


def antao97_keys(width, classes):
    shapes = five_layer_keys("", width, False, True) | norm_keys("bn6", 512)
    shapes |= linear_keys("linear1", (width, 512), False)
    return shapes | linear_keys("linear2", (512, classes))


# What it is -> (source, channels of a point, keys and shapes).
LAYOUTS = {
    "yanx27": ("yanx27", 3, with_tnets_keys(3, 7, True)),
    "yanx27 with normals": ("yanx27", 6, with_tnets_keys(6, 7, True)),
    "fxia22": ("fxia22", 3, with_tnets_keys(3, 7, False)),
    "fxia22 with feature transform": ("fxia22", 3, with_tnets_keys(3, 7, True)),
    "learning3d": ("learning3d", 3, learning3d_keys(1024, 7, True)),
    "learning3d without norm": ("learning3d", 3, learning3d_keys(96, 7, False)),
    "antao97": ("antao97", 3, antao97_keys(1024, 7)),
    "antao97 of another width": ("antao97", 3, antao97_keys(150, 7)),
}


def random_tensors(name, dtype=torch.float64):
    """Weights of a layout, norms of both signs and with statistics of their own; read only."""
    return dict(_random_tensors(name, dtype))


@cache
def _random_tensors(name, dtype):
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for key, shape in LAYOUTS[name][2].items():
        value = torch.randn(shape, dtype=torch.float64, generator=generator)
        if key.endswith("num_batches_tracked"):
            tensors[key] = torch.tensor(3)
            continue
        if len(shape) > 1:
            value = value / shape[1] ** 0.5
        if key.endswith("running_var"):
            value = value.abs() + 0.5
        tensors[key] = value.to(dtype)
    return tensors
