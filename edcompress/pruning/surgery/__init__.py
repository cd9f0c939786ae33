"""Masked, sliced and smaller networks of a state."""
