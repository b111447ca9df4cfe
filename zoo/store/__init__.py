"""Finds, fetches and keeps models: registries (`catalogue.py`), from a name to a folder (`locate.py`), fetching
(`transport.py`, `blobs.py`, `store.py`), removing (`prune.py`), copying bundles into a registry (`publish.py`).

`zoo.system.places.home` is the store's folder.
"""
