"""From a compiled graph to a file: lowering, translation to ONNX, OpenVINO's format.

In: a compiled graph module. Out: an ONNX model, and files.

Imports: report, storage, ir, data, quantizers, binarization, targets, driver.
"""
