"""The modules that stand on an edge and round: their grids, how their ranges are estimated, their gradients and kernels.

In: tensors and a `QuantizationSpec`. Out: the rounded tensors and the integers behind them.

Imports: options, report, storage, ir, masks.
"""
