"""Which channels of a graph belong together: what must be removed with what, and what must stay.

In: a graph module. Out: identifiers for each index of each axis, and the graph without those that are removed.

Imports: options, storage, ir, masks.
"""

from fxcompress.channels import layers, norms, pointwise, rearrangements, reshape  # noqa: F401  (they enter their rules)
from fxcompress.channels.analysis import analyze
from fxcompress.channels.dependencies import Channels, Layer

__all__ = ["Channels", "Layer", "analyze"]
