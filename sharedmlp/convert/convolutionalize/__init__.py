"""Conversion of classifiers to fully convolutional networks, by rewriting their graphs."""
