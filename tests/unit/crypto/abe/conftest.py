"""Imports py_ecc once, here, and takes back what the import does to the whole process: it raises the recursion limit to
100,000, beyond which the C stack ends without an error that anybody could catch."""

import sys

_limit = sys.getrecursionlimit()
import py_ecc  # noqa: E402, F401 - between reading the limit and setting it again

sys.setrecursionlimit(_limit)
