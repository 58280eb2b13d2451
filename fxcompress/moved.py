"""Public names that stood at the top of the package before there were rooms: the old paths go on working, and warn."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "fxcompress.builder": "fxcompress.ir.edit",
    "fxcompress.cost": "fxcompress.ir.cost",
    "fxcompress.dialect": "fxcompress.ir.dialect",
    "fxcompress.effect": "fxcompress.driver.effect",
    "fxcompress.example": "fxcompress.rewrite.example",
    "fxcompress.graph": "fxcompress.views",
    "fxcompress.graph.drawing": "fxcompress.views.drawing",
    "fxcompress.images": "fxcompress.data.images",
    "fxcompress.latency_target": "fxcompress.measure.latency_target",
    "fxcompress.learned_masks": "fxcompress.masks.learned",
    "fxcompress.pipeline": "fxcompress.driver.interface",
    "fxcompress.scopes": "fxcompress.pattern.scopes",
    "fxcompress.sensitivity": "fxcompress.measure.sensitivity",
}


class _Forwarding(Loader):
    """Makes a module that has the names of another one."""

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        new = MOVED[module.__name__]
        warnings.warn(f"{module.__name__} is {new} now", DeprecationWarning, stacklevel=2)
        names = vars(importlib.import_module(new))
        vars(module).update({name: value for name, value in names.items() if not name.startswith("__")})


class _Finder(MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(name, _Forwarding(), is_package=name == "fxcompress.graph") if name in MOVED else None


def forward() -> None:
    """Let the old paths be imported."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
