"""The operating system: paths and URLs that users give (`paths.py`, `urls.py`), atomic file writes (`files.py`), child
processes, streams and Ctrl-C (`processes.py`), and standard folders (`places.py`): the store, the default registry."""
