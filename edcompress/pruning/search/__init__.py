"""EDropout and its controls."""
