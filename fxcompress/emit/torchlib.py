"""torch's own ONNX translations, onnxscript's torchlib, for calls that the table of translations does not take.

A translation of torchlib is recorded into a model of its own, which is inlined, brought to our opset and simplified for
the shapes of this call; what is left is moved into the file's graph. Loading torchlib takes a second or two, so it is
loaded when the first such call comes.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.passes import common
from torch.utils import _pytree as pytree

from fxcompress.emit.fractions import fraction
from fxcompress.emit.promotion import promoted
from fxcompress.emit.translation import Emitter, UntranslatableError
from fxcompress.emit.types import onnx_type
from fxcompress.ir.signature import same_value, signature

_OPSET = 18  # that torchlib is written for
_WRONG = {
    torch.ops.aten.native_batch_norm.default,
    torch.ops.aten._native_batch_norm_legit.default,
    torch.ops.aten.cross_entropy_loss.default,
}
"""Written so that some of the results are something else (the variance for its inverse root), or for some arguments only."""
_WITHOUT_EFFECT = {"C", "HxW", "device", "implicit", "layout", "memory_format", "non_blocking", "path", "pin_memory"}
_WITHOUT_EFFECT |= {"return_debug_mask", "sorted", "sparse_grad"}
"""Parameters that change no value, or follow from the shapes of others."""
_SELDOM_READ = {"Loop", "Scan", "NegativeLogLikelihoodLoss"}
"""What OpenVINO reads in few forms or none, as it does sequences of tensors."""
_LARGEST_KNOWN = 4096  # elements; constants up to this size are known while a call is simplified


def find(target: Any, *, complex_inputs: bool) -> Callable[..., Any] | None:
    """torchlib's translation of calls of the overload `target`; None where there is none that is right."""
    if not isinstance(target, torch._ops.OpOverload) or target in _WRONG:
        return None
    found = [one.onnx_function for one in _registry().get_decomps(target) if one.is_complex == complex_inputs]
    return found[0] if found else None


@functools.cache
def _registry() -> Any:
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    return ONNXRegistry.from_torchlib(_OPSET)


def write(emit: Emitter, target: Any, function: Callable[..., Any], args: Any, kwargs: Any, portable: bool) -> Any:
    """Append what `function`, torchlib's translation of `target`, writes for a call with these arguments.

    Args:
        portable: refuse sequences of tensors, loops and what else OpenVINO seldom reads.

    Returns:
        An `onnx_ir.Value`, or a list of them where the call has several results.

    Raises:
        UntranslatableError: it is not `portable`, or leaves out what the call asks for.
    """
    if left_out := _left_out(target, function, args, kwargs):
        raise UntranslatableError(f"torchlib's translation of {target} leaves out {', '.join(left_out)}")
    recording = _Recording(emit)
    recording.record(function, *promoted(emit, target, args, kwargs))
    recording.simplify(emit.graph.opset_imports[""])
    types = {node.op_type for node in recording.model.graph}
    found = {one for one in types if "Sequence" in one or one in _SELDOM_READ}
    if portable and found:
        raise UntranslatableError(f"torchlib writes {target} with {', '.join(sorted(found))}")
    return recording.move()


def _left_out(target: Any, function: Callable[..., Any], args: Any, kwargs: Any) -> list[str]:
    """The arguments of a call that are not their defaults, and that `function` never reads."""
    declared = signature(target)
    given = {**dict(zip(declared.names, args)), **kwargs}
    defaults = dict(zip(declared.names, declared.defaults))
    return [name for name in _never_read(function) & given.keys() if not same_value(given[name], defaults[name])]


@functools.cache
def _never_read(function: Callable[..., Any]) -> frozenset[str]:
    """The parameters that the source of a torchlib function does not name again, of those that may change a value."""
    definition = ast.parse(textwrap.dedent(inspect.getsource(getattr(function, "function", function)))).body[0]
    assert isinstance(definition, ast.FunctionDef)
    parameters = {one.arg for one in (*definition.args.args, *definition.args.kwonlyargs)}
    read = {inner.id for line in definition.body for inner in ast.walk(line) if isinstance(inner, ast.Name)}
    return frozenset(parameters - read - _WITHOUT_EFFECT)


