"""The plain formula of a shared MLP, ``x @ W.T + b`` and textbook norms: the tests' oracle."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

ACTIVATIONS = {
    None: lambda y: y,
    "relu": lambda y: torch.where(y > 0, y, torch.zeros_like(y)),
    "leaky_relu": lambda y: torch.where(y > 0, y, 0.01 * y),
}


@dataclass
class Formula:
    """A shared MLP on ``(M, C)`` with its own copies of a module's parameters and statistics."""

    norm: str | None
    activation: str | None
    training: bool
    parameters: dict[str, Tensor] = field(default_factory=dict)
    buffers: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, mlp: nn.Module, norm: str | None, activation: str | None) -> "Formula":
        formula = cls(norm, activation, mlp.training)
        for name, value in mlp.named_parameters():
            # (O, I), (O, I, 1) and (O, I, 1, 1) are one matrix.
            copy = value.detach().clone()
            copy = copy.reshape(copy.shape[:2]) if copy.ndim > 1 else copy
            formula.parameters[name] = copy.requires_grad_()
        formula.buffers = {name: value.clone() for name, value in mlp.named_buffers()}
        return formula

    def __call__(self, x: Tensor) -> Tensor:
        num_layers = 1 + max(int(name.split(".")[1]) for name in self.parameters)
        for i in range(num_layers):
            y = x @ self.parameters[f"layers.{i}.linear.weight"].T
            bias = self.parameters.get(f"layers.{i}.linear.bias")
            y = y if bias is None else y + bias
            if self.norm == "batch":
                y = self._batch_norm(y, f"layers.{i}.norm")
            elif self.norm == "layer":
                y = self._affine(*self._moments(y, 1), y, f"layers.{i}.norm")
            x = ACTIVATIONS[self.activation](y)
        return x

    def _moments(self, y: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        mean = y.sum(dim, keepdim=True) / y.shape[dim]
        return mean, ((y - mean) ** 2).sum(dim, keepdim=True) / y.shape[dim]

    def _affine(self, mean: Tensor, variance: Tensor, y: Tensor, key: str) -> Tensor:
        normalised = (y - mean) / (variance + 1e-5) ** 0.5
        if f"{key}.weight" not in self.parameters:
            return normalised
        return normalised * self.parameters[f"{key}.weight"] + self.parameters[f"{key}.bias"]

    def _batch_norm(self, y: Tensor, key: str) -> Tensor:
        tracked = f"{key}.running_mean" in self.buffers
        if not self.training and tracked:
            mean, variance = self.buffers[f"{key}.running_mean"], self.buffers[f"{key}.running_var"]
            return self._affine(mean, variance, y, key)
        mean, variance = self._moments(y, 0)
        if tracked:
            count = len(y)
            self._track(f"{key}.running_mean", mean[0])
            self._track(f"{key}.running_var", variance[0] * count / (count - 1))
            self.buffers[f"{key}.num_batches_tracked"] += 1
        return self._affine(mean, variance, y, key)

    def _track(self, name: str, value: Tensor) -> None:
        self.buffers[name] = 0.9 * self.buffers[name] + 0.1 * value.detach()


def randomize(mlp: nn.Module, seed: int = 0) -> None:
    """Gives norms weights of both signs and statistics of their own, so that no term is trivial."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in [*mlp.named_parameters(), *mlp.named_buffers()]:
            if "norm" in name and value.is_floating_point():
                value.normal_(generator=generator)
            if name.endswith("running_var"):
                value.abs_().add_(0.5)
            if name.endswith("linear.bias"):
                value.normal_(generator=generator)
