"""Models that hold compressed modules, traced through them: what passes inserted there is kept as it is.

A quantizer, a mask or a binarizer has one input, and a result of its shape and type. While a model is traced each is one call
of `INSERTED`, which nothing looks into; in the graph that comes out it is a module again.
"""

from __future__ import annotations

import copy
import inspect
import itertools
import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxcompress.ir.dialect import copy_graph
from fxcompress.ir.modes import training_twin
from fxcompress.ir.output_layout import contiguous_outputs, laid_out

_live: weakref.WeakValueDictionary[str, nn.Module] = weakref.WeakValueDictionary()
_numbers = itertools.count()


@torch.library.custom_op("fxcompress::inserted", mutates_args=())
def inserted(x: Tensor, module: str) -> Tensor:
    """What the module called `module` makes of `x`."""
    result = _live[module](x)
    return result.clone() if result.untyped_storage().data_ptr() == x.untyped_storage().data_ptr() else result


@inserted.register_fake
def _(x: Tensor, module: str) -> Tensor:
    return torch.empty_like(x)


INSERTED = torch.ops.fxcompress.inserted.default


def is_compressed(module: nn.Module) -> bool:
    """Whether `module` is a compiled model, or was compressed in place."""
    return hasattr(module, "_compressed_graph") or (isinstance(module, fx.GraphModule) and hasattr(module, "compilation"))


@dataclass(frozen=True)
class _Kept:
    """A module that a pass inserted: its path, the module, and the node that called it."""

    path: str
    module: nn.Module
    call: fx.Node


class InsertedModules:
    """Those of a private copy of a model, by what `INSERTED` calls them."""

    def __init__(self, model: nn.Module):
        """Let `model` be traced through its graphs node by node, with their scopes, and around what passes inserted."""
        self._kept: dict[str, _Kept] = {}
        memo: dict[int, Any] = {}
        for prefix, module in list(model.named_modules()):
            own = module.graph if isinstance(module, fx.GraphModule) else None
            graph = getattr(module, "_compressed_graph", own)  # of a graph module that is compressed in place, not its own
            if graph is None:
                continue
            for call in graph.find_nodes(op="call_module"):
                path = f"{prefix}.{call.target}".lstrip(".")
                if "created_by" in call.meta and all(one.path != path for one in self._kept.values()):
                    owned = copy.deepcopy(module.get_submodule(str(call.target)), memo)
                    self._kept[f"{next(_numbers)} {path}"] = _Kept(path, owned, call)
            _run_node_by_node(module, graph, prefix)
        for key, one in self._kept.items():
            _live[key] = one.module
            _stand_in(model.get_submodule(one.path), key)

    def put_back(self, graph_module: fx.GraphModule) -> None:
        """Let `graph_module`, traced from the model, call the modules themselves, on copies of its own."""
        memo: dict[int, Any] = {}
        for node in graph_module.graph.find_nodes(op="call_function", target=INSERTED):
            value, key = node.args
            one = self._kept[key]
            graph_module.set_submodule(one.path, copy.deepcopy(one.module, memo))
            with graph_module.graph.inserting_before(node):
                call = graph_module.graph.call_module(one.path, (value,))
            call.meta = {name: value.meta[name] for name in ("val", "scope", "stack_trace") if name in value.meta}
            call.meta |= {name: one.call.meta[name] for name in ("created_by", "owner") if name in one.call.meta}
            node.replace_all_uses_with(call, propagate_meta=False)
            graph_module.graph.erase_node(node)
            call.name = node.name  # that of the module's path
        if self._kept:
            graph_module.recompile()


def _stand_in(module: nn.Module, key: str) -> None:
    module.forward = lambda x: INSERTED(x, key)  # type: ignore[method-assign]


def _run_node_by_node(module: nn.Module, graph: fx.Graph, prefix: str) -> None:
    """Let `module` run its `graph` node by node, which hands the scopes of its nodes on to the trace."""
    inference = _under(graph, prefix)
    training = (training_twin(inference) if is_compressed(module) else None) or inference
    contiguous = contiguous_outputs(graph)
    name = "_compressed_code" if hasattr(module, "_compressed_code") else "forward"
    signature = inspect.signature(getattr(module, name))

    def run(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        chosen = training if module.training else inference
        with fx.traceback.preserve_node_meta():
            return laid_out(fx.Interpreter(module, graph=chosen).run(*bound.args), contiguous)

    run.__signature__ = signature  # type: ignore[attr-defined]
    if isinstance(module, fx.GraphModule):  # whose graph torch.export would run itself
        module.__class__ = type(type(module).__name__, (nn.Module,), {"forward": type(module).forward})
    setattr(module, name, run)


def _under(graph: fx.Graph, prefix: str) -> fx.Graph:
    """A copy of `graph` whose nodes come from modules of the model that has its module at the path `prefix`."""
    twin = copy_graph(graph)
    for node in twin.nodes:
        scope = node.meta.get("scope", "")
        stack = node.meta.get("nn_module_stack") or {}
        if scope and not stack and node.op != "call_module":  # those are called, which the trace sees
            stack = {scope: (scope, "Module")}
        if prefix:
            stack = {f"{prefix}/{key}": (f"{prefix}.{path}".rstrip("."), kind) for key, (path, kind) in stack.items()}
        if stack:
            node.meta["nn_module_stack"] = stack
    return twin
