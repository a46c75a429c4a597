"""The error of everything that cannot be converted."""


class ConversionError(ValueError):
    """A module, or a node of a model's graph, cannot be converted; says which and why."""
