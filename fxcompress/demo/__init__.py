"""The demonstration: a small residual network on handwritten digits, from training to INT8.

In: nothing. Out: networks, digits, measurements of files.

Imports: errors.
"""

from fxcompress.demo.digits import ResidualNet

__all__ = ["ResidualNet"]
