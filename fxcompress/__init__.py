"""fxcompress, the compression compiler for PyTorch: graph rewrites on torch.fx, from a model to a quantized ONNX file."""

from fxcompress.compiled import Compiled
from fxcompress.compiler import compile
from fxcompress.effect import Effect
from fxcompress.parts import PartlyCompiled
from fxcompress.pattern import maybe, op, var
from fxcompress.pipeline import Context, Pass
from fxcompress.quantization.options import QuantizationOptions
from fxcompress.quantization.spec import QuantizationSpec
from fxcompress.rewrite import rewrite

__version__ = "0.1.0"

__all__ = [
    "Compiled",
    "Context",
    "Effect",
    "PartlyCompiled",
    "Pass",
    "QuantizationOptions",
    "QuantizationSpec",
    "compile",
    "maybe",
    "op",
    "rewrite",
    "var",
]
