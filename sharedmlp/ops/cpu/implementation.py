"""The ops in tiles and threads."""

from __future__ import annotations

from sharedmlp.ops.cpu.folded import folded_max, folded_mlp
from sharedmlp.ops.cpu.linear_argmax import linear_argmax
from sharedmlp.ops.cpu.linear_bn_relu import input_moments, linear_bn_relu
from sharedmlp.ops.interface import Workload


class CPU:
    """Tiles that stay in the caches, in a thread a core: see `Implementation`.

    GPUs run the last layer and its max by the same code, in larger tiles and one thread.
    """

    name = "cpu"
    linear_argmax = staticmethod(linear_argmax)
    moments = staticmethod(input_moments)
    linear_bn_relu = staticmethod(linear_bn_relu)
    folded_max = staticmethod(folded_max)
    folded_mlp = staticmethod(folded_mlp)

    def not_supported_reasons(self, workload: Workload) -> list[str]:
        """Decline hidden layers in training on a GPU, where one kernel for all points is faster."""
        device = workload.layers[0].weight.device
        if device.type not in ("cpu", "cuda"):
            return [f"tiles were not tried on {device.type}"]
        hidden = len(workload.layers) > 1 or workload.num_clouds is None
        if device.type != "cpu" and workload.path == "fuse" and hidden:
            return ["it is not on a CPU"]
        return []
