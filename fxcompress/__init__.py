"""fxcompress, the compression compiler for PyTorch: graph rewrites on torch.fx, from a model to a quantized ONNX file."""

from fxcompress.compiled import Compiled
from fxcompress.compiler import compile
from fxcompress.config import Config
from fxcompress.driver.effect import Effect
from fxcompress.driver.interface import Context, Pass
from fxcompress.inplace.compression import Compression, compress
from fxcompress.moved import forward as _forward_moved_names
from fxcompress.parts import PartlyCompiled
from fxcompress.pattern import maybe, op, var
from fxcompress.quantizers.options import QuantizationOptions
from fxcompress.quantizers.spec import QuantizationSpec
from fxcompress.rewrite.rule import rewrite

_forward_moved_names()

__version__ = "0.1.0"

__all__ = [
    "Compiled",
    "Compression",
    "Config",
    "Context",
    "Effect",
    "PartlyCompiled",
    "Pass",
    "QuantizationOptions",
    "QuantizationSpec",
    "compile",
    "compress",
    "maybe",
    "op",
    "rewrite",
    "var",
]
