"""fxcompress, the compression compiler for PyTorch: graph rewrites on torch.fx, from a model to a quantized ONNX file."""

from fxcompress.compiler import Compiled, compile
from fxcompress.pattern import maybe, op, var
from fxcompress.pipeline import Context, Effect, Pass
from fxcompress.rewrite import rewrite
from fxcompress.quantization.spec import QuantizationSpec

__version__ = "0.1.0"

__all__ = ["Compiled", "Context", "Effect", "Pass", "QuantizationSpec", "compile", "maybe", "op", "rewrite", "var"]
