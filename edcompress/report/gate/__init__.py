"""The gate: figures against limits."""
