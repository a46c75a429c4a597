"""Neighbors and samples of points: k nearest, balls, farthest points, interpolation weights.

For torch tensors and NumPy arrays; for clouds of one size `(B, N, C)`, one cloud `(N, C)`, and
clouds of different sizes laid end to end `(M, C)` with a batch vector. Rows are int64. No gradient
flows.

Exact means: as if every squared distance were computed in float64 (the difference of each channel,
its square, and sums of two numbers at a time in one fixed order) and ties went to the lowest row.
So the answer does not depend on the device, the number of threads, the precision set for matrix
products, or autocast. In float32, |x|^2 - 2xy + |y|^2, as most code has it, confuses near points.

How it is done: products in float64 approximate the distances of a tile of pairs with a known error.
The lowest bits of each make room for its row, and NumPy's partition selects the smallest of these
integers: 2.5 ms for 1,024 x 1,024 pairs where argpartition took 6 and topk 18 (one thread, AVX2).
Distances too close to tell apart are computed exactly, for the few queries that have any. Memory
is bounded by a tile, the points and the answer. Large clouds in up to 8 dimensions are split into
leaves of a k-d tree, of which only the near ones are searched. `torch.export` records plain
operations for the same rows (sharedmlp.ops.neighbors.exported), without batch vectors and not for
interpolation_weights; torch.jit.trace gets an error instead of constants.

What was weighed against it: scipy's k-d tree, several times faster for 200,000 points in 3
dimensions (3 s where this takes 6 to 11 on a busy core), but slower from 8 dimensions on (1,024
points in 3, 8, 16 and 64 dimensions: 4, 11, 18 and 41 ms), silent about the order of ties, and a
dependency. pykdtree is silent about ties too, faiss and fpsample compute in float32, torch_cluster
has to be compiled for each version of torch. None of them is needed or used.
"""

from sharedmlp.ops.neighbors import (
    ball_query,
    farthest_points,
    interpolation_weights,
    k_nearest,
)

__all__ = ["ball_query", "farthest_points", "interpolation_weights", "k_nearest"]
