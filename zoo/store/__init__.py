"""Models on this machine: which there are (`catalogue.py`), from a name to a folder (`locate.py`), fetching them
(`transport.py`, `blobs.py`, `store.py`), removing them (`prune.py`), copying bundles into a registry (`publish.py`).

Where the store's folder is: `zoo.system.places.home`.
"""
