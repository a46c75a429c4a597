"""What a trained network says of files; needs no Lightning."""

from sharedmlp.inference.checkpoint import load_trained
from sharedmlp.inference.predict import predict_files, read_network_cloud

__all__ = ["load_trained", "predict_files", "read_network_cloud"]
