"""The shared MLP: one small fully connected network, applied at every position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, Literal, cast

from torch import Tensor, fx, nn

from sharedmlp.layers.arguments import (
    check_activation,
    check_can_fuse,
    check_channels,
    check_dropout,
    check_options,
)
from sharedmlp.layers.backend import BATCH_NORMS, enter_layout, get_backend, leave_layout
from sharedmlp.layers.pointwise import (
    PointwiseLayer,
    empty_input,
    layer_tensors,
    share_statistics,
    unknown_parts,
)
from sharedmlp.ops import torch_internals
from sharedmlp.ops.cost import may_pay
from sharedmlp.ops.fused import run_mlp
from sharedmlp.ops.gate import visible_reasons
from sharedmlp.ops.plan import PLAIN, Plan, hidden_reasons, make_plan

# For torch.fx, each is one node of a graph: what it does depends on the rank of the input.
fx.wrap("enter_layout")
fx.wrap("leave_layout")


class SharedMLP(nn.Module):
    """A stack of pointwise layers: the same MLP at every position of a cloud, image or batch.

    Each layer is linear -> norm -> activation -> dropout. The backends give the same outputs,
    gradients and running statistics, have the same state-dict keys, load each other's checkpoints
    and start from bit-identical weights under one seed. Dropout masks alone differ between
    backends, as they are drawn in the order of the native layout.

    Source: Qi et al. 2017, "PointNet", section 4.2 and appendix C; Lin et al. 2013, "Network in
    Network", section 3.1, for the same thing on images.

    Shape:
        - `channel_dim=-1`: `(..., in_channels) -> (..., out_channels)` with at least one
          leading dimension, such as `(N, C)`, `(B, N, C)` or `(B, K, N, C)`.
        - `channel_dim=1`: `(B, in_channels, ...) -> (B, out_channels, ...)`.

        Zero positions are allowed outside training.

    Args:
        channels: Widths from the input to the output, such as `[3, 64, 64]`.
        backend: `"linear"` (`nn.Linear`), `"conv1d"` (`nn.Conv1d` with kernel 1) or
            `"conv2d"` (`nn.Conv2d` 1x1).
        norm: `"batch"`, `"sync_batch"` (statistics shared by all processes of a distributed
            training, on a CPU too), `"layer"` (over the channels of each position) or None.
        activation: `"relu"`, `"leaky_relu"`, `"gelu"`, `"silu"`, `"tanh"` or None, one
            for all layers or one a layer.
        dropout: Probability, one for all layers or one a layer.
        dropout_before_norm: Drop between linear map and norm instead of after the activation.
        bias: Whether the linear maps have a bias. None means: unless a batch norm follows, which
            would subtract it again.
        plain_last: Leave norm, activation and dropout out of the last layer, as for logits.
        channel_dim: Where the channels of the input and the output are: -1 or 1.
        norm_kwargs: Further arguments of the norm modules, such as `{"momentum": 0.01}`.
        fused: Take the same steps in fewer passes over memory if it can: on a CPU, with batch
            norm, and in training with ReLU and layers that do not narrow. The modules themselves
            are not called then (`sharedmlp.ops.cpu.linear_bn_relu`).

    Raises:
        ValueError: If an argument, or the shape of an input, is not one of the above.
    """

    def __init__(
        self,
        channels: Sequence[int],
        *,
        backend: str = "linear",
        norm: str | None = "batch",
        activation: str | Sequence[str | None] | None = "relu",
        dropout: float | Sequence[float] = 0.0,
        dropout_before_norm: bool = False,
        bias: bool | None = None,
        plain_last: bool = False,
        channel_dim: int = -1,
        norm_kwargs: Mapping[str, Any] | None = None,
        fused: bool | Literal["auto"] = "auto",
    ) -> None:
        super().__init__()
        self.fused = fused
        self.channels = check_channels(channels)
        self.channel_dim = channel_dim
        self.backend = backend
        self._layout = get_backend(backend).layout
        check_options(get_backend(backend), norm, channel_dim, fused)
        num_layers = len(self.channels) - 1
        activations = check_activation(activation, num_layers)
        dropouts = check_dropout(dropout, num_layers)
        layers = []
        for i in range(num_layers):
            plain = plain_last and i == num_layers - 1
            layer_norm = None if plain else norm
            layers.append(
                PointwiseLayer(
                    get_backend(backend),
                    self.channels[i],
                    self.channels[i + 1],
                    norm=layer_norm,
                    activation=None if plain else activations[i],
                    dropout=0.0 if plain else dropouts[i],
                    dropout_before_norm=dropout_before_norm,
                    bias=layer_norm not in BATCH_NORMS if bias is None else bias,
                    norm_kwargs=norm_kwargs or {},
                )
            )
        self.layers = nn.ModuleList(layers)
        self._has_batch_norm = norm in BATCH_NORMS and any(
            layer.norm is not None for layer in layers
        )
        if fused is True:
            self._check_plan(Plan("plain", (), tuple(self._structural_reasons())))

    @property
    def in_channels(self) -> int:
        """Width of the input."""
        return self.channels[0]

    @property
    def out_channels(self) -> int:
        """Width of the output."""
        return self.channels[-1]

    def forward(self, x: Tensor) -> Tensor:
        """Apply the MLP at every position; see the class for the shapes."""
        if isinstance(x, fx.Proxy):  # torch.fx records the modules between two moves of axes
            y = enter_layout(x, self.backend, self.channel_dim)
            for layer in self.layers:
                y = layer(y)
            return leave_layout(y, x, self.backend, self.channel_dim)
        positions = self._check_input(x)
        if x.numel() == 0:  # a convolution refuses an axis of size zero
            shape = [*positions, self.out_channels]
            return x.new_zeros(shape).movedim(-1, self.channel_dim)
        return self._run(x, positions)

    def not_supported_reasons(self, x: Tensor | None = None) -> list[str]:
        """Say in words why this module, as it is now, takes the plain path; empty if it need not.

        A fused path that is only too slow for a small input is no reason here.

        Args:
            x: An input to ask for; None asks for any on the module's own device and of its dtype.
        """
        if x is None:
            x = empty_input(self, self.in_channels)
        return list(self._plan(x, 1, must=True).reasons)

    def _structural_reasons(self) -> list[str]:
        """Say what of the arguments rules a fused path out in training, whatever the input is."""
        reasons = []
        for layer in self._pointwise():
            reasons += unknown_parts(layer) or hidden_reasons(layer_tensors(layer))
        return reasons

    def _pointwise(self) -> list[PointwiseLayer]:
        return cast("list[PointwiseLayer]", list(self.layers))

    def _plan(
        self,
        x: Tensor,
        rows: int,
        num_clouds: int | None = None,
        *,
        must: bool,
        needs_indices: bool = False,
    ) -> Plan:
        """Decide how the layers run on an input, whether small inputs may wait for it or not."""
        layers = self._pointwise()
        reasons = visible_reasons(x, layers, must=must)
        for layer in layers:
            reasons += unknown_parts(layer)
        if reasons:
            return Plan("plain", (), tuple(dict.fromkeys(reasons)))
        return make_plan([layer_tensors(layer) for layer in layers], rows, None, must=must)

    def _may_pay(self, x: Tensor, rows: int, num_clouds: int | None) -> bool:
        """Whether a look at the modules is worth its time: small inputs do not wait for it."""
        # A comparison would become a bound of the exported sizes.
        if torch_internals.is_exporting():
            return True
        if may_pay(self.channels, rows, num_clouds, x.dtype, x.device):
            return True
        return share_statistics(self.layers)

    def _check_plan(self, plan: Plan) -> Plan:
        """Make the reasons of a plan an error if it must not be plain."""
        check_can_fuse(self.fused, plan.reasons)
        return plan

    def _choose(
        self, x: Tensor, rows: int, num_clouds: int | None = None, *, needs_indices: bool = False
    ) -> Plan:
        """Decide how the layers run on an input, as far as `fused` lets them."""
        must = self.fused is True
        if not must and not (self.fused and self._may_pay(x, rows, num_clouds)):
            return PLAIN
        return self._check_plan(
            self._plan(x, rows, num_clouds, must=must, needs_indices=needs_indices)
        )

    def _run(self, x: Tensor, positions: tuple[int, ...]) -> Tensor:
        """Apply all layers to a checked input."""
        plan = self._choose(x, prod(positions))
        if plan.path != "plain":
            rows = x.movedim(self.channel_dim, -1).reshape(-1, self.in_channels)
            y = run_mlp(plan, rows)
            if y is not None:
                return y.view(*positions, -1).movedim(-1, self.channel_dim)
        y = self._layout.enter(x, self.channel_dim)
        for layer in self.layers:
            y = layer(y)
        return self._layout.leave(y, positions, self.channel_dim)

    def extra_repr(self) -> str:
        """The arguments that the submodules do not show."""
        return f"{list(self.channels)}, backend={self.backend!r}, channel_dim={self.channel_dim}"

    def _check_input(self, x: Tensor) -> tuple[int, ...]:
        """Return the sizes of `x` without its channels, or say what is wrong with them."""
        where = "(..., {c})" if self.channel_dim == -1 else "(B, {c}, ...)"
        expected = f"{type(self).__name__} expected {where.format(c=self.in_channels)}"
        shape = tuple(x.shape)
        if x.ndim < 2:
            raise ValueError(
                f"{expected} with at least two dimensions, got {shape}: add a dimension for the "
                "points with x.unsqueeze(0)"
            )
        dim = self.channel_dim % x.ndim
        if shape[dim] != self.in_channels:
            other = 1 if self.channel_dim == -1 else -1
            hint = f"make the first of channels {shape[dim]}, or move the channels to their place"
            if x.ndim > 2 and shape[other] == self.in_channels:
                hint = f"make the layer with channel_dim={other}, or pass x.movedim({other}, {dim})"
            raise ValueError(f"{expected}, got {shape}: {hint}")
        positions = (*shape[:dim], *shape[dim + 1 :])
        self._check_positions(prod(positions), x)
        return positions

    def _check_positions(self, count: int, x: Tensor) -> None:
        """Refuse fewer positions than batch norm needs in training."""
        if self.training and self._has_batch_norm and count < 2:
            raise ValueError(
                f"{type(self).__name__} in training mode needs at least two positions for batch "
                f"norm, got {tuple(x.shape)}: use a larger batch, call eval(), or choose another "
                "norm"
            )
