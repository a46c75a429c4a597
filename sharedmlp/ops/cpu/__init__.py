"""Functions of tensors on a CPU: threads, tiles, and what runs in them."""
