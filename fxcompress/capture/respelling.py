"""How one call is respelled: the `Call` that a row of the table takes, the table, and the loop that applies it."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import fx
from torch._ops import OpOverload

from fxcompress.capture.arguments import arrange
from fxcompress.ir.fake import insert_call, static_sizes
from fxcompress.ir.signature import argument


@dataclass(frozen=True)
class Call:
    """A call to respell: its arguments by name, and ways to write another in its place."""

    node: fx.Node

    def __getitem__(self, name: str) -> Any:
        return argument(self.node, name)

    @property
    def value(self) -> Any:
        """The fake value of the call."""
        return self.node.meta["val"]

    def same(self, target: OpOverload, *args: Any, **kwargs: Any) -> fx.Node:
        """A call of `target` that gives what this one does."""
        return insert_call(self.node, target, args, kwargs, val=self.value)

    def new(self, target: OpOverload, *args: Any, **kwargs: Any) -> fx.Node:
        """A call of `target` for use by another one, in canonical form."""
        return canonical_call(insert_call(self.node, target, args, kwargs))

    def first(self, target: OpOverload, *args: Any, **kwargs: Any) -> fx.Node | None:
        """A call of `target` for the first of the results of this one; None, where others are read as well."""
        readers = list(self.node.users)
        if any(reader.target is not operator.getitem or reader.args[1] != 0 for reader in readers):
            return None
        return self.results(insert_call(self.node, target, args, kwargs, val=self.value[0]))

    def results(self, *nodes: fx.Node) -> fx.Node:
        """`nodes` for the results of this call, which are read by number; the first of them."""
        for reader in list(self.node.users):
            reader.replace_all_uses_with(nodes[reader.args[1]], propagate_meta=False)  # type: ignore[index]
            self.node.graph.erase_node(reader)
        return nodes[0]


Respell = Callable[[Call], fx.Node | None]

SPELLINGS: dict[Any, Respell] = {}
"""Foreign overload -> a function of the `Call` that returns the node to stand for it, or None to leave it as it is."""


def spelling(*targets: OpOverload) -> Callable[[Respell], Respell]:
    """Enter a function in the table as the row of each of `targets`."""

    def enter(respell: Respell) -> Respell:
        for target in targets:
            SPELLINGS[target] = respell
        return respell

    return enter


def canonical_call(node: fx.Node) -> fx.Node:
    """The canonical form of the call `node`, which takes its place in the graph."""
    while True:
        arrange(node)
        respell = SPELLINGS.get(node.target)
        new = respell(Call(node)) if respell else None
        if new is None:
            return node
        node.replace_all_uses_with(new, propagate_meta=False)
        node.graph.erase_node(node)
        if new.op != "call_function":
            return new
        node = new


def size_of(value: Any) -> tuple[Any, ...]:
    """The shape behind a node or a fake tensor; sizes that depend on the batch are `torch.SymInt`."""
    return static_sizes((value.meta["val"] if isinstance(value, fx.Node) else value).shape)


def same_sizes(left: Any, right: Any) -> bool:
    """Whether two shapes are equal for every batch size, without guarding on it."""
    left, right = tuple(left), tuple(right)
    return len(left) == len(right) and all(same_size(a, b) for a, b in zip(left, right))


def same_size(left: Any, right: Any) -> bool:
    if isinstance(left, int) and isinstance(right, int):
        return left == right
    return str(left) == str(right)
