"""Reading and checking ONNX graphs; nothing here changes one. What rewrites graphs is in `zoo/ship` and `zoo/build`."""
