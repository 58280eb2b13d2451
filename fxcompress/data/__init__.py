"""What comes in beside the model: example inputs, calibration batches, folders of images.

In: what a user gives. Out: flattened tensors that a graph accepts.

Imports: errors.
"""
