"""Running models: from options to inputs (`call.py`), in tiles, to files (`outputs.py`), again from a file's recipe
(`again.py`), and against the golden cases (`replay.py`, `comparison.py`).

How far outputs may differ is the model's `Tolerance`, a type of the contract in `zoo/hookspecs.py`.
"""
