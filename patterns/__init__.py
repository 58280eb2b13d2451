"""The pattern library: nouns are patterns, verbs are rules that rewrite them.

In: nothing. Out: patterns, and rules for passes.

Imports: ir, pattern, rewrite, quantization.
"""
