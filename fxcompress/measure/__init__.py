"""What a model takes and loses on this machine: latency of its file, sensitivity of its places, levels for a latency.

In: compiled models and data. Out: seconds, decibels, levels.

Imports: options, report, storage, ir, views, pattern, data, quantizers, targets, execution, quantization, training, emit.
"""
