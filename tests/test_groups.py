"""Weights with scales for groups of any size: both runtimes add up what the simulation does."""

from __future__ import annotations

import pytest
import torch
from emission import checked, in_onnxruntime, in_openvino
from torch import nn

import fxcompress
from fxcompress import QuantizationSpec, passes
from fxcompress.emit.onnx import to_onnx_model
from fxcompress.execution.agreement import sqnr


@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("size", [2, 5, 6, 7, 9, 10, 30, 33, 36, 40, 50, 64])
@pytest.mark.parametrize("symmetric", [True, False])
def test_groups_of_any_size(size, bits, symmetric):
    torch.manual_seed(0)
    x, weights = torch.randn(4, 3 * size), QuantizationSpec(bits=bits, signed=symmetric, symmetric=symmetric, group_size=size)
    stack = [passes.Quantize(weights=weights, activations=None), passes.Calibrate()]
    compiled = fxcompress.compile(nn.Sequential(nn.Linear(3 * size, 4), nn.ReLU()), stack, data=[(x,)])
    serialized = checked(to_onnx_model(compiled.lower(), faults=compiled.compilation.target.faults))
    for run in (in_onnxruntime, in_openvino):
        assert sqnr(compiled(x), torch.from_numpy(run(serialized, (x,))[0])) > 38, run.__name__


def test_groups_that_are_added_up_wrongly_are_divided():
    x, weights = torch.randn(4, 80), QuantizationSpec(bits=4, group_size=40)
    stack = [passes.Quantize(weights=weights, activations=None), passes.Calibrate()]
    compiled = fxcompress.compile(nn.Linear(80, 4), stack, data=[(x,)])
    model = to_onnx_model(compiled.lower(), faults=compiled.compilation.target.faults)
    (dequantize,) = (node for node in model.graph if node.op_type == "DequantizeLinear")
    assert dequantize.attributes.get_int("block_size") == 20
    assert "odd sizes" in model.metadata_props["fxcompress.notes"]
