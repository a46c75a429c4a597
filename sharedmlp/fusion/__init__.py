"""Other people's networks with the fused max: `fuse` and `fusion_report`.

A network is run as it is written, and what it asks torch for is watched. A pointwise layer (a
convolution with kernel 1 or `F.linear`) is not computed when it is asked for: its caller gets a
tensor that knows shape, dtype and device but not yet its numbers. Batch norm, a monotone activation
and moved axes are recorded on it; a max over points runs all of it fused
(`sharedmlp.ops.fused`), and whatever else needs the numbers runs the plain operations that
were recorded, once.

Why so, and not otherwise:

- Symbolic tracing (torch.fx) fails where the field's networks are Python: they branch on
  `x.is_cuda` and on the number of channels, and call NumPy inside forward.
- A `torch.compile` backend that rewrites the captured graph and runs it eagerly does take such
  code, by breaking the graph. Measured with torch 2.13 on a small port of PointNet: 7 graphs for
  one training step, 20 for two sizes of clouds in training and evaluation, a second or two for each
  capture. A pattern is lost where a break falls into it, the running statistics' updates and the
  modules' hooks are the graph's to keep, and the network becomes a compiled one, with guards and
  recompilations. What it would gain, the rest of the network compiled, `torch.compile` gives
  anyway.
- Here ordinary eager code runs: hooks, branches, prints and debuggers work, and what is not
  understood is computed as before. The price is some microseconds of Python an operation, and that
  a value is computed later than its line, so that whatever could tell the difference has to be
  thought of: the grad mode of that line is restored, a tensor about to be overwritten is read
  first, running statistics move once and also where nobody ever reads the value, and a custom
  autograd function, which torch shows nobody, gets gradients through a bridge
  (`sharedmlp.fusion.lazy_tensor`).
"""

from sharedmlp.fusion.fuse import fuse, fusion_report
from sharedmlp.fusion.report import LayerReport

__all__ = ["LayerReport", "fuse", "fusion_report"]
