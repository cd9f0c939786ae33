"""Shipped losses, one module each."""
