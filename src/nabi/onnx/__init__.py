"""ONNX files: networks written for other runtimes, and networks of others read."""
