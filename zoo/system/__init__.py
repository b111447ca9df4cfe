"""The operating system: paths and URLs that users give (`paths.py`, `urls.py`), atomic file writes (`files.py`), child
processes, streams and Ctrl-C (`processes.py`), standard folders (`places.py`): the store, the default registry. It also
knows what is installed: extras, ONNX Runtime (`installation.py`), the NVIDIA driver (`gpus.py`)."""
