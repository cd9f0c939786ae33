"""ONNX files in onnxruntime: sessions, parity and predictions."""
