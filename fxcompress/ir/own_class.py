"""A class of its own for one instance of a module, so that this alone has another `forward`."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any

from torch import nn


class Underived:
    """Before a class in the bases of another, it keeps that from being announced: no class of the user's was derived from.

    What `__init_subclass__` of theirs does, such as entering each class in a register, or asking for arguments, is not done.
    """

    def __init_subclass__(cls, **arguments: Any) -> None:
        pass


def give_class(module: nn.Module, members: Mapping[str, Any], kind: type = Underived) -> None:
    """Give the instance `module` a class of its own, derived from its class and named as that, with `kind` and `members`."""
    own = type(module)
    bases = (own,) if issubclass(own, kind) else (kind, own)
    named = {"__module__": own.__module__, "__qualname__": own.__qualname__, "__doc__": own.__doc__}
    module.__class__ = types.new_class(own.__name__, bases, {}, lambda namespace: namespace.update({**named, **members}))
