"""What watching a trace tells of the model, beside the program that it gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch.export import ExportedProgram

from fxcompress.capture.mode_reads import ModeReads


@dataclass(frozen=True, kw_only=True)
class Watched:
    """What was seen of a model while it was traced; all but `reads` and `chosen` are notes for its user.

    Attributes:
        reads: who reads whether it trains.
        places: of loops that go over all places, by the lines that find them.
        found: of what is taken to be found.
        chosen: whether that is of how many chose each of several.
        decided: of branches that go as the example inputs say.
        autocasts: of regions in another precision.
        checkpoints: of what saves memory in training, and is left out.
        backwards: of what only training is without: the model's own ways with gradients.
    """

    reads: ModeReads = field(default_factory=ModeReads)
    places: Mapping[str, str] = field(default_factory=dict)
    found: tuple[str, ...] = ()
    chosen: bool = False
    decided: tuple[str, ...] = ()
    autocasts: tuple[str, ...] = ()
    checkpoints: tuple[str, ...] = ()
    backwards: tuple[str, ...] = ()

    @staticmethod
    def of(program: ExportedProgram) -> Watched:
        """What was noted with `program`; nothing of one that was traced elsewhere."""
        return program.graph_module.meta.get(_KEY) or Watched()

    def note(self, program: ExportedProgram) -> None:
        """Keep this with `program`."""
        program.graph_module.meta[_KEY] = self

    @property
    def granted(self) -> tuple[str, ...]:
        """Notes of what is taken for granted, and has to be checked where nothing is found."""
        return (*dict.fromkeys(self.places.values()), *self.found)

    @property
    def notes(self) -> tuple[str, ...]:
        """All that the graph is told to differ in, but for `backwards`."""
        return (*self.granted, *self.decided, *self.autocasts, *self.checkpoints)


_KEY = "watched"
