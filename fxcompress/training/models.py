"""What training asks of a model: what `compile` gives has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from fxcompress.training.controller import CompositeController


@runtime_checkable
class CompiledModel(Protocol):
    """A model that was compiled as a whole."""

    @property
    def compilation(self) -> Any: ...

    @property
    def graph(self) -> Any: ...

    def recompile(self) -> Any: ...


@runtime_checkable
class Trainable(Protocol):
    """A compiled model."""

    @property
    def controller(self) -> CompositeController: ...

    def checkpoint(self) -> dict[str, Any]: ...

    def load_checkpoint(self, state: Mapping[str, Any]) -> None: ...


@runtime_checkable
class CalledByName(Protocol):
    """A model that is called as the one was that it was compiled from, whatever its graph takes by position."""

    def as_known(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]: ...
