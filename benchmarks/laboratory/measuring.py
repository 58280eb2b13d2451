"""Figures of a trained model and of the file that it becomes."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
from torch import fx

from benchmarks import openvino_runner
from benchmarks.laboratory.fashion import Fashion
from benchmarks.laboratory.methods import Method
from benchmarks.laboratory.training import accuracy
from fxcompress.binarization.binarizers import WeightBinarizer
from fxcompress.compiled import Compiled
from fxcompress.emit.inspect import inspect_onnx
from fxcompress.ir.cost import cost
from fxcompress.quantizers.quantizer import Quantizer
from fxcompress.sparsity.layers import weighted_layers

BATCH = 100


def emit(compiled: Compiled, method: Method, stem: Path) -> tuple[Path, Path]:
    """Write the file that OpenVINO runs, and the ONNX file, which may be the same one; `stem` is their path without suffix."""
    onnx = compiled.to_onnx(stem.with_name(f"{stem.name}.onnx"))
    return compiled.to_openvino(stem.with_name(f"{stem.name}.xml"), batch_size=1) if method.openvino else onnx, onnx


def figures(compiled: Compiled, data: Fashion, run: Path, onnx: Path) -> dict[str, Any]:
    """The fields of a `Row` that are measured, of the trained model and the files of `emit`."""
    found = openvino_runner.outputs(run, data.test_images.numpy(), batch=BATCH).argmax(1)
    content = b"".join(path.read_bytes() for path in parts(run))
    return {
        "accuracy": accuracy(compiled, data),
        "openvino_accuracy": 100 * float(np.mean(found == data.test_labels.numpy())),
        "weight_bits": weight_bits(compiled),
        "zeros": inspect_onnx(onnx).zero_share,
        "multiply_adds": cost(compiled.lower()).multiply_adds,
        "file_bytes": len(content),
        "packed_bytes": len(zlib.compress(content, 9)),
    }


def parts(path: Path) -> list[Path]:
    """The file at `path`, and the weights beside it where it is OpenVINO's."""
    return [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]


def weight_bits(compiled: fx.GraphModule) -> float:
    """The mean bits of a weight of a convolution or linear layer; 32 where nothing rounds it."""
    weights = [layer.constant for layer in weighted_layers(compiled.graph)]
    sizes = [weight.meta["val"].numel() for weight in weights]
    return sum(_bits(compiled, weight) * size for weight, size in zip(weights, sizes)) / sum(sizes)


def _bits(graph_module: fx.GraphModule, constant: fx.Node) -> int:
    """Of the weight `constant`: as what it is read through, mask by mask, says."""
    for reader in constant.users:
        if reader.op == "call_module":
            module = graph_module.get_submodule(str(reader.target))
            if isinstance(module, WeightBinarizer) and module.enabled:
                return 1
            return module.spec.bits if isinstance(module, Quantizer) and module.enabled else _bits(graph_module, reader)
    return 32
