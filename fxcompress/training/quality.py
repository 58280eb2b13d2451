"""How good a model is, as the user's own function says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fxcompress.errors import InputError


def quality(function: Callable[[Any], Any], model: Any) -> float:
    """What `function` returns for `model`, larger for a better one; NaN is for the caller to judge.

    Raises:
        InputError: it is no number.
    """
    value = function(model)
    try:
        return float(value)
    except (TypeError, ValueError):
        name = getattr(function, "__name__", "the function")
        raise InputError(
            f"{name} returned {value!r:.60}; let it return a number, the quality of the model: larger for a better one"
        ) from None
