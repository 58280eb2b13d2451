"""Schedulers: what changes from epoch to epoch, or from optimizer step to optimizer step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from annotated_types import Ge

from fxcompress.errors import InputError, shown
from fxcompress.options import check_arguments, fits


class Scheduler:
    """Counts epochs and optimizer steps. Subclasses extend `epoch_step` and `step` by what they change.

    Call `epoch_step` at the start of every epoch, and `step` at the start of every optimizer step:

        for epoch in range(epochs):
            scheduler.epoch_step()
            for x, y in loader:
                scheduler.step()
                ...

    Attributes:
        current_epoch: the running epoch, from 0; -1 before the first.
        current_step: the running optimizer step, counted over all epochs from 0; -1 before the first.
    """

    def __init__(self) -> None:
        self.current_epoch = -1
        self.current_step = -1

    @check_arguments("epoch")
    def epoch_step(self, epoch: Annotated[int, Ge(0)] | None = None) -> None:
        """Start the next epoch, or `epoch`."""
        self.current_epoch = self.current_epoch + 1 if epoch is None else epoch

    @check_arguments("step")
    def step(self, step: Annotated[int, Ge(0)] | None = None) -> None:
        """Start the next optimizer step, or `step`."""
        self.current_step = self.current_step + 1 if step is None else step

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: numbers, strings, and dicts and lists of them."""
        return {"current_epoch": self.current_epoch, "current_step": self.current_step}

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Raise `InputError` where `state` cannot be loaded; nothing changes. Subclasses check what they add to the state."""
        if not isinstance(state, Mapping):
            raise InputError(f"the state of a schedule is a dict, as state_dict() gives it, not a {type(state).__name__}")
        if state.keys() != self.state_dict().keys():
            raise InputError(f"the state of a schedule has {sorted(state)}, where {sorted(self.state_dict())} are needed")
        for name in ("current_epoch", "current_step"):
            check_count(state, name, -1)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where `state_dict` was taken. The model's own state is loaded apart.

        Raises:
            InputError: it is not the state of such a schedule; nothing changes.
        """
        self.check_state(state)
        self.current_epoch, self.current_step = state["current_epoch"], state["current_step"]


class CompositeScheduler(Scheduler):
    """Steps several schedulers together."""

    def __init__(self, children: Mapping[str, Scheduler]):
        super().__init__()
        self.children = dict(children)

    def epoch_step(self, epoch: int | None = None) -> None:
        super().epoch_step(epoch)
        for child in self.children.values():
            child.epoch_step(epoch)

    def step(self, step: int | None = None) -> None:
        super().step(step)
        for child in self.children.values():
            child.step(step)

    def state_dict(self) -> dict[str, Any]:
        children = {name: child.state_dict() for name, child in self.children.items()}
        return {**super().state_dict(), "children": children}

    def check_state(self, state: Mapping[str, Any]) -> None:
        super().check_state(state)
        self._check_children(state)
        for name, child in self.children.items():
            child.check_state(state["children"][name])

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As `Scheduler.load_state_dict`, for every child.

        Raises:
            InputError: the state is of other schedulers.
        """
        super().load_state_dict(state)
        for name, child in self.children.items():
            child.load_state_dict(state["children"][name])

    def _check_children(self, state: Mapping[str, Any]) -> None:
        children = state["children"]
        if not isinstance(children, Mapping) or children.keys() != self.children.keys():
            given = list(children) if isinstance(children, Mapping) else children
            raise InputError(
                f"the scheduler state is of {given!r:.60}, this model has {sorted(self.children)}; "
                "compile the model with the passes that it was saved with"
            )


def check_count(state: Mapping[str, Any], name: str, least: int) -> None:
    """Raise `InputError` where ``state[name]`` is no whole number from `least` on."""
    value = state[name]
    if not fits(value, int) or value < least:
        raise InputError(f"{name} is a whole number from {least} on, not {shown(value)}")
