"""ONNX files: export, parity, latency."""
