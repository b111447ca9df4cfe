"""Exports models to other stacks (`export.py`): what a target can run (`compatibility.py`), smaller models
(`precision.py`, `fp16.py`, `int8.py`), and noise that the host draws (`noise.py`).
"""
