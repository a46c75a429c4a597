"""Data modules: where the clouds of a training come from."""
