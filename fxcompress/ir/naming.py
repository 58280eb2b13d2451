"""The names of a model's state: identifiers in the graph, whose names become code, and the model's own for readers."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from torch import fx, nn

Kind = TypeVar("Kind", bound=type)

MODULE_NAMES = frozenset({*dir(nn.Module()), *nn.Module.__annotations__})
"""What a module calls its own attributes, so that nothing it holds can be called that."""

_root_names = {*MODULE_NAMES, *dir(fx.GraphModule(nn.Module(), fx.Graph()))}


def keeps_its_names(kind: Kind) -> Kind:
    """A decorator of classes of graph modules: no state of a model is called as one of their attributes."""
    _root_names.update(dir(kind), *(getattr(one, "__annotations__", ()) for one in kind.__mro__))
    return kind


def identifier(text: str) -> str:
    """`text` as a name in Python, of ASCII letters, digits and underscores: whatever it was, the same in all code."""
    name = re.sub(r"[^0-9A-Za-z_]", "_", text)
    return f"_{name}" if not name or name[0].isdigit() else name


class SafeNames:
    """Dotted paths whose every part is an identifier or a number that is not taken, for paths of any parts at all.

    A part that can stay does. `own` has the paths, of modules or tensors, whose last part could not, with the model's own.
    """

    def __init__(self, paths: Iterable[str]):
        self.own: dict[str, str] = {}
        self._safe: dict[str, str] = {"": ""}
        known = dict.fromkeys(prefix for path in paths for prefix in (*_parents(path), path) if prefix)
        held: dict[str, set[str]] = {}
        changed = [path for path in known if not _is_safe(path)]
        for path in known.keys() - changed:
            parent, _, part = path.rpartition(".")
            held.setdefault(parent, set()).add(part)
        for path in changed:
            parent, _, part = path.rpartition(".")
            beside = held.setdefault(parent, set())
            self._safe[path] = _unused(identifier(part), beside, at_root=not parent)
            beside.add(self._safe[path])
        for path in known:
            parent, _, part = path.rpartition(".")
            whole = f"{self[parent]}.{self._safe.get(path, part)}".lstrip(".")
            if path in self._safe:
                self.own[whole] = path
            self._safe[path] = whole

    def __getitem__(self, path: str) -> str:
        return self._safe[path]


def translated(path: str, names: Mapping[str, str]) -> str:
    """`path` with the longest part at its front that `names` has replaced by what stands there."""
    for prefix in (path, *reversed([*_parents(path)])):
        if prefix in names:
            return names[prefix] + path[len(prefix) :]
    return path


def keep_state_keys(module: nn.Module, own: Mapping[str, str]) -> None:
    """Let `module` save and load its state under the model's own keys; `own` maps paths in `module` to them."""
    if not own:
        return
    safe = {theirs: ours for ours, theirs in own.items()}

    def save(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
        _rename(state, prefix, own)

    def load(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
        _rename(state, prefix, safe)

    def tell(module: nn.Module, problems: Any) -> None:
        for keys in problems:
            keys[:] = [translated(key, own) for key in keys]

    module.register_state_dict_post_hook(save)
    module.register_load_state_dict_pre_hook(load)
    module.register_load_state_dict_post_hook(tell)


def _rename(state: dict[str, Any], prefix: str, names: Mapping[str, str]) -> None:
    """Rename the keys of `state` behind `prefix`, in their order."""
    for key in [key for key in state if key.startswith(prefix)]:
        state[prefix + translated(key[len(prefix) :], names)] = state.pop(key)


def _parents(path: str) -> Iterator[str]:
    """The paths above `path`, the shortest first."""
    return (path[: dot.start()] for dot in re.finditer(r"\.", path))


def _is_safe(path: str) -> bool:
    parent, _, part = path.rpartition(".")
    if re.fullmatch(r"0|[1-9][0-9]*", part):
        return True
    return part == identifier(part) and _is_free(part, at_root=not parent)


def _is_free(name: str, at_root: bool) -> bool:
    return name not in (_root_names if at_root else MODULE_NAMES) and not keyword.iskeyword(name) and not name.startswith("__")


def _unused(wanted: str, beside: set[str], at_root: bool) -> str:
    name, count = wanted.lstrip("_") or "state", 0
    wanted = name = identifier(name)
    while name in beside or not _is_free(name, at_root):
        count += 1
        name = f"{wanted}_{count}"
    return name
