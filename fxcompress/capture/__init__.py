"""From a model to a graph in the dialect: tracing, functional form, one spelling an operation, readable names.

In: a module and example inputs. Out: a graph module in the dialect.

Imports: ir, data.
"""

from fxcompress.capture.driver import capture
from fxcompress.capture.partial import PartialCapture, capture_submodules, does_not_run
from fxcompress.capture.tracing import private_copy

__all__ = ["PartialCapture", "capture", "capture_submodules", "does_not_run", "private_copy"]
