"""The machine underneath: files put in place whole (`files.py`), child processes and Ctrl-C (`processes.py`), and where
things are (`places.py`): the store's folder, the default registry."""
