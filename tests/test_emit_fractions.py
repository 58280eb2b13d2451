"""Floats that forward computes from sizes that are free: scales, bounds, rounded sizes."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from emission import Call, assert_same, checked, in_onnxruntime, in_openvino
from torch.utils import _pytree as pytree

from fxcompress.capture import capture
from fxcompress.data.inputs import ExampleInputs
from fxcompress.emit.batch import fix_batch_size
from fxcompress.emit.onnx import to_onnx_model

TABLE = torch.arange(1.0, 4.0)
IMAGE = torch.randn(2, 3, 12, 16)


def numbers(x):
    """Of operands, of what has to be a constant in ONNX, of nothing but constants, as outputs."""
    ratio = x.shape[2] / (x.shape[3] * 4)
    scaled = x * ratio + x * x.shape[3] ** -0.5, F.leaky_relu(x, ratio), x.clamp(-ratio, 2 * ratio), x % ratio
    return *scaled, torch.where(x > ratio, x, ratio), TABLE * ratio, torch.full((2,), ratio), ratio / 2


def sizes(x):
    """Rounded in all ways."""
    up = F.interpolate(x, size=(math.floor(x.shape[2] * 1.3), math.ceil(x.shape[3] / 3)))
    return up, x[:, :, : round(x.shape[2] / 2.5)], x[:, :, :, math.trunc(x.shape[3] * 0.7) :]


@pytest.mark.parametrize("function", [numbers, sizes])
@pytest.mark.parametrize("run", [in_onnxruntime, in_openvino])
def test_floats_of_free_sizes_are_computed_in_the_file(function, run):
    graph = capture(Call(function), ExampleInputs((IMAGE,)), dynamic_shapes="auto")
    serialized = checked(to_onnx_model(graph))
    for size in (12, 16), (9, 31), (30, 7):
        x = torch.randn(3, 3, *size)
        for found, wanted in zip(run(serialized, [x]), pytree.tree_leaves(function(x)), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_floats_of_the_batch_size_are_of_any():
    assert_same(lambda x: x / x.shape[0] ** 0.5, torch.randn(2, 3))


def test_floats_of_a_batch_size_that_is_fixed_are_constants():
    graph = capture(Call(lambda x: x * (x.shape[0] / x.shape[3])), ExampleInputs((IMAGE,)), dynamic_shapes="auto")
    (found,) = in_onnxruntime(checked(to_onnx_model(fix_batch_size(graph, 5))), [x := torch.randn(5, 3, 4, 7)])
    np.testing.assert_allclose(found, x * 5 / 7, rtol=1e-5)
