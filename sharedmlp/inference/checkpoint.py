"""From a checkpoint of a training to a network for use elsewhere."""

from sharedmlp.models.checkpoint import load_trained

__all__ = ["load_trained"]
