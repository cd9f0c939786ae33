"""Sources of weights by name: each module is one, and its file name stands before the colon."""
