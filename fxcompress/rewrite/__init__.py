"""Rules, a pattern and what goes in its place, and their application to a graph.

In: a graph and rules. Out: the graph rewritten, and what was replaced.

Imports: ir, pattern.
"""

from fxcompress.rewrite.builder import Builder
from fxcompress.rewrite.example import Example
from fxcompress.rewrite.rule import Replacement, Rule, apply, rewrite

__all__ = ["Builder", "Example", "Replacement", "Rule", "apply", "rewrite"]
