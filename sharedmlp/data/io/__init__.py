"""Readers of single files: meshes and point clouds."""
