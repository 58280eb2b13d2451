"""A model of another precision as a graph that computes in float32, with its own precision at the interface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from fxcompress.capture.half_weights import read_through_casts, stays
from fxcompress.data.inputs import ExampleInputs
from fxcompress.ir.edit import attribute
from fxcompress.ir.scan_ops import SCAN, Body

aten = torch.ops.aten

_FLOAT32 = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float64: torch.float32,
    torch.complex32: torch.complex64,
    torch.complex128: torch.complex64,
}
_DOUBLE = {torch.float64, torch.complex128}


def compute_in_float32(module: fx.GraphModule, given: Sequence[Any], notes: list[str]) -> None:
    """Let `module`, a functional graph with ``meta["val"]``, compute in float32 where it has another precision.

    Half precision is left wherever it is met, double precision where the model's state or inputs have it: a model in float32
    may compute a few values in double precision for a reason. Large weights in half precision stay, behind casts, until they
    are widened (`fxcompress.capture.half_weights`). Inputs come as in `given`, the flattened inputs of a call, and outputs go
    in the precision that they had. `notes` says so, and ``meta["precision"]`` of the module is the lowest it had.
    """
    found = _precisions(module)
    inputs = module.graph.find_nodes(op="placeholder")
    asked = {x.dtype for x in given if isinstance(x, Tensor) and x.is_floating_point()}
    if not found and asked <= {torch.float32}:
        return
    names = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in found | asked - {torch.float32}))
    notes.append(f"of {names}, compiled in float32; inputs and outputs keep their types")
    module.meta["precision"] = max(found | asked, key=lambda dtype: torch.finfo(dtype).eps)
    outputs = _output_types(module.graph, inputs, given)
    _convert_tensors(module)
    for node in list(module.graph.nodes):
        if node.op == "placeholder":
            continue
        if node.op == "call_function":
            node.args, node.kwargs = _converted_call(node)
        node.meta["val"] = pytree.tree_map_only(Tensor, _as_float32, node.meta.get("val"))
    for node, leaf in zip(inputs, given):
        if isinstance(leaf, Tensor):
            _declare(node, leaf.dtype)
    read_through_casts(module)
    _remove_idle_casts(module.graph)
    _restore_outputs(module.graph, outputs)


def in_precision_of(model: nn.Module, example: ExampleInputs) -> ExampleInputs | None:
    """`example`, of float32, in the one other precision of the model's parameters; None of any other example or model."""
    known = {p.dtype for p in model.parameters() if p.is_floating_point()}
    given = {leaf.dtype for _, leaf in example.leaves() if isinstance(leaf, Tensor) and leaf.is_floating_point()}
    if len(known) != 1 or known <= {torch.float32} or given != {torch.float32}:
        return None
    (dtype,) = known
    return ExampleInputs(
        *pytree.tree_map_only(Tensor, lambda x: x.to(dtype) if x.is_floating_point() else x, (example.args, example.kwargs))
    )


def _precisions(module: fx.GraphModule) -> set[torch.dtype]:
    """Those other than float32 that `module` is to leave."""
    met, held = set(), set()
    for node in module.graph.nodes:
        dtypes = {leaf.dtype for leaf in pytree.tree_leaves(node.meta.get("val")) if isinstance(leaf, Tensor)}
        met |= dtypes
        if node.op in ("placeholder", "get_attr"):
            held |= dtypes
    others = {_real(dtype) for dtype in met & _FLOAT32.keys()}
    return others if held & _DOUBLE else others - _DOUBLE


def _real(dtype: torch.dtype) -> torch.dtype:
    return dtype.to_real() if dtype.is_complex else dtype


def _converted_call(node: fx.Node) -> tuple[Any, Any]:
    """The arguments of a call, of which a loop has those of its steps in it."""
    args, kwargs = fx.node.map_aggregate((node.args, node.kwargs), _converted)  # type: ignore[misc]
    if node.target is SCAN:
        *args, body = args
        args = (*args, Body.of(body).converted(_converted).text())
    return args, kwargs


