"""The state of an optimizer, reshaped for another backend."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from sharedmlp.layers.backend import without_kernel


def adapt_optimizer_state(
    state_dict: dict[str, Any], parameters: Iterable[Tensor]
) -> dict[str, Any]:
    """Reshape an optimizer's state to the parameters of another backend.

    Momenta have their parameter's shape. torch loads the state of `(O, I, 1)` for a parameter
    `(O, I)` without an error and fails at the next step, so adapt it before `load_state_dict`:

        optimizer.load_state_dict(adapt_optimizer_state(state, model.parameters()))

    Args:
        state_dict: What `state_dict()` of any torch optimizer gave; it is left as it is.
        parameters: The new parameters, in the order in which they are given to the new optimizer,
            group after group.

    Returns:
        A copy of the state with every tensor of the shape `(O, I)`, `(O, I, 1)` or `(O, I, 1,
        1)` in that of its parameter; the numbers are the same.

    Raises:
        ValueError: If there are more or fewer parameters than the state is of, or if one has
            another shape.
    """
    own = list(parameters)
    numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
    if len(numbers) != len(own):
        raise ValueError(
            f"the state is that of {len(numbers)} parameters, but {len(own)} were given: build the "
            "network and the optimizer's groups as they were when the state was saved"
        )
    state = {}
    for number, parameter in zip(numbers, own, strict=True):
        if number in state_dict["state"]:
            values = state_dict["state"][number]
            state[number] = {name: _adapt(value, parameter) for name, value in values.items()}
    return {**state_dict, "state": state}


def _adapt(value: Any, parameter: Tensor) -> Any:
    if not isinstance(value, Tensor):
        return value
    value = value.clone()  # an optimizer goes on with the tensors that it loads
    if value.ndim == 0 or value.shape == parameter.shape:
        return value
    channels = without_kernel(value.shape)
    if channels is None or channels != without_kernel(parameter.shape):
        raise ValueError(
            f"the state of a parameter {tuple(value.shape)} does not fit one of "
            f"{tuple(parameter.shape)}: only (O, I), (O, I, 1) and (O, I, 1, 1) are each other's; "
            "build the network with the widths of the saved one"
        )
    return value.reshape(parameter.shape)
