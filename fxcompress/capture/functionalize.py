"""In-place operations replaced by their functional twins, where no alias of the changed value is read afterwards.

What is left, and calls within a transform of `torch.func`, which are of single samples, torch has to trace once more.
"""

from __future__ import annotations

import copy
import operator
from collections import defaultdict
from functools import cache

import torch
from torch import fx, nn
from torch._ops import OpOverload
from torch.export import ExportedProgram

from fxcompress.capture.idle_dropouts import DROPOUTS, keep_dropouts
from fxcompress.capture.inline import inline_regions
from fxcompress.errors import describe, source_line
from fxcompress.ir.edit import attribute
from fxcompress.ir.fake import fake_value, insert_call
from fxcompress.ir.signature import arguments

aten = torch.ops.aten

# Operations that may return their input itself without saying so in their schema.
_HIDDEN_ALIASES = frozenset(DROPOUTS)

_TRANSFORMS = ("torch._functorch", "torch._C._functorch")

# Change how a tensor is viewed, not its data: other aliases see nothing of it.
METADATA_ONLY = {"squeeze_", "unsqueeze_", "t_", "transpose_", "swapaxes_", "swapdims_", "detach_", "requires_grad_"}


def is_in_place(node: fx.Node) -> bool:
    return node.op == "call_function" and isinstance(node.target, OpOverload) and node.target._schema.is_mutable


def transform_of(graph: fx.Graph) -> str | None:
    """A sentence on the first transform of `torch.func` that `graph` has calls within, such as `vmap`; None without one."""
    for node in graph.nodes:
        if node.op == "call_function" and str(getattr(node.target, "__module__", "")).startswith(_TRANSFORMS):
            return f"calls within a transform of torch.func are of single samples: {describe(node)}"
    return None


def functionalize(graph: fx.Graph, notes: list[str]) -> str | None:
    """Replace every in-place operation of `graph`; the reason, with nothing lost, where one cannot be.

    Writing to an input, parameter or buffer changes later reads within the graph, not the tensor itself; `notes` says so, and
    ``meta["written"]`` of the module of parameters and buffers, which training would find changed.
    """
    order = {node: position for position, node in enumerate(graph.nodes)}
    roots = storage_roots(graph)
    aliases: dict[fx.Node, list[fx.Node]] = defaultdict(list)
    for node, root in roots.items():
        aliases[root].append(node)
    for node in list(graph.nodes):
        if not is_in_place(node):
            continue
        functional = _functional_twin(node.target)
        if functional is None:
            return f"{node.target} has no functional form: {describe(node)}"
        changed = node.args[0]
        name = node.target._schema.name.partition("::")[2]
        if name not in METADATA_ONLY:
            reader = _read_later(node, changed, aliases[roots[node]], order)
            if reader is not None:
                return f"{describe(node)} changes a tensor in place that {describe(reader)} reads by another name"
            note = _left_as_it_is(roots[node])
            kept = _is_statistic(node, roots)
            if roots[node].op in ("get_attr", "placeholder") and note not in notes and not kept:
                notes.append(note)
                if roots[node].op == "get_attr":
                    graph.owning_module.meta.setdefault("written", []).append(note)
        result = _replace(node, changed, functional, order)
        roots[result] = roots[node]
        aliases[roots[node]].append(result)  # what reads the changed tensor reads this from here on
    return None


def _is_statistic(write: fx.Node, roots: dict[fx.Node, fx.Node]) -> bool:
    """Whether `write` is that of a norm to its own statistics, which a norm in the graph keeps: torch's own way shows them.

    So is the count of a norm's batches, which nothing in a graph reads.
    """
    written = roots[write]
    if str(written.target).endswith("num_batches_tracked"):
        return True
    norms = [source.args[0] for source in write.all_input_nodes if source.target is operator.getitem]
    return any(written in (arguments(norm).get("running_mean"), arguments(norm).get("running_var")) for norm in norms)


def _left_as_it_is(written: fx.Node) -> str:
    """The note on an input, parameter or buffer that the model writes to."""
    note = f"the model writes to {str(written.target)!r} while it runs; the graph leaves it as it is"
    held = attribute(written.graph.owning_module, str(written.target)) if written.op == "get_attr" else None
    learned = isinstance(held, nn.Parameter) and held.requires_grad  # such writes have no gradient in torch
    return f"{note}, and calls that read it afterwards do not train it" if learned else note


