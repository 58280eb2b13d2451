"""What the inputs and outputs of a file are called: the parameters of forward, and the paths in what it returns."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import fx
from torch.utils import _pytree as pytree

from fxcompress.data.caches import cache_names


def in_utf8(text: str) -> str:
    """`text`, with escapes for what UTF-8 does not have: half a pair of surrogates, as in names that were bytes once."""
    return text.encode("utf-8", "backslashreplace").decode()


def input_names(graph_module: fx.GraphModule) -> list[str]:
    """One name per input that is a tensor: that of its node, and in a cache its own (see `fxcompress.data.caches`)."""
    nodes = graph_module.graph.find_nodes(op="placeholder")
    spec = _spec(graph_module, "in_spec")
    in_caches = [] if spec is None else list(_in_caches(spec))
    if len(in_caches) != len(nodes):
        in_caches = [None] * len(nodes)
    named = [node.name if held is None else f"past_key_values.{held}" for node, held in zip(nodes, in_caches)]
    return [name for name, node in zip(named, nodes) if isinstance(node.meta.get("val"), torch.Tensor)]


def output_names(graph_module: fx.GraphModule) -> list[str]:
    """One name per output: its path in what `forward` returns."""
    (output,) = graph_module.graph.find_nodes(op="output")
    leaves, flat = pytree.tree_flatten(output.args[0])
    paths = _paths(_spec(graph_module, "out_spec") or flat)
    named = [f"output_{name}" if name.isdigit() else in_utf8(name) or "output" for name in paths]
    names = [name for name, leaf in zip(named, leaves, strict=True) if leaf is not None]
    return ["output"] if names in (["output_0"], ["output"]) else names


def _spec(graph_module: fx.GraphModule, which: str) -> pytree.TreeSpec | None:
    codegen = graph_module.graph._codegen
    return getattr(codegen.pytree_info, which) if isinstance(codegen, fx.graph._PyTreeCodeGen) else None


def _in_caches(spec: pytree.TreeSpec) -> Iterator[str | None]:
    """The name in its cache of each leaf; None for one that is in no cache."""
    names = cache_names(spec)
    if names is not None:
        yield from names
    elif spec.is_leaf():
        yield None
    else:
        for child in spec.children():
            yield from _in_caches(child)


def _paths(spec: pytree.TreeSpec, above: tuple[str, ...] = ()) -> Iterator[str]:
    """The path of each leaf, its keys joined by underscores."""
    names = cache_names(spec)
    if names is not None:
        yield from (f"present.{name}" for name in names)
    elif spec.is_leaf():
        yield "_".join(above)
    else:
        for key, child in zip(_keys(spec), spec.children(), strict=True):
            yield from _paths(child, (*above, key))


def _keys(spec: pytree.TreeSpec) -> list[str]:
    """What the children of a node are found by: keys, fields or positions."""
    kind, context, count = spec.type, spec.context, spec.num_children
    if hasattr(kind, "_fields"):
        return list(kind._fields)
    found = context[1] if isinstance(context, list) and len(context) == 2 and isinstance(context[1], list) else context
    named = isinstance(found, list) and len(found) == count
    return list(map(str, found if named else range(count)))
