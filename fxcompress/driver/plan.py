"""Whether passes can run in the order given: each finds the facts that it needs, before any work is done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fxcompress.driver.effect import Effect
from fxcompress.driver.interface import Pass
from fxcompress.errors import PlanError, did_you_mean, shown


def plan(passes: Sequence[Pass], facts: frozenset[str] = frozenset()) -> None:
    """Check that every pass finds what it needs when its turn comes, starting from `facts`.

    Raises:
        PlanError: names the pass, the unmet need, and the passes that provide it.
    """
    if not isinstance(passes, Sequence) or isinstance(passes, str):
        raise PlanError(f"passes come in a list, such as [Quantize(), Calibrate()], not as {passes!s:.60}")
    for position, one in enumerate(passes):
        if not isinstance(one, Pass):
            raise PlanError(f"passes[{position}] is {shown(one)}, which is not a Pass{_meant(one)}")
        if not isinstance(getattr(one, "effect", None), Effect):
            raise PlanError(f"{one.name} declares no effect; set `effect = Effect.EXACT`, ROUNDING or LOSSY on the class")
        for need in sorted(one.needs - facts):
            raise PlanError(_unmet(one, need, passes[position + 1 :]))
        facts = (facts | one.gives) - one.breaks


def _meant(one: Any) -> str:
    """What to write in place of `one`, a class or a name, where that is a pass."""
    if isinstance(one, str):
        return did_you_mean(one, [f"{known.__name__}()" for known in _all_passes(Pass)])
    return f"; write {one.__name__}()" if isinstance(one, type) and issubclass(one, Pass) else ""


def _unmet(one: Pass, need: str, later: Sequence[Pass]) -> str:
    message = f"{one.name} needs {need!r}, which nothing before it provides"
    misplaced = [p.name for p in later if need in p.gives]
    if misplaced:
        return f"{message}; list {misplaced[0]} before {one.name}"
    providers = sorted(p.__name__ for p in _all_passes(Pass) if need in p.gives)
    return f"{message}; add {' or '.join(providers)} before it" if providers else message


def _all_passes(root: type[Pass]) -> list[type[Pass]]:
    return [p for child in root.__subclasses__() for p in (child, *_all_passes(child))]