def _converted(argument: Any) -> Any:
    return _FLOAT32.get(argument, argument) if isinstance(argument, torch.dtype) else argument


def _as_float32(value: Tensor) -> Tensor:
    return value.to(_FLOAT32[value.dtype]) if value.dtype in _FLOAT32 else value


def _convert_tensors(module: fx.GraphModule) -> None:
    """Every parameter and buffer of `module`; what was one tensor stays one."""
    done: dict[int, Tensor] = {}
    for owner in module.modules():
        for held in (owner._parameters, owner._buffers):
            for name, tensor in held.items():
                if tensor is not None and tensor.dtype in _FLOAT32 and not stays(tensor):
                    held[name] = done.setdefault(id(tensor), _converted_tensor(tensor))  # type: ignore[index]
    for node in module.graph.find_nodes(op="get_attr"):
        tensor = attribute(module, str(node.target))
        if isinstance(tensor, Tensor) and tensor.dtype in _FLOAT32 and not stays(tensor):  # a constant that is no buffer
            owner, _, leaf = str(node.target).rpartition(".")
            setattr(module.get_submodule(owner), leaf, done.setdefault(id(tensor), _converted_tensor(tensor)))


def _converted_tensor(tensor: Tensor) -> Tensor:
    new = tensor.detach().to(_FLOAT32[tensor.dtype])
    return nn.Parameter(new, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else new


def _declare(node: fx.Node, dtype: torch.dtype) -> None:
    """Let the input `node` be of `dtype`, and its readers read float32."""
    value = node.meta["val"]
    node.meta["val"] = value.to(dtype)
    if dtype not in _FLOAT32:
        return
    with node.graph.inserting_after(_last_input(node)):
        cast = node.graph.call_function(aten._to_copy.default, (node,), {"dtype": _FLOAT32[dtype]})
    cast.meta = {**node.meta, "val": value.to(_FLOAT32[dtype])}
    node.replace_all_uses_with(cast, delete_user_cb=lambda user: user is not cast, propagate_meta=False)


def _last_input(node: fx.Node) -> fx.Node:
    while node.next.op == "placeholder":
        node = node.next
    return node


def _remove_idle_casts(graph: fx.Graph) -> None:
    for node in graph.find_nodes(op="call_function", target=aten._to_copy.default):
        source = node.args[0].meta.get("val")
        if set(node.kwargs) == {"dtype"} and isinstance(source, Tensor) and source.dtype == node.kwargs["dtype"]:
            node.replace_all_uses_with(node.args[0], propagate_meta=False)
            graph.erase_node(node)


def _output_types(graph: fx.Graph, inputs: Sequence[fx.Node], given: Sequence[Any]) -> list[torch.dtype | None]:
    """The precision that each output is to have: that of the model, or float32 where it is given float32."""
    asked = {
        leaf.dtype: node.meta["val"].dtype
        for node, leaf in zip(inputs, given)
        if isinstance(leaf, Tensor) and leaf.is_floating_point()
    }
    back = {traced: wanted for wanted, traced in asked.items() if wanted != traced}
    leaves = pytree.tree_leaves(graph.output_node().args)
    types = [leaf.meta["val"].dtype if _is_tensor(leaf) else None for leaf in leaves]
    return [back.get(dtype, dtype) if dtype else None for dtype in types]


def _is_tensor(leaf: Any) -> bool:
    return isinstance(leaf, fx.Node) and isinstance(leaf.meta.get("val"), Tensor)


def _restore_outputs(graph: fx.Graph, types: Sequence[torch.dtype | None]) -> None:
    output = graph.output_node()
    leaves, form = pytree.tree_flatten(output.args)
    for position, (leaf, dtype) in enumerate(zip(leaves, types, strict=True)):
        if dtype in _FLOAT32 and leaf.meta["val"].dtype != dtype:
            with graph.inserting_before(output):
                leaves[position] = graph.call_function(aten._to_copy.default, (leaf,), {"dtype": dtype})
            leaves[position].meta = {**leaf.meta, "val": leaf.meta["val"].to(dtype)}
    output.args = pytree.tree_unflatten(leaves, form)
