"""Modules that multiply a weight by zeros and ones, fixed or learned.

In: a constant of the graph. Out: the same, masked.

Imports: ir.
"""

from fxcompress.masks.learned import LearnedMask
from fxcompress.masks.mask import FilterMask, Mask

__all__ = ["FilterMask", "LearnedMask", "Mask"]
