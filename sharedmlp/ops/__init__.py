"""Functions of tensors, without modules: a pointwise layer, batch norm, activation and the max."""
