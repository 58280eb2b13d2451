"""What of a graph is drawn: boxes of stacked operations, and wires between them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Mark:
    """A pill on a wire or a badge on a line: what a pass put between a value and the operation that reads it."""

    node: str
    label: str
    created_by: str | None


@dataclass
class Line:
    """One operation in a box."""

    node: str
    operation: str
    detail: str
    created_by: str | None
    marks: list[Mark] = field(default_factory=list)
    heavy: bool = False


@dataclass
class Box:
    """Operations drawn as one; `name` is that of its first node, `scope` the module it is read under."""

    name: str
    scope: str
    lines: list[Line]
    kind: str = "operation"
    nodes: list[str] = field(default_factory=list)
    region: str | None = None


@dataclass
class Sink:
    """Where a wire ends: the box that reads it, the pills right before it, and its place among what the box reads."""

    box: str
    marks: list[Mark]
    position: int = 0


@dataclass
class Wire:
    """One value (`index` of several that `box` gives), the pills right after it, and who reads it."""

    box: str
    index: int
    marks: list[Mark]
    sinks: list[Sink]
    shape: str | None


@dataclass
class Summary:
    """The boxes in the order they run, by name, and the wires."""

    boxes: dict[str, Box]
    wires: list[Wire]
    repeats: dict[str, tuple[str, int]] = field(default_factory=dict)
    """For a scope that stands for several alike: the last of them, and how many there are."""

    def edges(self) -> Iterator[tuple[str, str]]:
        """Each (producing box, reading box)."""
        for wire in self.wires:
            for sink in wire.sinks:
                yield wire.box, sink.box

    @property
    def makers(self) -> set[str]:
        """The passes of which something is drawn: a line, a badge or a pill."""
        lines = [line for box in self.boxes.values() for line in box.lines]
        pills = [mark for wire in self.wires for marks in (wire.marks, *(sink.marks for sink in wire.sinks)) for mark in marks]
        drawn: list[Line | Mark] = [*lines, *(mark for line in lines for mark in line.marks), *pills]
        return {one.created_by for one in drawn if one.created_by}
