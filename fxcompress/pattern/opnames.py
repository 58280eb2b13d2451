"""How operations are called in patterns, rules and messages."""

from __future__ import annotations

from typing import Any

import torch
from torch._ops import OpOverload

from fxcompress.errors import DialectError, PatternError, did_you_mean
from fxcompress.ir.dialect import resolve


def target_called(name: str) -> OpOverload:
    """The dialect's overload for `name`, such as ``relu`` or ``div.Tensor_mode``.

    Raises:
        PatternError: there is none; the message suggests the nearest names.
    """
    try:
        return resolve(name)
    except AttributeError:
        packet = getattr(torch.ops.aten, name.partition(".")[0])
        raise PatternError(f"there is no operation {name!r}; the overloads are {packet.overloads()}") from None
    except DialectError as error:
        known = {n.removeprefix("aten::").partition(".")[0] for n in torch._C._dispatch_get_all_op_names()}
        known = {name for name in known if not name.endswith("_")}
        raise PatternError(f"{error}{did_you_mean(name, known)}") from None


def target_name(target: Any) -> str:
    """A call target as a pattern spells it: ``conv2d``, ``div.Tensor_mode``, ``getitem``."""
    if not isinstance(target, OpOverload):
        return getattr(target, "__name__", str(target))
    packet = target._schema.name.split("::")[-1]
    try:
        plain = resolve(packet) is target or target._overloadname == "default"
    except DialectError:
        plain = target._overloadname == "default"
    return packet if plain else f"{packet}.{target._overloadname}"
