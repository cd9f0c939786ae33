"""The pruning space, plans in it, and where its genes sit in tensors."""
