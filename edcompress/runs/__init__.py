"""The run folder, and what is read from it."""
