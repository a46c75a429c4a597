"""The plain formula of a shared MLP, `x @ W.T + b` and textbook norms: the tests' oracle."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from tests.tolerances import assert_close

ACTIVATIONS = {
    None: lambda y: y,
    "relu": lambda y: torch.where(y > 0, y, torch.zeros_like(y)),
    "leaky_relu": lambda y: torch.where(y > 0, y, 0.01 * y),
}


@dataclass
class Formula:
    """A shared MLP on `(M, C)` with its own copies of a module's parameters and statistics."""

    norm: str | None
    activation: str | None
    training: bool
    momentum: float | None = 0.1
    parameters: dict[str, Tensor] = field(default_factory=dict)
    buffers: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, mlp: nn.Module, norm: str | None, activation: str | None) -> "Formula":
        formula = cls(norm, activation, mlp.training)
        formula.momentum = getattr(mlp.layers[0].norm, "momentum", 0.1)
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
        normalized = (y - mean) / (variance + 1e-5) ** 0.5
        if f"{key}.weight" not in self.parameters:
            return normalized
        return normalized * self.parameters[f"{key}.weight"] + self.parameters[f"{key}.bias"]

    def _batch_norm(self, y: Tensor, key: str) -> Tensor:
        tracked = f"{key}.running_mean" in self.buffers
        if not self.training and tracked:
            mean, variance = self.buffers[f"{key}.running_mean"], self.buffers[f"{key}.running_var"]
            return self._affine(mean, variance, y, key)
        mean, variance = self._moments(y, 0)
        if tracked:
            count = len(y)
            self.buffers[f"{key}.num_batches_tracked"] += 1
            batches = self.buffers[f"{key}.num_batches_tracked"].item()
            factor = 1 / batches if self.momentum is None else self.momentum
            self._track(f"{key}.running_mean", mean[0], factor)
            self._track(f"{key}.running_var", variance[0] * count / (count - 1), factor)
        return self._affine(mean, variance, y, key)

    def _track(self, name: str, value: Tensor, factor: float) -> None:
        self.buffers[name] = (1 - factor) * self.buffers[name] + factor * value.detach()


def randomize(mlp: nn.Module, seed: int = 0) -> None:
    """Give norms weights of both signs and statistics of their own, so that no term is trivial."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in [*mlp.named_parameters(), *mlp.named_buffers()]:
            if "norm" in name and value.is_floating_point():
                value.normal_(generator=generator)
            if name.endswith("running_var"):
                value.abs_().add_(0.5)
            if name.endswith("linear.bias"):
                value.normal_(generator=generator)


def check_against_formula(mlp, channel_dim, shape, dtype, norm, activation, pooled=False):
    """Compare on a random input, with random norms of both signs."""
    mlp = mlp.to(dtype)
    randomize(mlp)
    x = torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(1))
    compare_with_formula(mlp, x, channel_dim, norm, activation, pooled)


def compare_with_formula(
    mlp,
    x,
    channel_dim=-1,
    norm="batch",
    activation="relu",
    pooled=False,
    tied_points=False,
    kind="value",
):
    """Compare outputs, gradients of the input and every parameter, and running statistics.

    With `tied_points` the points of each cloud are all equal: then which of them gets the
    gradient is nobody's right, and what they get together is compared. `kind` is that of the
    tolerances of outputs, input gradients and statistics.
    """
    dtype = x.dtype
    formula = Formula.of(mlp, norm, activation)
    x = x.clone().requires_grad_()
    plain_x = x.detach().clone().requires_grad_()

    channels_last = plain_x.movedim(channel_dim, -1)
    expected = formula(channels_last.reshape(-1, channels_last.shape[-1]))
    expected = expected.reshape(*channels_last.shape[:-1], -1)
    if pooled:
        expected = expected.max(-2).values
    expected = expected.movedim(-1, channel_dim)
    y = mlp(x)

    assert_close(y.detach(), expected.detach(), kind=kind, name="output")
    direction = torch.randn(y.shape, dtype=dtype, generator=torch.Generator().manual_seed(2))
    (y * direction).sum().backward()
    (expected * direction).sum().backward()
    scale = scale_of(plain_x.grad)
    got, want = x.grad, plain_x.grad
    if tied_points:
        got, want = got.sum(-2), want.sum(-2)
    assert_close(got, want, kind=kind, scale=scale, name="input gradient")
    compare_parameters(mlp, formula, kind)


def compare_parameters(mlp, formula, kind="value"):
    """Compare the gradients of every parameter, and the running statistics."""
    # A parameter's gradient sums over all positions, and the gradient of a bias before batch
    # norm is a sum that cancels to zero: compare at the scale of the largest gradient.
    scale = max(p.grad.abs().max().item() for p in formula.parameters.values())
    for name, parameter in mlp.named_parameters():
        want = formula.parameters[name].grad
        assert_close(
            parameter.grad.reshape(want.shape), want, kind="gradient", scale=scale, name=name
        )
    for name, buffer in mlp.named_buffers():
        assert_close(buffer, formula.buffers[name], kind=kind, name=name)


def scale_of(tensor: Tensor) -> float:
    """The largest entry; 1 for zeros, where the limit is absolute."""
    return tensor.abs().max().item() or 1.0
