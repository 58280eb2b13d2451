"""The language of the graph: its dialect, the signatures of its operations, what a node costs, small edits.

In: graphs of torch.fx. Out: answers about nodes, and edited graphs.

Imports: report.
"""
