"""Ports: one file a kind (`image.py`, `label.py`, …), their list (`kinds.py`), and what a task takes (`inputs.py`).

A kind's file says all that zoo knows of such inputs and outputs: dtype and shape, ranges, options and files in, files
out, comparison, what hosts in other languages must know, its line in docs/bundle.md. `kind.py` has the base that they
change.
"""
