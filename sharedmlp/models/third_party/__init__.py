"""Weights of other people's PointNet classifiers, in and out.

`load_weights` recognizes the state dicts of four public PyTorch repositories and makes the network
that computes the same, on any backend, fused if it can be; `export_weights` is its inverse.
`sharedmlp.models.third_party.sources` has the mapping.

How the four differ from the paper's `PointNet`, each an option of `PointNet` or of
`ThirdPartyPointNet`:

    source      shared MLP              T-Nets               before max  head, dropout
    yanx27      64 / 128-1024           both, adding the     no ReLU     512-256; 0.4 before the
                                        identity; see the                second batch norm
                                        normals as well
    fxia22      64 / 128-1024           the first or both,   no ReLU     512-256; 0.3 before the
                                        adding the identity              second batch norm
    learning3d  64-64-64-128-E, batch   none                 ReLU        512-256; 0.7 after both
                norm or none
    antao97     64-64-64-128-E          none                 ReLU        512; 0.5

All but antao97 have biases before batch norms. Batch norm's eps (1e-5) and momentum (0.1) are
torch's in all of them, and here.

What stays different: the input is channels last here, `(B, N, C)`, where all but learning3d take
`(B, C, N)`; the output are logits, where yanx27 and fxia22 return log-probabilities, which are
`log_softmax(logits)`; the T-Nets' matrices come from `PointNet.forward_detailed`; dropout masks are
those of the same generator state, as the head is the same. The penalties on the T-Nets that the
repositories add to their losses are not part of a network.
"""

from sharedmlp.models.third_party.pointnet import ThirdPartyPointNet
from sharedmlp.models.third_party.sources import SOURCES, Source
from sharedmlp.models.third_party.weights import export_weights, load_weights

__all__ = ["SOURCES", "Source", "ThirdPartyPointNet", "export_weights", "load_weights"]
