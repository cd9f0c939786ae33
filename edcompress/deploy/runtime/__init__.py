"""ONNX files in a runtime: sessions, parity and predictions."""
