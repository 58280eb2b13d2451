"""Passes and what drives them: the contract of a pass, its plan, its run, the check of its promise.

In: a graph and passes. Out: the rewritten graph and a report.

Imports: options, report, storage, ir, rewrite, data, capture, quantizers, targets, execution, quantization, training.
"""
