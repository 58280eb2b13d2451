"""fxcompress, the compression compiler for PyTorch: graph rewrites on torch.fx, from a model to a quantized ONNX file.

Names are imported when they are first asked for, so that the command line's help need not wait for torch.
"""

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from fxcompress.moved import forward as _forward_moved_names

if TYPE_CHECKING:
    from fxcompress.compiled import Compiled
    from fxcompress.compiler import compile
    from fxcompress.config import Config
    from fxcompress.data.all_ranks import AllRanks
    from fxcompress.data.decoding import decoding_inputs
    from fxcompress.driver.effect import Effect
    from fxcompress.driver.interface import Context, Pass
    from fxcompress.inplace.compression import Compression, compress
    from fxcompress.parts import PartlyCompiled
    from fxcompress.pattern import maybe, op, var
    from fxcompress.quantizers.options import QuantizationOptions
    from fxcompress.quantizers.spec import QuantizationSpec
    from fxcompress.rewrite.rule import rewrite
    from fxcompress.training.parameter_groups import parameter_groups

_forward_moved_names()

__version__ = "0.1.0"

__all__ = [
    "AllRanks",
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
    "decoding_inputs",
    "maybe",
    "op",
    "parameter_groups",
    "rewrite",
    "var",
]

_HOMES = {
    "fxcompress.compiled": ["Compiled"],
    "fxcompress.compiler": ["compile"],
    "fxcompress.config": ["Config"],
    "fxcompress.data.all_ranks": ["AllRanks"],
    "fxcompress.data.decoding": ["decoding_inputs"],
    "fxcompress.driver.effect": ["Effect"],
    "fxcompress.driver.interface": ["Context", "Pass"],
    "fxcompress.inplace.compression": ["Compression", "compress"],
    "fxcompress.parts": ["PartlyCompiled"],
    "fxcompress.pattern": ["maybe", "op", "var"],
    "fxcompress.quantizers.options": ["QuantizationOptions"],
    "fxcompress.quantizers.spec": ["QuantizationSpec"],
    "fxcompress.rewrite.rule": ["rewrite"],
    "fxcompress.training.parameter_groups": ["parameter_groups"],
}

if not TYPE_CHECKING:  # a type checker would take every name for one that is there

    def __getattr__(name: str) -> Any:
        for home, names in _HOMES.items():
            if name in names:
                importlib.import_module("fxcompress.compiler")  # whole, so that what is registered on import is there
                globals()[name] = getattr(importlib.import_module(home), name)
                return globals()[name]
        if not name.startswith("_") and importlib.util.find_spec(f"fxcompress.{name}"):
            return importlib.import_module(f"fxcompress.{name}")
        raise AttributeError(f"module 'fxcompress' has no attribute {name!r}")


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        """As of any module, but that an imported room does not take the place of what is called as it is (`rewrite`)."""
        if name not in __all__ or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
