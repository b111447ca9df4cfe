"""The operating system: atomic file writes (`files.py`), child processes and Ctrl-C (`processes.py`), and standard
folders (`places.py`): the store, the default registry."""
