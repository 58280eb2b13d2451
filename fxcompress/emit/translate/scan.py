"""Loops over the steps of a sequence: a `Scan` whose body is a graph of its own, and reads nothing but what it is given."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
from torch import Tensor, fx
from torch._guards import detect_fake_mode
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils import _pytree as pytree

from fxcompress.emit.calls import declare, write_call
from fxcompress.emit.translation import Emitter, translation
from fxcompress.emit.widths import widen
from fxcompress.ir.fake import fake_call
from fxcompress.ir.scan_ops import SCAN, Body


@translation(SCAN)
def scan(
    emit: Emitter,
    carried: Sequence[ir.Value],
    scanned: Sequence[ir.Value],
    held: Sequence[ir.Value],
    sizes: Sequence[Any],
    axes: Sequence[int],
    along: Sequence[int],
    body: str,
) -> tuple[ir.Value, ...]:
    """What every step is given is a constant of the body, or a state that stays as it is: OpenVINO's reads nothing outside."""
    inner = _BodyWriter(emit, [*carried, *scanned, *held])
    stay = [value for value in held if emit.data(value) is None]
    first = [inner.given(value.name, inner.fakes[id(value)]) for value in (*carried, *stay)]
    places = [inner.given(f"{one.name}_place", inner.fakes[id(one)].select(a, 0)) for one, a in zip(scanned, axes)]
    staying = {id(value): one for value, one in zip(stay, first[len(carried) :])}
    every = [staying[id(value)] if id(value) in staying else inner.constant(value) for value in held]
    after, kept = Body.of(body).run([*first[: len(carried)], *places, *every, *sizes], inner.call)
    inner.end_with([*after, *staying.values(), *kept])
    outputs = emit.op(
        "Scan",
        *(*carried, *stay, *scanned),
        outputs=len(inner.emit.graph.outputs),
        body=inner.emit.graph,
        num_scan_inputs=len(scanned),
        scan_input_axes=list(axes),
        scan_output_axes=list(along) or None,
    )
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    results = (*outputs[: len(after)], *outputs[len(first) :])
    for output, fake in zip(results, emit.result):
        declare(emit, output, fake)
    return results


class _BodyWriter:
    """Writes the calls of a body to a graph of its own; `fakes` are of the values outside, by their ids."""

    def __init__(self, outer: Emitter, values: Sequence[ir.Value]) -> None:
        name = outer.unique(f"{outer.node.name}/body")
        self.emit = Emitter(ir.Graph([], [], nodes=[], opset_imports=dict(outer.graph.opset_imports), name=name), within=outer)
        self.emit.node = self.outer = outer.node
        self.nodes, self.counts = fx.Graph(), Counter[str]()
        known = {id(value): outer.fake(value) for value in values}
        mode = detect_fake_mode([*known.values(), outer.result]) or FakeTensorMode()
        self.fakes = {
            key: one if isinstance(one, FakeTensor) else mode.from_tensor(one, static_shapes=True) for key, one in known.items()
        }

    def given(self, name: str | None, fake: Tensor) -> ir.Value:
        """An input of the body, of the shape and type of `fake`."""
        found = ir.Value(name=self.emit.unique(f"{self.outer.name}/{name}"))
        self.emit.graph.inputs.append(found)
        self.emit.symbols.bind(found, fake.shape)
        declare(self.emit, found, fake)
        return found

    def constant(self, value: ir.Value) -> ir.Value:
        """A constant from outside, as one of the body."""
        assert value.const_value is not None
        found = self.emit.initializer(value.const_value, f"{self.outer.name}/{value.name}")
        found.meta["val"] = self.fakes[id(value)]
        return found

    def call(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Append the nodes of one call."""
        if target is operator.getitem:
            return args[0][args[1]]
        emit, fakes = self.emit, pytree.tree_map_only(ir.Value, self.emit.fake, (args, kwargs))
        emit.result = fake_call(target, *fakes)
        emit.node = self.nodes.call_function(target)
        name = target.overloadpacket.__name__
        self.counts[name] += 1
        emit.node.name = f"{self.outer.name}/{name}" + (f"_{self.counts[name] - 1}" if self.counts[name] > 1 else "")
        emit.node.meta = {**self.outer.meta, "val": emit.result}
        return write_call(emit, args, kwargs)

    def end_with(self, values: Sequence[ir.Value]) -> None:
        """What the body gives: each output is a value that a node of the body puts out, and no other output."""
        taken: set[int] = set()
        self.emit.node = self.outer
        for value in values:
            own = value.producer() is not None and id(value) not in taken
            output = value if own else self.emit.Identity(value)
            if not own:
                declare(self.emit, output, self.emit.fake(value))
            taken.add(id(output))
            self.emit.graph.outputs.append(output)
        widen(self.emit.graph)
