"""Reads and checks ONNX graphs, never changing one. Code that rewrites graphs is in `zoo/ship` and `zoo/build`."""