def kept_for_training(program: ExportedProgram, notes: list[str]) -> ExportedProgram:
    """What torch's functionalisation would lose of `program`, as it keeps it: regions without gradients, `detach_`, dropouts.

    Regions become calls of the graph: torch would trace their generated code, whose lines nobody wrote. Dropouts (see
    `keep_dropouts`) that the model writes through make way for their input, which they are: torch would make a copy.
    """
    program = copy.copy(program)
    program._graph_module = copy.deepcopy(program.graph_module)
    inline_regions(program.graph_module)
    order = {node: position for position, node in enumerate(program.graph.nodes)}
    for node in program.graph.find_nodes(op="call_function", target=aten.detach_.default):
        _replace(node, node.args[0], aten.detach.default, order)
    for node in _written_dropouts(program.graph):
        notes.append(f"a dropout is left out, since its value is changed in place afterwards: {source_line(node)}")
        node.replace_all_uses_with(node.args[0])
        program.graph.erase_node(node)
    keep_dropouts(program.graph)
    return program


def _written_dropouts(graph: fx.Graph) -> list[fx.Node]:
    """The idle dropouts, each its own input in inference mode, across which a change in place is seen.

    That is, the input is changed and the dropout's value read afterwards, or the other way round.
    """
    order = {node: position for position, node in enumerate(graph.nodes)}
    roots = storage_roots(graph)
    found = []
    for dropout in graph.nodes:
        if dropout.target not in _HIDDEN_ALIASES or dropout.args[2]:
            continue
        below: dict[fx.Node, None] = {dropout: None}
        for node in graph.nodes:
            if aliased_argument(node) in below:
                below[node] = None
        beside = [node for node in graph.nodes if roots[node] is roots[dropout] and node not in below]
        writes = [node for node in (*below, *beside) if is_in_place(node) and order[node] > order[dropout]]
        if any(_read_later(w, w.args[0], beside if w in below else [*below], order) for w in writes):
            found.append(dropout)
    return found


def storage_roots(graph: fx.Graph) -> dict[fx.Node, fx.Node]:
    """For each node, the node whose storage it shares (itself, where it has its own)."""
    roots: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        source = aliased_argument(node)
        roots[node] = roots[source] if source is not None else node
    return roots


def aliased_argument(node: fx.Node) -> fx.Node | None:
    """What `node` shares its memory with, or may share it."""
    if node.op != "call_function":
        return None
    first = node.args[0] if node.args else None
    if not isinstance(first, fx.Node):
        return None
    if not isinstance(node.target, OpOverload):
        return first  # operator.getitem
    shares = any(r.alias_info is not None for r in node.target._schema.returns)
    return first if shares or node.target in _HIDDEN_ALIASES else None


@cache
def _functional_twin(target: OpOverload) -> OpOverload | None:
    """The functional operation that takes the same arguments as the in-place one (its overload may have another name)."""
    schema = target._schema
    name = schema.name.partition("::")[2]
    writes = [a for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    packet = getattr(getattr(torch.ops, target.namespace), name.removesuffix("_"), None)
    if not name.endswith("_") or writes != [schema.arguments[0]] or packet is None:
        return None
    wanted = _argument_types(target)
    twins = [getattr(packet, overload) for overload in packet.overloads()]
    return next((t for t in twins if not t._schema.is_mutable and _argument_types(t) == wanted), None)


def _argument_types(target: OpOverload) -> list[tuple[str, str]]:
    return [(a.name, str(a.type)) for a in target._schema.arguments]


def _read_later(node: fx.Node, changed: fx.Node, aliases: list[fx.Node], order: dict[fx.Node, int]) -> fx.Node | None:
    """A node after `node` that reads the changed storage through another alias than `changed`."""
    for alias in aliases:
        if alias is changed or order[alias] >= order[node]:
            continue
        for user in alias.users:
            if order[user] > order[node]:
                return user
    return None


def _replace(node: fx.Node, changed: fx.Node, functional: OpOverload, order: dict[fx.Node, int]) -> fx.Node:
    """Put the functional twin in the place of `node`; later uses of both names read its result, which is returned."""
    result = insert_call(node, functional, node.args, node.kwargs, val=node.meta.get("val"))
    kept, value = changed.meta.get("val"), None
    if isinstance(kept, torch.Tensor) and len(node.all_input_nodes) > 1:
        value = fake_value(functional, node.args, node.kwargs)
    if value is not None and value.dtype != kept.dtype:  # an in-place operation keeps the dtype, its twin promotes
        result.meta["val"] = value
        result = insert_call(node, aten._to_copy.default, (result,), {"dtype": kept.dtype}, val=kept)
    position = order[node]
    order[result] = position
    node.replace_all_uses_with(result)
    changed.replace_all_uses_with(result, delete_user_cb=lambda user: order.get(user, -1) > position)
    node.graph.erase_node(node)
    return result
