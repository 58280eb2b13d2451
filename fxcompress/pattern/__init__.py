"""Patterns: call-shaped expressions over the dialect's operations, and the search for them.

In: a pattern and a graph. Out: the places where it matches.

Imports: ir.
"""

from fxcompress.pattern.language import Pattern, maybe, op, var

__all__ = ["Pattern", "maybe", "op", "var"]
