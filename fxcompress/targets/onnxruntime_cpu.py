"""onnxruntime on CPUs.

Its graph optimizer turns dequantize, operation, quantize into one integer kernel where all operands are quantized, so
the placement is OpenVINO's with quantizers on both operands of every addition, and without the exceptions that OpenVINO's
own faults call for.
"""

from __future__ import annotations

from dataclasses import replace

from fxcompress.ir.dialect import resolve
from fxcompress.targets.faults import Fault
from fxcompress.targets.openvino_cpu import OPENVINO_CPU

PAD = resolve("constant_pad_nd")

ONNXRUNTIME_CPU = replace(
    OPENVINO_CPU,
    name="onnxruntime",
    runtime="onnxruntime",
    travels={},
    exceptions={PAD: OPENVINO_CPU.exceptions[PAD]},
    accumulates=False,
    signed_weights=False,
    filter_multiple=1,
    faults=frozenset({Fault.LARGE_BIASES, Fault.SIGNED_ZERO_POINTS, Fault.TINY_AVERAGES, Fault.FLOAT_WEIGHTS}),
)
