"""Latency: measured side by side in fresh processes, and by layer."""
