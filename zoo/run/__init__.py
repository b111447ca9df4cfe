"""Runs models: from options to inputs (`call.py`), in tiles (`tiling.py`), to files (`outputs.py`), again from a file's
recipe (`again.py`), and compared with the golden cases (`replay.py`, `comparison.py`).

How much outputs may differ is defined by the model's `Tolerance`, a type of the contract in `zoo/hookspecs.py`.
"""
