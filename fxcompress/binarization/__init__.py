"""Weights of two values and activations of two values: the modules that binarize, and what is known about them in a graph.

In: tensors. Out: tensors of two values.

Imports: ir, masks.
"""
