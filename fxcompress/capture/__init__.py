"""From a model to a graph in the dialect: tracing, functional form, one spelling an operation, readable names.

In: a module and example inputs. Out: a graph module in the dialect.

Imports: ir, data.
"""

from fxcompress.capture.driver import capture
from fxcompress.capture.float32 import in_precision_of
from fxcompress.capture.free_sizes import has_pictures
from fxcompress.capture.half_weights import widen
from fxcompress.capture.inserted import is_compressed
from fxcompress.capture.memory import forgetting
from fxcompress.capture.model import check_model
from fxcompress.capture.outside import calls_outside
from fxcompress.capture.partial import PartialCapture, called_submodules, capture_submodules, does_not_run, reason_of
from fxcompress.capture.recording import forwards_replaced
from fxcompress.capture.traceable import plain_kernels
from fxcompress.capture.training_trace import Modes, in_modes, training_modes
from fxcompress.capture.twin import forward_alone, is_surrounded, private_copy, switch, twin_of, unwritten

__all__ = [
    "Modes",
    "PartialCapture",
    "called_submodules",
    "calls_outside",
    "capture",
    "capture_submodules",
    "check_model",
    "does_not_run",
    "forgetting",
    "forward_alone",
    "forwards_replaced",
    "has_pictures",
    "in_modes",
    "in_precision_of",
    "is_compressed",
    "is_surrounded",
    "plain_kernels",
    "private_copy",
    "reason_of",
    "switch",
    "training_modes",
    "twin_of",
    "unwritten",
    "widen",
]
