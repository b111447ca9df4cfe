"""Ports: one file per kind (`image.py`, `label.py`, …), their list (`kinds.py`), and a task's inputs (`inputs.py`).

A kind's file contains everything that zoo knows about such inputs and outputs: dtype and shape, ranges, options and
files in, files out, comparison, what hosts in other languages must know, and its line in docs/bundle.md. `kind.py` has
their base class.
"""
