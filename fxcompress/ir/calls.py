"""Call paths: where in a model an operation was called, by the classes and names of modules and the order of its calls."""

from __future__ import annotations

import operator
import re
from collections import Counter
from collections.abc import Callable

from torch import fx
from torch._ops import OpOverload


def record_calls(graph: fx.Graph, class_of: Callable[[str], str | None]) -> None:
    """Note the call path of every call in `graph`, as torch.export made it, and all of them on its output.

    ``meta["call"]`` is ``ResNet/Sequential[layer1]/BasicBlock[0]/Conv2d[conv1]/conv2d_0``: the modules that were called, each
    with its class and its name in the one before, then the operation as it was written (in place with an underscore), and how
    many of them that module had called before. This is how NNCF named operations.

    Args:
        class_of: the class of the module at a path, of those that no forward was called of; None where that is not known.
    """
    calls: Counter[str] = Counter()
    found = []
    for node in graph.nodes:
        if node.op == "call_function" and node.target is not operator.getitem and "call" not in node.meta:
            written = f"{_modules(node, class_of)}/{_operation(node)}"
            node.meta["call"] = f"{written}_{calls[written]}"
            calls[written] += 1
            found.append(node.meta["call"])
    output = graph.output_node()
    output.meta.setdefault("calls", tuple(found))


def _modules(node: fx.Node, class_of: Callable[[str], str | None]) -> str:
    parts: list[str] = []
    before = ""
    for path, kind in (node.meta.get("nn_module_stack") or {}).values():
        path = re.sub(r"@\d+", "", path)
        name = (kind if isinstance(kind, str) else kind.__name__).rpartition(".")[2]
        if not path:
            parts.append(name)
            continue
        inside = path.removeprefix(f"{before}.") if before and path.startswith(f"{before}.") else path
        *between, last = inside.split(".") if inside != path or not before else [path.rpartition(".")[2]]
        outer = path[: len(path) - len(inside)]
        for part in between:
            outer = f"{outer}{part}"
            parts.append(f"{class_of(outer) or 'ModuleList'}[{part}]")
            outer += "."
        parts.append(f"{name}[{last}]")
        before = path
    return "/".join(parts)


def _operation(node: fx.Node) -> str:
    if isinstance(node.target, OpOverload):
        return node.target._schema.name.partition("::")[2]
    return getattr(node.target, "__name__", str(node.target))
