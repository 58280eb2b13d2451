"""The smallest program that still goes wrong in the same way, by leaving out one thing after the other."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace

from benchmarks.random_stacks.operations import OPERATIONS
from benchmarks.random_stacks.program import Program, Step, UnfitError, script, used


def shrunk(program: Program, fails: Callable[[Program], bool], attempts: int = 200) -> Program:
    """A program that `fails` as `program` does, with nothing left that can be left out, within so many attempts."""
    left, progress, asked = attempts, True, [program]
    while progress and left:
        progress = False
        for smaller in _smaller(program):
            if not left:
                break
            try:
                smaller = used(smaller)
                script(smaller)
            except (UnfitError, IndexError):
                continue
            if smaller in asked:
                continue
            asked.append(smaller)
            left -= 1
            if fails(smaller):
                program, progress = smaller, True
                break
    return program


def _smaller(program: Program) -> Iterator[Program]:
    """What is one thing less, the largest things first."""
    if program.train:
        yield replace(program, train=False)
    if program.stack:
        yield replace(program, stack=None)
        yield from (replace(program, stack=program.stack[:i] + program.stack[i + 1 :]) for i in range(len(program.stack)))
    if len(program.outputs) > 1:
        yield from (replace(program, outputs=(output,)) for output in program.outputs)
    yield from _earlier_outputs(program)
    for position in reversed(range(len(program.steps))):
        yield from _without(program, position)
    yield from _unshared(program)
    yield from _plainer_passes(program)
    yield from _plainer_choices(program)
    yield from _smaller_inputs(program)


def _earlier_outputs(program: Program) -> Iterator[Program]:
    last = len(program.inputs) + len(program.steps) - 1
    if program.outputs == (last,):
        yield from (replace(program, outputs=(value,)) for value in range(len(program.inputs), last))


def _without(program: Program, position: int) -> Iterator[Program]:
    """Without a step, one of its sources in its place."""
    value = position + len(program.inputs)
    heirs = [i for i, step in enumerate(program.steps) if step.shared == position]
    for source in dict.fromkeys(program.steps[position].sources):

        def moved(old: int, source: int = source) -> int:
            return source if old == value else old - (old > value)

        steps = []
        for i, step in enumerate(program.steps):
            if i == position:
                continue
            shared = step.shared
            if shared == position:
                shared = None if i == heirs[0] else heirs[0]
            shared = shared if shared is None else shared - (shared > position)
            steps.append(replace(step, sources=tuple(map(moved, step.sources)), shared=shared))
        outputs = tuple(dict.fromkeys(map(moved, program.outputs)))
        yield replace(program, steps=tuple(steps), outputs=outputs)


def _unshared(program: Program) -> Iterator[Program]:
    for i, step in enumerate(program.steps):
        if step.shared is not None:
            yield _with(program, i, replace(step, shared=None))
        elif len(set(step.sources)) > 1:
            yield _with(program, i, replace(step, sources=step.sources[:1] * len(step.sources)))


def _plainer_passes(program: Program) -> Iterator[Program]:
    """Without an option."""
    for i, text in enumerate(program.stack or ()):
        name, _, rest = text.partition("(")
        options = [found for found in re.split(r", (?=\w+=)(?![^(]*\))", rest[:-1]) if found]
        for option in options:
            kept = ", ".join(other for other in options if other is not option)
            assert program.stack
            yield replace(program, stack=(*program.stack[:i], f"{name}({kept})", *program.stack[i + 1 :]))


def _plainer_choices(program: Program) -> Iterator[Program]:
    """With an earlier one of the choices."""
    for i, step in enumerate(program.steps):
        for name, options in OPERATIONS[step.operation].choices.items():
            chosen = step.choices[name]
            options = [tuple(option) if isinstance(option, list) else option for option in options]
            at = options.index(tuple(chosen) if isinstance(chosen, list) else chosen)
            for plainer in options[:at]:
                yield _with(program, i, replace(step, choices={**step.choices, name: plainer}))


def _smaller_inputs(program: Program) -> Iterator[Program]:
    for i, (sizes, integers) in enumerate(program.inputs):
        for axis, size in enumerate(sizes):
            for smaller in sorted({1, 2, size // 2, size - 1}):
                if 0 < smaller < size:
                    cut = (*sizes[:axis], smaller, *sizes[axis + 1 :])
                    alike = tuple((cut, old[1]) if old == program.inputs[i] else old for old in program.inputs)
                    yield replace(program, inputs=alike)
                    yield replace(program, inputs=(*program.inputs[:i], (cut, integers), *program.inputs[i + 1 :]))


def _with(program: Program, position: int, step: Step) -> Program:
    return replace(program, steps=(*program.steps[:position], step, *program.steps[position + 1 :]))
