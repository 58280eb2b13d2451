"""Running a captured graph on data, node by node, and looking at what places of it see.

In: a graph module and batches. Out: values, gradients' traces, agreement in dB.

Imports: ir, data.
"""
