"""Single weights as zeros: which layers have such weights, which of them matter least, masks put in for them.

In: a graph and scores. Out: masks in the graph.

Imports: report, ir, pattern, masks, binarization, quantization.
"""
