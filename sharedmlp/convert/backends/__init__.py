"""Conversion of pointwise layers and whole models from one backend to another."""
