"""Options that make the networks small enough to train and export in a test."""

from typing import Any

SMALL: dict[str, dict[str, Any]] = {
    "pointnet_vanilla": {
        "local_channels": (8, 8),
        "global_channels": (8, 16),
        "head_channels": (12,),
    },
    "dgcnn": {"k": 4, "edge_channels": (6, 8), "embedding_channels": 16, "head_channels": (12,)},
    "pointnet2_ssg": {
        "levels": (
            {"num_centers": 12, "radius": 0.7, "num_neighbors": 8, "channels": [6, 8]},
            {"num_centers": 4, "radius": 1.0, "num_neighbors": 8, "channels": [8]},
        ),
        "global_channels": (16,),
        "head_channels": (12,),
    },
    "pointnet2_msg": {
        "levels": (
            {
                "num_centers": 12,
                "radius": [0.4, 0.7],
                "num_neighbors": [4, 8],
                "channels": [[6], [6, 8]],
            },
        ),
        "global_channels": (16,),
        "head_channels": (12,),
    },
}
