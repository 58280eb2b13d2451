"""A lowered graph as an ONNX model, one translation function per operator, without torch's own exporter.

The file is standard ONNX, opset 20, or 21 where 4-bit integers and the like need it: nodes are called as in the graph,
initializers as in the `state_dict`, and every value declares its shape with the batch size symbolic.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Sequence
from importlib import metadata as distribution
from typing import Any

import onnx_ir as ir
import torch
from onnx.helper import find_min_ir_version_for, make_opsetid
from onnx_ir.passes.common import NameFixPass
from torch import fx
from torch.utils import _pytree as pytree

import fxcompress.emit.translate  # noqa: F401 -- fills the table of translations
from fxcompress.data.batch import sample_dimension
from fxcompress.emit.calls import declare, write_call
from fxcompress.emit.faults import write_around
from fxcompress.emit.files import write_onnx
from fxcompress.emit.forms import Form
from fxcompress.emit.fractions import fraction
from fxcompress.emit.interface import with_float32_interface
from fxcompress.emit.merging import merge_equal
from fxcompress.emit.names import in_utf8
from fxcompress.emit.names import input_names as default_input_names
from fxcompress.emit.names import output_names as default_output_names
from fxcompress.emit.shapes import known_number
from fxcompress.emit.tables import in_a_file_twice
from fxcompress.emit.translation import TRANSLATIONS, Emitter, UntranslatableError, translation
from fxcompress.emit.widths import widen
from fxcompress.errors import EmitError, InputError, describe, shown
from fxcompress.ir.codeless import codeless
from fxcompress.ir.collection import collected_later
from fxcompress.ir.constants import fold_computed, is_computed
from fxcompress.ir.dialect import NUMBER_READS, copy_graph
from fxcompress.ir.edit import without_modules
from fxcompress.targets.faults import Fault

__all__ = ["IR_VERSION", "OPSET", "Emitter", "to_onnx_model", "translation", "unwritable", "write_onnx"]

OPSET = 20  # at first; onnxruntime 1.32 spoils signed activations in files that say 21: see microsoft/onnxruntime#28144
LATEST_OPSET = 23  # both runtimes read it
IR_VERSION = 10  # the version that came with opset 21
_OF_FLOATS: dict[Any, str] = {operator.add: "Add", operator.sub: "Sub", operator.mul: "Mul", operator.truediv: "Div"}
_OF_FLOATS |= {operator.neg: "Neg", operator.pow: "Pow"}
_SIZE = torch.SymInt | torch.SymFloat | torch.SymBool


def to_onnx_model(
    graph_module: fx.GraphModule,
    *,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    metadata: dict[str, str] | None = None,
    faults: Collection[Fault] = (),
    opset: int | None = None,
    forms: Collection[Form] = (),
) -> ir.Model:
    """The ONNX model that computes what `graph_module` computes; weights are shared with it, not copied.

    Args:
        graph_module: a graph in the dialect whose nodes carry ``meta["val"]``, without the modules that passes insert
            and lowering removes.
        input_names: names for the inputs that are tensors, in order; by default those of the graph's placeholders.
        output_names: names for the outputs in order; by default ``output`` for a single one, the keys of a dict, and
            ``output_0``, ``output_1`` ... for the rest.
        metadata: entries for the file's `metadata_props`.
        faults: of the runtimes that the file is for, to be written around.
        opset: of the standard operators; None for the lowest that the model needs, 20 or 21.
        forms: that only some runtimes take well, and that the model may have.

    Raises:
        EmitError: an operator has no translation, or one cannot write the call in front of it. All such nodes are in
            one error, each with its source line.
        InputError: there are not as many names as inputs or outputs, or the opset is none, or lower than the model needs.
    """
    graph = ir.Graph([], [], nodes=[], opset_imports={"": OPSET}, name=type(graph_module).__name__)
    walk = _Walk(with_float32_interface(graph_module), Emitter(graph, forms=forms), input_names, output_names)
    walk.run()
    _remove_unused(graph)
    widen(graph)
    merge_equal(graph)
    graph.opset_imports[""] = _chosen_opset(opset, graph.opset_imports[""])
    notes = write_around(graph, faults)
    _remove_unused(graph)
    version = distribution.version("fxcompress")
    ir_version = max(IR_VERSION, find_min_ir_version_for([make_opsetid("", graph.opset_imports[""])]))
    model = ir.Model(graph, ir_version=ir_version, producer_name="fxcompress", producer_version=version)
    model.metadata_props.update({key: in_utf8(value) for key, value in (metadata or {}).items()})
    model.meta.update(ways=walk.emit.ways, told=in_a_file_twice(graph_module.graph, forms))
    if notes:
        model.metadata_props["fxcompress.notes"] = "; ".join(notes)
    NameFixPass()(model)
    return model


def _chosen_opset(wanted: int | None, needed: int) -> int:
    if wanted is None:
        return needed
    if isinstance(wanted, bool) or not isinstance(wanted, int) or not OPSET <= wanted <= LATEST_OPSET:
        raise InputError(f"opset is a number from {OPSET} to {LATEST_OPSET}, not {shown(wanted)}")
    if wanted < needed:
        why = "4-bit integers and scales for groups came with it"
        raise InputError(f"the model needs opset {needed}, and cannot be written in {wanted}: {why}")
    return wanted


@collected_later()
def unwritable(graph_module: fx.GraphModule) -> str | None:
    """What keeps `graph_module` from being written, all of it, as the error would say; None where nothing does.

    Modules are not looked at, since lowering replaces them; what is computed from parameters alone is no call in a file.
    """
    with codeless():
        graph_module = without_modules(graph_module)
        if any(map(is_computed, graph_module.graph.nodes)):
            graph_module = fx.GraphModule(graph_module, copy_graph(graph_module.graph))
            fold_computed(graph_module, "", half_weights=True)
    try:
        to_onnx_model(graph_module)
    except EmitError as error:
        return str(error)
    return None


class _Walk:
    """One pass over the FX graph, in order, with the ONNX values of the nodes behind it."""

    def __init__(
        self,
        graph_module: fx.GraphModule,
        emit: Emitter,
        input_names: Sequence[str] | None,
        output_names: Sequence[str] | None,
    ) -> None:
        self.graph_module = graph_module
        self.emit = emit
        self.values: dict[fx.Node, Any] = {}
        self.problems: dict[fx.Node, str] = {}
        self.input_names = default_input_names(graph_module) if input_names is None else list(input_names)
        self.output_names = default_output_names(graph_module) if output_names is None else list(output_names)
        self.given_names = [*(input_names or ()), *(output_names or ())]

    def run(self) -> None:
        handlers: dict[str, Callable[[fx.Node], Any]] = {
            "placeholder": self._placeholder,
            "get_attr": self._get_attr,
            "call_function": self._call,
            "output": self._output,
        }
        self._check_names()
        self._reserve_output_names()
        for node in self.graph_module.graph.nodes:
            self.emit.node, self.emit.result = node, node.meta.get("val")
            if node.op not in handlers:
                self.problems[node] = f"{node.op} {node.target!r} is not lowered: run the lowering pass before emission"
                self.values[node] = self._stand_in(node)
                continue
            self.values[node] = handlers[node.op](node)
        if self.problems:
            raise EmitError(_message(self.problems))

    def _check_names(self) -> None:
        count = len(default_input_names(self.graph_module))
        if len(self.input_names) != count:
            raise InputError(f"input_names has {len(self.input_names)} names, the model has {count} inputs")
        every = [*self.input_names, *self.output_names]
        for name in self.given_names:
            if not name or "\0" in name or name != in_utf8(name):
                what = "a name in a file is a text in UTF-8 that is not empty and has no null character"
                raise InputError(f"{what}, not {name!r:.80}")
            if every.count(name) > 1:
                raise InputError(f"{name!r} names more than one input or output of the file; give each a name of its own")

    def _reserve_output_names(self) -> None:
        """Take the output names first, so that no inner value gets one of them."""
        (output,) = self.graph_module.graph.find_nodes(op="output")
        leaves = [leaf for leaf in pytree.tree_leaves(output.args[0]) if leaf is not None]
        if len(self.output_names) != len(leaves):
            raise InputError(f"output_names has {len(self.output_names)} names, the model has {len(leaves)} outputs")
        self.outputs = list(zip([self.emit.unique(name) for name in self.output_names], leaves))

    def _placeholder(self, node: fx.Node) -> Any:
        fake = node.meta.get("val")
        if not isinstance(fake, torch.Tensor):
            return fake
        value = ir.Value(name=self.emit.unique(self.input_names.pop(0)))
        self.emit.graph.inputs.append(value)
        self.emit.symbols.bind(value, fake.shape, sample_dimension(node))
        declare(self.emit, value, fake)
        return value

    def _get_attr(self, node: fx.Node) -> Any:
        held = operator.attrgetter(str(node.target))(self.graph_module)
        if not isinstance(held, torch.Tensor):
            return held
        if not held.is_complex():
            return self.emit.stored(held, str(node.target))
        pairs = self.emit.stored(torch.view_as_real(held.detach().resolve_conj()), str(node.target))
        declare(self.emit, pairs, held)
        return pairs

    def _call(self, node: fx.Node) -> Any:
        if isinstance(node.meta.get("val"), _SIZE | int | float):
            return self._number(node)
        if not node.users:
            return None
        args, kwargs = fx.node.map_aggregate((node.args, node.kwargs), self._argument)
        asked = [a for a in pytree.tree_leaves((args, kwargs)) if isinstance(a, torch.SymBool)]
        if node.target is operator.getitem:
            return args[0][args[1]]
        try:
            if "val" not in node.meta:
                raise UntranslatableError("its shape is not known: meta['val'] is missing")
            if asked:
                raise UntranslatableError(f"{asked[0]} is computed from sizes that are known at run time only")
            return write_call(self.emit, args, kwargs)
        except UntranslatableError as error:
            self.problems[node] = str(error)
            return self._stand_in(node)
        except Exception as error:
            raise EmitError(f"the translation of {node.target} failed with {error!r}: {describe(node)}") from error

    def _number(self, node: fx.Node) -> Any:
        """A number: a size, which is computed where it is used, or a float that is read from a tensor, as a tensor of it."""
        number, operands = node.meta["val"], [self._argument(one) for one in node.args]
        of_tensors, is_read = any(isinstance(one, ir.Value) for one in operands), node.target in NUMBER_READS
        if of_tensors and is_read and not isinstance(number, torch.SymFloat):
            self.emit.symbols.bind_number(number, operands[0])
        if not of_tensors or not isinstance(number, torch.SymFloat) or not (is_read or node.target in _OF_FLOATS):
            return number
        shape = [self.emit.sizes([])] if is_read else []
        written = self.emit.op("Reshape" if is_read else _OF_FLOATS[node.target], *operands, *shape)
        declare(self.emit, written, torch.empty((), dtype=self.emit.dtype(written), device="meta"))
        return written

    def _argument(self, argument: Any) -> Any:
        found = self.values[argument] if isinstance(argument, fx.Node) else argument
        return known_number(found) if isinstance(found, _SIZE) else found

    def _stand_in(self, node: fx.Node) -> Any:
        """What lets the walk go on past a node without a translation, to find the others."""

        def unknown(fake: Any) -> Any:
            if not isinstance(fake, torch.Tensor):
                return fake
            value = ir.Value(name=node.name, type=ir.TensorType(ir.DataType.FLOAT))
            value.meta["val"] = fake
            return value

        return pytree.tree_map(unknown, node.meta.get("val", torch.empty(0, device="meta")))

    def _output(self, node: fx.Node) -> None:
        if self.problems:
            return
        taken: set[int] = set()
        for name, leaf in self.outputs:
            value = self.values[leaf] if isinstance(leaf, fx.Node) else leaf
            owned = isinstance(value, ir.Value) and value.producer() is not None and id(value) not in taken
            if not owned:  # an input, a constant, a size, or a value that is already another output
                held = self.emit.size_scalar(value) if isinstance(value, int | torch.SymInt) else value
                held = fraction(self.emit, value) if isinstance(value, torch.SymFloat) else held
                value = self.emit.Identity(held)
                value.shape = ir.Shape([]) if held.shape is None else held.shape
            value.name = name
            taken.add(id(value))
            self.emit.graph.outputs.append(value)


def _remove_unused(graph: ir.Graph) -> None:
    """Drop nodes and initializers that nothing reads, such as a dequantized weight that was re-emitted transposed."""
    for node in reversed(list(graph)):
        if not any(output.uses() or output.is_graph_output() for output in node.outputs):
            graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if not value.uses():
            del graph.initializers[name]


def _message(problems: dict[fx.Node, str]) -> str:
    lines = "\n".join(f"  {describe(node)}\n    {problem}" for node, problem in problems.items())
    missing = sorted({str(n.target) for n in problems if n.op == "call_function" and n.target not in TRANSLATIONS})
    remedy = ""
    if missing:
        remedy = (
            "\nRegister a translation with fxcompress.emit.onnx.translation, for example:\n"
            f"  @translation(torch.ops.{missing[0]})\n"
            "  def translate(emit, x):\n"
            "      return emit.Relu(x)"
        )
    return f"{len(problems)} node(s) cannot be written in ONNX:\n{lines}{remedy}"
