"""Blocks that a model repeats, drawn once: twelve encoder layers alike become one, marked ×12."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fxcompress.graph.summary import Box, Mark, Summary, Wire

FEWEST = 3
_NUMBERED = re.compile(r"(.*?)(\d+)")


@dataclass(frozen=True)
class _Input:
    """What a box reads: box `place` of this block or of the one `before`, or a `fixed` box; with the pills on the way."""

    whence: str
    place: int | str
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
    series = []
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
    for before, scope in zip(scopes, scopes[1:]):
        if _continues(summary, blocks, runs[-1], before, scope):
            runs[-1].append(scope)
        else:
            runs.append([scope])
    return [run for run in runs if len(run) >= FEWEST]


def _continues(summary: Summary, blocks: dict[str, list[Box]], run: list[str], before: str, scope: str) -> bool:
    """Whether block `scope` repeats the last of `run`, which is `before`."""
    if not blocks[scope] or _looks(blocks[scope], scope) != _looks(blocks[before], before):
        return False
    here, there = _reads(summary, blocks[scope], blocks[before]), _reads(summary, blocks[before], [])
    entered = {read for reads in here for read in reads if read.whence == "before"}
    sources = {(read.place, read.index) for read in entered}
    if len(sources) != 1 or not _only_read_by(summary, blocks[before], blocks[scope], next(iter(sources))):
        return False
    if len(run) > 1:
        return here == _reads(summary, blocks[before], blocks[run[-2]])
    entrances = set()
    for read, first in zip(sum(here, []), sum(there, [])):
        if read.whence == "before":
            entrances.add((first.place, first.index))
        elif read != first:
            return False
        if read.marks != first.marks or first.whence == "here" != read.whence:
            return False
    return len(sum(here, [])) == len(sum(there, [])) and len(entrances) == 1


def _looks(boxes: list[Box], scope: str) -> list[tuple]:
    """What can be seen of the boxes of a block, names apart."""
    return [
        (box.kind, box.scope.removeprefix(scope), box.region is None)
        + tuple((li.operation, li.detail, li.created_by, _labels(li.marks)) for li in box.lines)
        for box in boxes
    ]


def _labels(marks: list[Mark]) -> tuple[str, ...]:
    return tuple(f"{mark.label} {mark.created_by}" for mark in marks)


def _reads(summary: Summary, boxes: list[Box], before: list[Box]) -> list[list[_Input]]:
    """What each of `boxes` reads, in order."""
    here = {box.name: i for i, box in enumerate(boxes)}
    there = {box.name: i for i, box in enumerate(before)}
    reads: list[dict[int, _Input]] = [{} for _ in boxes]
    for wire in summary.wires:
        for sink in wire.sinks:
            if sink.box in here:
                marks = _labels([*wire.marks, *sink.marks])
                place = ("here", here[wire.box]) if wire.box in here else None
                place = place or (("before", there[wire.box]) if wire.box in there else ("fixed", wire.box))
                reads[here[sink.box]][sink.position] = _Input(*place, wire.index, marks)
    return [[found[position] for position in sorted(found)] for found in reads]


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
