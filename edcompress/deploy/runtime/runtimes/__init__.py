"""Runtimes for ONNX files: one module each, with a `RUNTIME` that follows `sessions.Runtime`."""
