"""Stands in for a worker that was taken over: it writes an answer without an end.

python -m tests.flood
"""

import sys

while True:
    sys.stdout.write("x" * 65536)
