"""Quantization of a graph: where quantizers go, what they cost, and how weights are changed to suit them.

In: a graph module, a target and data. Out: quantizers in the graph, and other weights.

Imports: report, storage, ir, data, masks, quantizers, targets, execution.
"""
