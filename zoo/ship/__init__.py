"""Models for other stacks: exports (`export.py`), smaller ones (`precision.py`, `rewriting.py`), what a target can run
(`compatibility.py`), and noise that the host draws (`noise.py`).
"""
