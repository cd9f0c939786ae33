"""Architectures by name, and weights in and out."""
