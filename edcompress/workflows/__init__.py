"""The verbs: each reads its input, runs stages, and returns what it measured."""
