"""Tasks: what is trained, by which loss, and how it is measured."""
