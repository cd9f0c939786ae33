"""Networks by name or from user code, and weights in and out."""
