"""Models for other stacks: exports (`export.py`), smaller ones (`precision.py`, `fp16.py`, `int8.py`), what a target
can run (`compatibility.py`), and noise that the host draws (`noise.py`).
"""
