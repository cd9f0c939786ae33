"""Files for runtimes: ONNX and its variants, PyTorch archives, load_pruned.py."""
