"""A plain graph module of a graph and the tensors that it reads."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, fx, nn

from fxcompress.capture.twin import shared
from fxcompress.errors import CaptureError, describe


def assemble(module: fx.GraphModule, graph: fx.Graph) -> fx.GraphModule:
    """A plain graph module with `graph` and every parameter and buffer of `module`, on the same memory.

    Raises:
        CaptureError: the graph reads something else, as a generator of random numbers.
    """
    result = fx.GraphModule(nn.Module(), fx.Graph())
    done: dict[int, Tensor] = {}
    for path, tensor, persistent in _tensors(module, graph):
        new = done.setdefault(id(tensor), shared(tensor))
        parent, _, name = path.rpartition(".")
        owner = submodule(result, parent)
        if isinstance(new, nn.Parameter):
            owner.register_parameter(name, new)
        else:
            owner.register_buffer(name, new, persistent=persistent)
    result.graph = graph
    return result


def _tensors(module: nn.Module, graph: fx.Graph) -> Iterator[tuple[str, Tensor, bool]]:
    seen = set()
    for prefix, owner in module.named_modules():
        dot = f"{prefix}." if prefix else ""
        for name, tensor in [*owner._parameters.items(), *owner._buffers.items()]:
            if tensor is not None:
                seen.add(dot + name)
                yield dot + name, tensor, name not in owner._non_persistent_buffers_set
    for node in graph.find_nodes(op="get_attr"):
        if node.target not in seen:
            seen.add(node.target)
            parent, _, name = node.target.rpartition(".")
            held = getattr(module.get_submodule(parent), name)
            if not isinstance(held, Tensor):
                raise CaptureError(
                    f"{describe(next(iter(node.users), node))} reads a {type(held).__name__}, which a graph cannot hold; draw "
                    "random numbers outside of forward, and keep them in a buffer or give them as an input"
                )
            yield node.target, held, False


def submodule(root: nn.Module, path: str) -> nn.Module:
    """The module at `path` in `root`, made where there is none yet, and those around it."""
    for part in path.split(".") if path else ():
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root._modules[part]  # type: ignore[assignment]
    return root
