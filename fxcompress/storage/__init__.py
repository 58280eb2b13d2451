"""Files on disk, whole or not there.

In: bytes, text, or a function that writes. Out: a path.

Imports: errors.
"""
