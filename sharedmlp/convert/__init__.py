"""Fully connected, pointwise and n x n convolution: each made into the other, with equal numbers.

Three statements are mixed up when people ask whether a 1x1 convolution is a fully connected layer:

1. A linear layer applied at every position is a convolution with kernel 1
   (`linear_to_conv1d`, `linear_to_conv2d`, `conv_to_linear`; for whole models
   `convert_backend`).
2. A fully connected layer over an n x n input is an n x n convolution without padding
   (`fc_to_conv`, `conv_to_fc`; for whole models `convolutionalize`).
3. The same layer is a 1x1 convolution over the input flattened to 1 x 1 x (n * n * channels)
   (`linear_to_conv2d` after a flatten).
"""

from sharedmlp.convert.backends.model import Conversion, convert_backend
from sharedmlp.convert.backends.optimizer import adapt_optimizer_state
from sharedmlp.convert.convolutionalize.convolutionalize import convolutionalize
from sharedmlp.convert.convolutionalize.receptive_windows import receptive_windows
from sharedmlp.convert.errors import ConversionError
from sharedmlp.convert.fully_connected import conv_to_fc, fc_to_conv
from sharedmlp.convert.pointwise import conv_to_linear, linear_to_conv1d, linear_to_conv2d

__all__ = [
    "Conversion",
    "ConversionError",
    "adapt_optimizer_state",
    "conv_to_fc",
    "conv_to_linear",
    "convert_backend",
    "convolutionalize",
    "fc_to_conv",
    "linear_to_conv1d",
    "linear_to_conv2d",
    "receptive_windows",
]
