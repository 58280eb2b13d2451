"""What passes make of one constant for each of the calls that read it, and what of that is the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn

from fxcompress.ir.edit import attribute, is_of_a_pass, name_of


def join_copies(graph_module: fx.GraphModule) -> None:
    """Let calls whose copies of one constant hold the same bits read one of them, and one of equal modules that call it.

    A layer that is called several times, as the encoder of a Siamese network is, is rewritten call by call. Its calls go on
    to share their weights, in training and in the file.
    """
    seen: dict[object, list[fx.Node]] = {}
    copies: set[fx.Node] = set()
    for node in list(graph_module.graph.nodes):
        if not (is_of_a_pass(node) if node.op == "get_attr" else node.op == "call_module" and node.args[0] in copies):
            continue
        alike = seen.setdefault(name_of(node) if node.op == "get_attr" else node.args, [])
        held = attribute(graph_module, str(node.target))
        first = next((one for one in alike if same(attribute(graph_module, str(one.target)), held)), None)
        if first is None:
            alike.append(node)
        else:
            node.replace_all_uses_with(first)
            graph_module.graph.erase_node(node)
        copies.add(first or node)


def in_several(graph_module: fx.GraphModule) -> set[str]:
    """The names of constants in whose place several that differ are read; one of them may be the constant itself."""
    read = {(name_of(node), str(node.target)) for node in graph_module.graph.find_nodes(op="get_attr") if node.users}
    return {name for name, count in Counter(name for name, _ in read).items() if count > 1}


def same(one: object, other: object) -> bool:
    """Whether two tensors, or two modules, have the same bits and are trained alike."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        kinds = [(x.dtype, x.device, x.shape, x.requires_grad) for x in (one, other)]
        return kinds[0] == kinds[1] and torch.equal(one, other)
    if isinstance(one, nn.Module) and isinstance(other, nn.Module):
        mine, theirs = dict(_parts(one)), dict(_parts(other))
        return mine.keys() == theirs.keys() and all(same(part, theirs[name]) for name, part in mine.items())
    return bool(one == other)


def _parts(module: nn.Module) -> Iterator[tuple[str, object]]:
    """All that tells `module` from another of its type."""
    yield from ((name, held) for name, held in vars(module).items() if not name.startswith("_"))
    yield from (*module._parameters.items(), *module._buffers.items(), *module._modules.items())
