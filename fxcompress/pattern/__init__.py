"""Patterns: call-shaped expressions over the dialect's operations, and the search for them."""

from fxcompress.pattern.language import Pattern, maybe, op, var

__all__ = ["Pattern", "maybe", "op", "var"]
