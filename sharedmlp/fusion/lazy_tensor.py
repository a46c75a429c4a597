"""Tensors whose numbers are computed when somebody needs them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.autograd.graph import disable_saved_tensors_hooks, saved_tensors_hooks
from torch.utils._pytree import tree_map

# What a tensor answers without its numbers. Strides are not among it: those of a convolution's
# output depend on its algorithm.
METADATA: frozenset[Callable[..., Any]] = frozenset(
    (
        torch.Tensor.size,
        torch.Tensor.dim,
        torch.Tensor.ndimension,
        torch.Tensor.numel,
        torch.Tensor.nelement,
        torch.Tensor.is_floating_point,
        torch.Tensor.is_complex,
        torch.Tensor.get_device,
        torch.Tensor.__len__,
        torch.numel,
        torch.is_floating_point,
        *(
            getattr(torch.Tensor, name).__get__
            for name in ("shape", "ndim", "dtype", "device", "is_cuda", "requires_grad", "layout")
        ),
    )
)


class LazyValue:
    """A value that is computed when it is read, once, as it would have been when it was asked for.

    Attributes:
        source: What the operation is applied to; None once that has happened.
        shape: Of the value.
        dtype: Of the value; that of the source unless given.
        grad_mode: Whether gradients were recorded when it was asked for.
        leaves: The tensors that the value is a function of; the first is what the first operation
            is applied to, the others are parameters.
        operations: All operations from there on.
        requires_grad: Whether the value will.
        value: The value, once somebody has read it.
    """

    def __init__(
        self,
        operation: Callable[[Tensor], Tensor],
        source: LazyValue | Tensor,
        shape: Sequence[int],
        parameters: Sequence[Tensor | None] = (),
        *,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.source: LazyValue | Tensor | None = source
        self.shape = torch.Size(shape)
        earlier = (source,) if isinstance(source, Tensor) else source.leaves
        known = {id(leaf) for leaf in earlier[1:]}
        new = (p for p in parameters if p is not None and id(p) not in known)
        self.leaves: tuple[Tensor, ...] = (*earlier, *new)
        before = () if isinstance(source, Tensor) else source.operations
        self.operations: tuple[Callable[[Tensor], Tensor], ...] = (*before, operation)
        self.dtype = dtype or self.leaves[0].dtype
        self.value: Tensor | None = None
        self.grad_mode = torch.is_grad_enabled()
        self._inference = torch.is_inference_mode_enabled()
        device = self.leaves[0].device.type
        self._autocast = (torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        differentiable = self.grad_mode and self.dtype.is_floating_point
        self.requires_grad = differentiable and any(leaf.requires_grad for leaf in self.leaves)

    @contextmanager
    def modes(self) -> Iterator[None]:
        """Enter the modes that were active when the value was asked for."""
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(self._inference))
            stack.enter_context(torch.set_grad_enabled(self.grad_mode))
            dtype, enabled = self._autocast
            device = self.leaves[0].device.type
            stack.enter_context(torch.autocast(device, dtype, enabled=enabled))
            if watches_saved_tensors():  # such as a checkpoint that this value is no part of
                stack.enter_context(saved_tensors_hooks(lambda x: x, lambda x: x))
            yield

    def read(self, reader: str) -> Tensor:
        """Return the value; `reader` is who wants it, for the report."""
        if self.value is None:
            source = self.read_source(reader)
            with self.modes():
                self.value = self.operations[-1](source)
            self.source = None  # its memory is not needed any more
        return self.value

    def recompute(self, value: Tensor) -> Tensor:
        """Return what the first leaf, or the same from elsewhere, leads to."""
        with self.modes():
            for operation in self.operations:
                value = operation(value)
        return value

    def read_source(self, reader: str) -> Tensor:
        """Return what the operation is applied to."""
        assert self.source is not None
        return self.source if isinstance(self.source, Tensor) else self.source.read(reader)

    def reads(self) -> Iterator[Tensor]:
        """Yield the tensors whose numbers the value still depends on."""
        if self.value is not None:
            return
        yield from self.leaves
        source = self.source
        while isinstance(source, LazyValue):
            if source.value is not None:
                yield source.value
            source = source.source


def watches_saved_tensors() -> bool:
    """Whether somebody packs what autograd saves, as `torch.utils.checkpoint` does."""
    try:
        with disable_saved_tensors_hooks("somebody watches"):  # raises where there are any
            return False
    except RuntimeError:
        return True


class Cell:
    """What a lazy tensor stands for: another one after an operation in place."""

    def __init__(self, lazy: LazyValue) -> None:
        self.lazy = lazy


class LazyTensor(Tensor):
    """A tensor whose value is `LazyValue`.

    Python reaches it by `__torch_function__`. A custom autograd function or C++ code reaches the
    tensor itself: its node in autograd's graph is a bridge to the value's, and
    `__torch_dispatch__` runs operations on the value.
    """

    cell: Cell
    bridge: Any

    @staticmethod
    def of(lazy: LazyValue) -> LazyTensor:
        """Make the tensor that stands for a lazy value."""
        cell = Cell(lazy)
        if not lazy.requires_grad:
            return _wrap(cell)
        tensor: LazyTensor = _Bridge.apply(cell, *lazy.leaves)  # type: ignore[no-untyped-call]
        tensor.bridge = _native_grad_fn(tensor)
        return tensor

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Answer what needs no numbers; compute them for everything else."""
        if func in METADATA:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        args, kwargs = read_all((args, kwargs or {}), name_of(func))
        return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch's stub has no function
        cls,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run what comes from below Python, where autograd has already been, on the value."""

        def value(x: Any) -> Any:
            return x.cell.lazy.read(name_of(func)).detach() if isinstance(x, LazyTensor) else x

        args, kwargs = tree_map(value, (args, kwargs or {}))
        return func(*args, **kwargs)


def lazy_value_of(x: object) -> LazyValue | None:
    """Return the value that a lazy tensor stands for, if it has not been computed; else None."""
    if not isinstance(x, LazyTensor) or _is_adopted(x) or x.cell.lazy.value is not None:
        return None
    return x.cell.lazy


def read(x: Any, reader: str) -> Any:
    """Return the value of a lazy tensor, and anything else as it is."""
    if not isinstance(x, LazyTensor):
        return x
    if _is_adopted(x):
        with torch._C.DisableTorchFunctionSubclass():
            return torch.ops.aten.alias.default(x)
    return x.cell.lazy.read(reader)


def read_all(tree: Any, reader: str) -> Any:
    """Replace the lazy tensors in lists, tuples and dicts by their values."""
    return tree_map(lambda x: read(x, reader), tree)


def name_of(func: Callable[..., Any]) -> str:
    """Return the name of a torch function, for people."""
    name: str = getattr(func, "__name__", str(func))
    return getattr(getattr(func, "__self__", None), "__name__", name) if name == "__get__" else name


class _Bridge(torch.autograd.Function):
    """A lazy tensor whose gradient goes on to what its value is computed from.

    By way of the value computed again, as the value's own graph may be gone through before.
    """

    @staticmethod
    def forward(ctx: Any, cell: Cell, *leaves: Tensor) -> Tensor:
        ctx.cell, ctx.leaves = cell, leaves
        return _wrap(cell)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        lazy, (root, *parameters) = ctx.cell.lazy, ctx.leaves
        # Cut off from what it comes from, which may be a function of the same parameters.
        root = root.detach().requires_grad_(root.requires_grad)
        inputs = [t if t.requires_grad else None for t in (root, *parameters)]
        found = iter(
            torch.autograd.grad(
                lazy.recompute(root),
                [t for t in inputs if t is not None],
                gradient,
                allow_unused=True,
            )
        )
        return None, *(None if t is None else next(found) for t in inputs)


def _wrap(cell: Cell) -> LazyTensor:
    lazy = cell.lazy
    tensor: LazyTensor = Tensor._make_wrapper_subclass(
        LazyTensor, lazy.shape, dtype=lazy.dtype, device=lazy.leaves[0].device
    )
    tensor.cell, tensor.bridge = cell, None
    return tensor


def _native_grad_fn(x: LazyTensor) -> Any:
    with torch._C.DisableTorchFunctionSubclass():
        return x.grad_fn


def _is_adopted(x: LazyTensor) -> bool:
    """Whether a custom autograd function has returned the tensor, and so made it its own."""
    return _native_grad_fn(x) is not x.bridge
