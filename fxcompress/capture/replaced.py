"""Attributes of others' modules and classes that are something else while a model is traced."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any


@contextlib.contextmanager
def replaced(attributes: Mapping[tuple[Any, str], Any]) -> Iterator[None]:
    """In this context the attributes, each by its owner and name, are what is given for them, and then what they were.

    One that its owner inherits, or looks up by itself, is the owner's own only here.
    """
    own = [(owner, name, vars(owner)[name]) for owner, name in attributes if name in vars(owner)]
    inherited = [(owner, name) for owner, name in attributes if name not in vars(owner)]
    for (owner, name), value in attributes.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in own:
            setattr(owner, name, value)
        for owner, name in inherited:
            delattr(owner, name)
