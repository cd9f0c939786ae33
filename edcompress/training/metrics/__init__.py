"""Shipped metrics, one module each."""
