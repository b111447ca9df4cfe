"""Serves models over HTTP: the Open Inference Protocol, and a plain way with JSON and pictures. docs/serving.md.

`protocol.py` is the codec, `workers.py` the queue and the processes behind it, `repository.py` which models there are,
`app.py` and `plain.py` the addresses, `server.py` the server with its limits and its end.
"""
