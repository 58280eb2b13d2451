"""Blocks that a model repeats, drawn once: twelve encoder layers alike become one, marked ×12."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import pairwise

from fxcompress.views.summary import Box, Mark, Summary, Wire

FEWEST = 3
_NUMBERED = re.compile(r"(.*?)(\d+)")


@dataclass(frozen=True)
class _Read:
    """What box number `reader` of a block reads: a box of the same block, of the one before, or a fixed one.

    `source` is that box's number in the block, or the name of a fixed one.
    """

    reader: int
    whence: str
    source: int | str
    index: int
    marks: tuple[str, ...]


def fold_repeats(summary: Summary) -> Summary:
    """`summary` with each run of three or more equal numbered modules reduced to the first.

    Equal means: the same operations, settings, shapes and marks in the same order, each block reading the one before it
    at the same place, other inputs being the very same, and nothing but the last one's result being read from outside.
    """
    for scopes in _series(summary):
        for run in _equal_runs(summary, scopes):
            summary = _fold(summary, run)
    return summary


def _series(summary: Summary) -> list[list[str]]:
    """Modules that are numbered one after the other, outer ones first."""
    scopes = {scope for box in summary.boxes.values() for scope in _prefixes(box.scope)}
    numbered: dict[str, dict[int, str]] = {}
    for scope in scopes:
        if match := _NUMBERED.fullmatch(scope):
            numbered.setdefault(match[1], {})[int(match[2])] = scope
    series: list[list[str]] = []
    for _, found in sorted(numbered.items(), key=lambda item: (item[0].count("."), item[0])):
        for number in sorted(found):
            if number - 1 in found:
                series[-1].append(found[number])
            else:
                series.append([found[number]])
    return [scopes for scopes in series if len(scopes) >= FEWEST]


def _prefixes(scope: str) -> list[str]:
    parts = scope.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))] if scope else []


def _inside(summary: Summary, scope: str) -> list[Box]:
    return [box for box in summary.boxes.values() if box.scope == scope or box.scope.startswith(f"{scope}.")]


def _equal_runs(summary: Summary, scopes: list[str]) -> list[list[str]]:
    """The stretches of `scopes` that can be folded."""
    blocks = {scope: _inside(summary, scope) for scope in scopes}
    runs: list[list[str]] = [[scopes[0]]]
    for before, scope in pairwise(scopes):
        if _continues(summary, blocks, runs[-1], before, scope):
            runs[-1].append(scope)
        else:
            runs.append([scope])
    return [run for run in runs if len(run) >= FEWEST]


def _continues(summary: Summary, blocks: dict[str, list[Box]], run: list[str], before: str, scope: str) -> bool:
    """Whether block `scope` repeats the last of `run`, which is `before`."""
    if not blocks[scope] or _looks(summary, blocks[scope], scope) != _looks(summary, blocks[before], before):
        return False
    reads = _reads(summary, blocks[scope], blocks[before])
    results = {(read.source, read.index) for read in reads if read.whence == "before"}
    if len(results) != 1 or not _only_read_by(summary, blocks[before], blocks[scope], next(iter(results))):
        return False
    if len(run) > 1:
        return reads == _reads(summary, blocks[before], blocks[run[-2]])
    return _starts(_reads(summary, blocks[before], []), reads)


def _starts(first: list[_Read], second: list[_Read]) -> bool:
    """Whether the first block of a run reads one fixed value where the second reads the first, and else the same."""
    entrances = set()
    for read, later in zip(first, second):
        if later.whence == "before":
            entrances.add((read.whence, read.source, read.index))
            read = replace(read, whence="before", source=later.source, index=later.index)
        if read != later:
            return False
    return len(first) == len(second) and len(entrances) == 1 and next(iter(entrances))[0] == "fixed"


def _looks(summary: Summary, boxes: list[Box], scope: str) -> list[list[tuple]]:
    """What can be seen of the boxes of a block, names apart: their modules, operations, marks, and the shapes they give."""
    seen: dict[str, list[tuple]] = {box.name: [(box.scope.removeprefix(scope), box.region is None)] for box in boxes}
    for box in boxes:
        seen[box.name] += [(line.operation, line.detail, line.created_by, _labels(line.marks)) for line in box.lines]
    for wire in summary.wires:
        if wire.box in seen:
            seen[wire.box].append((wire.index, wire.shape))
    return list(seen.values())


def _labels(marks: list[Mark]) -> tuple[str, ...]:
    return tuple(f"{mark.label} {mark.created_by}" for mark in marks)


def _reads(summary: Summary, boxes: list[Box], before: list[Box]) -> list[_Read]:
    """What `boxes` read, in order."""
    known: dict[str, tuple[str, int | str]] = {box.name: ("before", i) for i, box in enumerate(before)}
    known |= {box.name: ("here", i) for i, box in enumerate(boxes)}
    readers = {box.name: i for i, box in enumerate(boxes)}
    found: dict[tuple[int, int], _Read] = {}
    for wire in summary.wires:
        whence, source = known.get(wire.box, ("fixed", wire.box))
        for sink in wire.sinks:
            if sink.box in readers:
                marks = _labels([*wire.marks, *sink.marks])
                reader = readers[sink.box]
                found[reader, sink.position] = _Read(reader, whence, source, wire.index, marks)
    return [found[place] for place in sorted(found)]


def _only_read_by(summary: Summary, boxes: list[Box], following: list[Box], source: tuple[int | str, int]) -> bool:
    """Whether all that leaves `boxes` is one value, read by nothing but the `following` block."""
    names, readers = [box.name for box in boxes], {box.name for box in following}
    for wire in summary.wires:
        if wire.box in names:
            outside = [sink.box for sink in wire.sinks if sink.box not in names]
            leaves = (names.index(wire.box), wire.index) == source
            if outside and not (leaves and readers.issuperset(outside)):
                return False
    return True


def _fold(summary: Summary, run: list[str]) -> Summary:
    """Keep the first block of `run`; what the last one gave comes from it."""
    blocks = [_inside(summary, scope) for scope in run]
    first, last = [box.name for box in blocks[0]], [box.name for box in blocks[-1]]
    gone = {box.name for block in blocks[1:] for box in block}
    stands_for = dict(zip(last, first))
    wires = []
    for wire in summary.wires:
        outside = [sink for sink in wire.sinks if sink.box not in gone]
        if wire.box in stands_for and outside:
            wires.append(Wire(stands_for[wire.box], wire.index, wire.marks, outside, wire.shape))
        elif wire.box not in gone and outside:
            wires.append(Wire(wire.box, wire.index, wire.marks, outside, wire.shape))
    boxes = {name: box for name, box in summary.boxes.items() if name not in gone}
    return Summary(boxes, wires, summary.repeats | {run[0]: (run[-1], len(run))})
