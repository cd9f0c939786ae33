"""edcompress: a trained image classifier in, a smaller and faster ONNX file out, and the proof."""