class _Recording:
    """One call of a torchlib function, as an ONNX model of its own."""

    def __init__(self, emit: Emitter) -> None:
        from onnxscript.values import Opset

        self.emit = emit
        self.opset = Opset("", _OPSET)
        self.stand_ins: dict[ir.Value, ir.Value] = {}
        self.results: Any = None
        self.model: ir.Model

    def record(self, function: Callable[..., Any], args: Any, kwargs: Any) -> None:
        """Call `function` on stand-ins for the arguments."""
        from onnxscript import evaluator
        from torch.onnx._internal.exporter._building import OpRecorder

        args = [self._argument(argument) for argument in args]
        kwargs = {name: self._argument(argument) for name, argument in kwargs.items() if argument is not None}
        recorder = OpRecorder(self.opset, {})
        with evaluator.default_as(recorder):
            self.results = function(*args, **kwargs)
        inner = list(self.stand_ins.values())
        domains = {"": _OPSET, **{node.domain: 1 for node in recorder.nodes if node.domain}}
        graph = ir.Graph(
            [value for value in inner if value.const_value is None],
            [value for value in pytree.tree_leaves(self.results) if isinstance(value, ir.Value)],
            nodes=recorder.nodes,
            initializers=[value for value in inner if value.const_value is not None],
            opset_imports=domains,
            name="call",
        )
        functions = [_as_function(one) for one in recorder.functions.values()]
        self.model = ir.Model(graph, ir_version=10, functions=functions)

    def _argument(self, argument: Any) -> Any:
        if isinstance(argument, list | tuple):
            return [self._argument(one) for one in argument]
        if isinstance(argument, torch.SymInt):
            argument = self.emit.size_scalar(argument)
        if isinstance(argument, torch.SymFloat):
            argument = fraction(self.emit, argument)
        if isinstance(argument, ir.Value):
            return self._stand_in(argument)
        if isinstance(argument, torch.dtype):
            return onnx_type(argument)
        return str(argument) if isinstance(argument, torch.device | torch.layout | torch.memory_format) else argument

    def _stand_in(self, value: ir.Value) -> ir.Value:
        from torch.onnx._internal.exporter._tensors import SymbolicTensor

        if value not in self.stand_ins:
            constant = value.const_value
            known = constant is not None and constant.size <= _LARGEST_KNOWN
            self.stand_ins[value] = SymbolicTensor(
                self.opset,
                name=f"input_{len(self.stand_ins)}",
                shape=value.shape,
                type=value.type,
                const_value=constant if known else None,
            )
        return self.stand_ins[value]

    def simplify(self, version: int) -> None:
        """Inline functions, go to opset `version`, and compute what follows from the shapes and constants of the call.

        onnxscript's rules for rewriting are left out: one of them takes what is added for nothing up to 1e-8.
        """
        from onnxscript import optimizer, version_converter

        common.InlinePass()(self.model)
        version_converter.convert_version(self.model, version)
        optimizer.fold_constants(self.model)
        for tidy in (
            common.RemoveUnusedNodesPass(),
            common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
            common.LiftSubgraphInitializersToMainGraphPass(),
            common.DeduplicateInitializersPass(),
            common.CommonSubexpressionEliminationPass(),
            common.OutputFixPass(),
            common.NameFixPass(),
        ):
            tidy(self.model)

    def move(self) -> Any:
        """Move the nodes into the file's graph; the results, as values of that."""
        graph = self.model.graph
        outer = {inner: value for value, inner in self.stand_ins.items()}
        outputs = iter(list(graph.outputs))
        results = pytree.tree_map(lambda r: next(outputs) if isinstance(r, ir.Value) else r, self.results)
        graph.outputs.clear()
        for value in list(graph.initializers.values()):
            if value not in outer and value.const_value is not None:
                outer[value] = self.emit.constant(torch.from_numpy(value.const_value.numpy().copy()))
        for inner, value in outer.items():
            if inner.uses():
                inner.replace_all_uses_with(self.emit.registered(value))
        nodes = list(graph)
        graph.remove(nodes)
        self._rename(nodes)
        self.emit.graph.extend(nodes)
        return pytree.tree_map(lambda r: outer.get(r, r) if isinstance(r, ir.Value) else r, results)

    def _rename(self, nodes: list[ir.Node]) -> None:
        for node in _with_inner_nodes(nodes):
            node.name = self.emit.unique(f"{self.emit.node.name}/{node.op_type}")
            node.metadata_props.clear()
            for output in node.outputs:
                suffix = f"_{output.index()}" if len(node.outputs) > 1 else ""
                output.name = self.emit.unique(f"{node.name}{suffix}") if suffix else node.name


def _with_inner_nodes(nodes: list[ir.Node]) -> Iterator[ir.Node]:
    for node in nodes:
        yield node
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                yield from _with_inner_nodes(list(attribute.as_graph()))


def _as_function(function: Any) -> ir.Function:
    return function if isinstance(function, ir.Function) else ir.serde.deserialize_function(function.to_function_proto())
