"""What is inside a compressed module, as the graph has it: whoever changes that later changes nothing that is computed."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from numbers import Number
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from fxcompress.capture import training_modes, twin_of
from fxcompress.errors import InputError, TrainingWarning, shown, warn_user
from fxcompress.ir.bypassing import CalledByItself

_REMEDY = "change the model first, then compress it"
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_LIVE = {"momentum", "track_running_stats"}
"""What batch norms are asked for in every call; see `fxcompress.driver.live_norms`."""
_PLAIN = (Number, str, tuple)
_PARAMETRIZED = "parametrizations"
"""What computes a weight whenever that is read."""


@dataclass
class _Part:
    """A module that the graph was made of, at `path`, with its mode in training and in inference."""

    path: str
    module: nn.Module
    children: dict[str, nn.Module | None]
    attributes: dict[str, Any]
    around: tuple[int, ...]
    modes: dict[bool, bool]

    def replaced(self) -> Iterator[tuple[str, nn.Module | None]]:
        """The paths of children that are other modules now, with these; one that is the same in all but its values is not."""
        for name, child in self.children.items():
            other = self.module._modules.get(name)
            if other is child:
                continue
            if getattr(other, "_orig_mod", other) is not child and (
                type(other) is not type(child) or repr(other) != repr(child)
            ):
                yield f"{self.path}.{name}".lstrip("."), other
            self.children[name] = other

    def ignored(self, training: bool) -> Iterator[str]:
        """What was changed in it that the graph does not see."""
        held = vars(self.module)
        for name, value in self.attributes.items():
            now = held.get(name)
            if now is not value and not (isinstance(now, _PLAIN) and now == value):
                yield f"{self.path}.{name} is {shown(now)} and was {shown(value)}".lstrip(".")
        if self.path and _around(self.module) != self.around:
            yield f"'{self.path}' has other hooks, or another forward, than it had"
        if isinstance(self.module, _DropoutNd) and self.module.training != self.modes[training]:
            yield f"'{self.path}' is {'not ' * (not self.module.training)}in training, where it was otherwise"


class Insides:
    """What `module` is made of now, where `graph` has something of it; its own hooks and forward run around the graph."""

    def __init__(self, module: nn.Module, graph: fx.Graph):
        self.module, self.name, self._has_warned = module, type(module).__name__, False
        made = {node.meta.get("scope", "") for node in graph.nodes}
        scopes = {path[: dot.start()] for path in made for dot in re.finditer(r"\.|$", path)}
        if graph.find_nodes(op="call_module"):
            _tell_of_calls(module, scopes)
        twin = twin_of(module)
        modes = training_modes(module, twin)
        inference = dict(twin.named_modules())
        self.parts = [
            _Part(
                path,
                one,
                {name: child for name, child in one._modules.items() if f"{path}.{name}".lstrip(".") in scopes},
                _attributes(one),
                _around(one),
                {True: modes[path], False: inference[path].training},
            )
            for path, one in module.named_modules()
            if not path or path in scopes
        ]
        inner = [part for part in self.parts if part.path]
        self._held = [(vars(part.module), *item) for part in self.parts for item in part.attributes.items()]
        self._held += [(part.module._modules, *item) for part in self.parts for item in part.children.items()]
        self._held += [(vars(part.module), "forward", vars(part.module).get("forward")) for part in inner]
        self._hooks = [(hooks, len(hooks)) for part in inner for hooks in (getattr(part.module, name) for name in _HOOKS)]
        self._dropouts = [(part.module, part.modes) for part in self.parts if isinstance(part.module, _DropoutNd)]

    def check(self, training: bool) -> None:
        """Compare with what there is now, unless it is being traced.

        Raises:
            InputError: a module was replaced.

        Warns:
            TrainingWarning: another change, once.
        """
        if torch.compiler.is_compiling() or torch.jit.is_tracing() or self._are_as_they_were(training):
            return
        for part in self.parts:
            for path, other in part.replaced():
                became = "is gone" if other is None else f"is another module now ({type(other).__name__})"
                raise InputError(
                    f"{path!r} of {self.name} {became}, and the graph is of the one that was compressed; {_REMEDY}"
                )
            told = [] if self._has_warned else list(part.ignored(training))
            if told:
                self._has_warned = True
                warn_user(
                    f"since {self.name} was compressed, {told[0]}, which its graph does not see; {_REMEDY}", TrainingWarning
                )

    def _are_as_they_were(self, training: bool) -> bool:
        """The question of every call, answered in a pass over a list; what differs is looked at by `check`."""
        for held, name, value in self._held:
            if held.get(name) is not value:
                return False
        same = all(len(hooks) == count for hooks, count in self._hooks)
        return same and all(one.training == modes[training] for one, modes in self._dropouts)


def _tell_of_calls(module: nn.Module, paths: Collection[str]) -> None:
    """Let the layers of `module` at `paths` that have parameters tell of calls, of which the graph makes none."""
    told: list[str] = []
    for path, one in module.named_modules():
        if path and path in paths and any(True for _ in one.parameters(recurse=False)) and _PARAMETRIZED not in path.split("."):
            one.register_forward_pre_hook(CalledByItself(path, type(module).__name__, told))


def _attributes(module: nn.Module) -> dict[str, Any]:
    """What layers of torch compute by; those of others may be anything, caches and counters too."""
    if not type(module).__module__.startswith("torch.nn.modules."):
        return {}
    apart = {"training", "inplace", *(_LIVE if isinstance(module, _BatchNorm) else ())}
    return {name: value for name, value in vars(module).items() if name[0] != "_" and name not in apart}


def _around(module: nn.Module) -> tuple[int, ...]:
    return ("forward" in vars(module) and id(vars(module)["forward"]), *(len(getattr(module, name)) for name in _HOOKS))
