"""A flatten at every position: each window of a map, laid out as channels."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class FlattenWindows(nn.Module):
    """Lays every h x w window of a map out as channels, in the order of torch's flatten.

    It is `flatten(1)` of each window, so that a 1x1 convolution after it is a fully connected
    layer on the window. Each number is copied into up to h * w windows: for a large h x w, a
    convolution with a kernel of that size is the same layer in less memory.

    Source: Lin et al. 2013, "Network in Network", section 3: a small network slid over the input.

    Shape:
        `(B, C, H, W) -> (B, C * h * w, H - h + 1, W - w + 1)`

    Args:
        window: The sizes (h, w).
    """

    def __init__(self, window: tuple[int, int]) -> None:
        super().__init__()
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        """Return the windows as channels; see the class."""
        rows, columns = (size - k + 1 for size, k in zip(x.shape[2:], self.window, strict=True))
        y = F.unfold(x, self.window)
        return y.view(*y.shape[:2], rows, columns)

    def extra_repr(self) -> str:
        """Show the window."""
        return f"window={self.window}"
