"""The runtimes that a compiled model is meant for, one table each.

In: a name. Out: what runs in integers there, and how quantizers must stand.

Imports: ir, quantizers.
"""

from __future__ import annotations

from fxcompress.errors import InputError, did_you_mean, shown
from fxcompress.targets.cpu import has_vnni
from fxcompress.targets.onnxruntime_cpu import ONNXRUNTIME_CPU
from fxcompress.targets.openvino_cpu import OPENVINO_CPU
from fxcompress.targets.table import Target, Weighted

TARGETS: dict[str, Target] = {t.name: t for t in (OPENVINO_CPU, ONNXRUNTIME_CPU)}


def find_target(target: str | Target) -> Target:
    """`target` itself, or the one of that name.

    Raises:
        InputError: no target has this name.
    """
    if isinstance(target, Target):
        return target
    if target not in TARGETS:
        hint = did_you_mean(target, TARGETS)
        raise InputError(f"no target is called {shown(target)}{hint}; there are: {', '.join(TARGETS)}")
    return TARGETS[target]


__all__ = ["ONNXRUNTIME_CPU", "OPENVINO_CPU", "TARGETS", "Target", "Weighted", "find_target", "has_vnni"]
