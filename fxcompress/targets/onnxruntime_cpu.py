"""onnxruntime on CPUs.

Its graph optimizer turns dequantize, operation, quantize into one integer kernel where all operands are quantized, so
the placement is OpenVINO's; it has no integer kernel for 3-D convolutions.
"""

from __future__ import annotations

from dataclasses import replace

from fxcompress.dialect import resolve
from fxcompress.targets.openvino_cpu import OPENVINO_CPU

ONNXRUNTIME_CPU = replace(
    OPENVINO_CPU,
    name="onnxruntime",
    mixes_shared_convolutions=False,
    weighted={op: how for op, how in OPENVINO_CPU.weighted.items() if op is not resolve("conv3d")},
)
