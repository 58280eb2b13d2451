"""Random programs: the network step by step, as far as PyTorch takes it, and a stack of passes with options."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from benchmarks.random_stacks.operations import FAMILIES, INTEGERS, LAYERS, OPERATIONS, Operation
from benchmarks.random_stacks.program import Program, Realization, Step, UnfitError
from benchmarks.random_stacks.stacks import random_stack

SIZES = (3, 4, 5, 6, 7, 8, 9, 11, 12, 13)
BINARY_SIZES = (8, 16)


def random_program(seed: int, largest: int = 12, without: frozenset[str] = frozenset()) -> Program:
    """The program of `seed`, of one to `largest` steps, none of them an operation of `without`."""
    draw = random.Random(seed)
    program = _with_inputs(draw, seed)
    held = Realization(program)
    for _ in range(draw.randint(2, largest)):
        step = _fitting(draw, held, program, without)
        if step is not None:
            program = program.with_step(step)
    program = replace(program, outputs=_outputs(draw, program))
    return replace(
        program,
        stack=random_stack(draw, program.binary),
        target=draw.choice(["openvino", "openvino", "onnxruntime"]),
        train=draw.random() < 0.4,
    )


def _with_inputs(draw: random.Random, seed: int) -> Program:
    if draw.random() < 0.15:
        return Program(((tuple(draw.choice(BINARY_SIZES) for _ in range(3)), False),), seed=seed, binary=True)
    inputs: list[tuple[tuple[int, ...], bool]] = []
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        if draw.random() < 0.15:
            inputs.append(((draw.choice((5, 7)),), True))
        elif inputs and draw.random() < 0.5:
            inputs.append(inputs[0])
        else:
            rank = draw.choice([2, 3, 3, 4, 4, 4, 5])
            inputs.append((tuple(draw.choice(SIZES if rank < 5 else SIZES[:4]) for _ in range(rank - 1)), False))
    return Program(tuple(inputs), seed=seed)


def _fitting(draw: random.Random, held: Realization, program: Program, without: frozenset[str]) -> Step | None:
    """A step that can be run on the values there are, run; None where none was found."""
    for _ in range(60):
        step = _random_step(draw, held, program)
        if step.operation in without:
            continue
        try:
            held.program = program
            held.add(step)
            return step
        except UnfitError:
            continue
    return None


def _random_step(draw: random.Random, held: Realization, program: Program) -> Step:
    values = held.values[0]
    recent = draw.random() < 0.7
    x = len(values) - 1 if recent else draw.randrange(len(values))
    if not values[x].is_floating_point():
        name = draw.choice(list(INTEGERS))
    else:
        (family,) = draw.choices([f for _, f in FAMILIES], [w for w, _ in FAMILIES])
        name = draw.choice([n for n, o in family.items() if values[x].dim() in o.ranks] or ["linear"])
        if program.binary and values[x].dim() == 4 and draw.random() < 0.4:
            name = "conv2d"
    if name in LAYERS and draw.random() < 0.1 and program.steps:
        owners = [i for i, step in enumerate(program.steps) if step.operation in LAYERS and step.shared is None]
        if owners:
            owner = draw.choice(owners)
            step = program.steps[owner]
            others = [_partner(draw, held, x) for _ in step.sources[1:]]
            return Step(step.operation, (x, *others), step.choices, owner)
    operation = OPERATIONS[name]
    sources = (x, *(_partner(draw, held, x) for _ in range(operation.values - 1)))
    choices = _choices(draw, operation)
    if program.binary and "out" in choices:
        choices["out"] = draw.choice(BINARY_SIZES)
    return Step(name, sources, choices)


def _partner(draw: random.Random, held: Realization, x: int) -> int:
    """Another value, preferably of the same shape."""
    values = held.values[0]
    alike = [i for i, value in enumerate(values) if value.shape == values[x].shape and value.is_floating_point()]
    return draw.choice(alike if draw.random() < 0.8 else range(len(values)))


def _choices(draw: random.Random, operation: Operation) -> dict[str, Any]:
    return {name: draw.choice(list(options)) for name, options in operation.choices.items()}


def _outputs(draw: random.Random, program: Program) -> tuple[int, ...]:
    """The last value, and sometimes values that nothing reads or that were read on the way."""
    first, count = len(program.inputs), len(program.inputs) + len(program.steps)
    if count == first:
        return (0,)
    read = {source for step in program.steps for source in step.sources}
    loose = [value for value in range(first, count - 1) if value not in read and draw.random() < 0.7]
    on_the_way = [value for value in range(first, count - 1) if value in read and draw.random() < 0.05]
    return tuple(sorted({*loose[-2:], *on_the_way[-1:], count - 1}))
