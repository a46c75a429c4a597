"""What became of each pointwise layer in a forward pass."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LayerReport:
    """What became of one call of a pointwise layer.

    Attributes:
        layer: Name of its module, or a description if its weight is no parameter of the model.
        fused: Whether it ran fused.
        detail: What it was fused with, or why it was not, in words.
    """

    layer: str
    fused: bool
    detail: str

    def __str__(self) -> str:
        """One line."""
        return f"{self.layer}: {'fused' if self.fused else 'plain'}: {self.detail}"


@dataclass
class CallRecord:
    """A call of a pointwise layer while the network runs.

    Attributes:
        layer: As in `LayerReport`.
        fused_with: What it was fused with.
        reason: Why it was not; or, if it was, why it ran plainly as well.
    """

    layer: str
    fused_with: str | None = None
    reason: str | None = None

    def report(self) -> LayerReport:
        """Return what became of it."""
        if self.fused_with is None:
            return LayerReport(self.layer, False, self.reason or "nothing reads its output")
        detail = self.fused_with
        if self.reason is not None:
            detail += f"; run plainly as well ({self.reason}), and so only plainly from now on"
        return LayerReport(self.layer, True, detail)
