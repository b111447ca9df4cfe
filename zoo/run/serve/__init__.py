"""Serves models over HTTP and gRPC: the Open Inference Protocol; and a plain way with JSON and pictures.

`protocol.py` is the codec, `workers.py` the queue and the processes behind it, `batching.py` which calls run as one,
`repository.py` which models there are, `app.py` and `plain.py` the addresses, `rpc.py` and `messages.py` gRPC,
`watching.py` metrics and the log, `server.py` the server with its limits and its end. docs/serving.md.
"""
