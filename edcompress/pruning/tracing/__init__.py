"""From a network to its pruning space, and why groups are locked."""
