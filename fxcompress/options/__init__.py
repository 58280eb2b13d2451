"""Options: declared once, with types and ranges, and checked in one way for passes, schedules, specifications and functions.

In: declarations and values. Out: an error that names the option, what is allowed, and what was given.

Imports: errors.
"""

from fxcompress.options.declared import Declared, check_arguments
from fxcompress.options.kinds import OneOf, fits

__all__ = ["Declared", "OneOf", "check_arguments", "fits"]
