"""What a rule's builder builds with: calls and constants, inserted before the place that is being rewritten."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import fx
from torch._dispatch.python import enable_python_dispatcher
from torch._guards import detect_fake_mode
from torch._ops import OpOverload

from fxcompress.errors import DialectError, RuleError, describe, did_you_mean
from fxcompress.ir.dialect import resolve
from fxcompress.ir.edit import add_attribute, attribute, held_like, name_of, origin_of
from fxcompress.ir.signature import arguments, signature
from fxcompress.pattern.matcher import Match
from fxcompress.pattern.opnames import target_name


class Builder:
    """The `new` of a rule: ``new.relu(x)`` inserts such a call and returns its node.

    Each new node carries the value its operation gives (``meta["val"]``), the scope and source of the place that it
    rewrites, and the names of the pass and the rule that made it. `match` is the match at hand.
    """

    def __init__(self, graph_module: fx.GraphModule, match: Match, *, rule: str, created_by: str):
        self.graph_module, self.match = graph_module, match
        self._rule, self._created_by = rule, created_by
        self._created: list[fx.Node] = []
        self._attributes: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., fx.Node]:
        if name.startswith("_"):
            raise AttributeError(name)
        target = self._resolve(name)
        return lambda *args, **kwargs: self.call(target, *args, **kwargs)

    def __getitem__(self, name: str) -> Callable[..., fx.Node]:
        """``new["div.Tensor_mode"](x, y)``: the call of an explicit overload."""
        return getattr(self, name)

    def call(self, target: Callable, *args: Any, **kwargs: Any) -> fx.Node:
        """A call of `target` before the root. Arguments are nodes that precede the root, and literals.

        Raises:
            RuleError: the operation does not take these arguments.
        """
        try:
            value = self._evaluate(target, args, kwargs)
        except Exception as error:
            shown = ", ".join([*map(repr, args), *(f"{name}={value!r}" for name, value in kwargs.items())])
            raise RuleError(f"{target}({shown}) cannot be computed: {error}") from error
        path = f"{self.match.root.meta.get('scope') or ''}.{target_name(target)}".lstrip(".")
        return self._insert("call_function", target, path, args, kwargs, value)

    def like(self, node: fx.Node, **changes: Any) -> fx.Node:
        """A call like `node`, from the same place in the model, with some arguments (by schema name) replaced.

        Raises:
            RuleError: the operation has no such argument.
        """
        values, declared = arguments(node), signature(node.target)  # type: ignore[arg-type]
        for name in changes.keys() - values.keys():
            raise RuleError(f"{node.target} has no argument {name!r}{did_you_mean(name, values)}")
        values.update(changes)
        positions = [values.pop(name) for name in declared.names[: declared.positional]]
        defaults = list(declared.defaults[: declared.positional])
        while positions and len(positions) > len(node.args) and positions[-1] == defaults[len(positions) - 1]:
            positions.pop()
        by_name = {n: v for n, v in values.items() if n in changes or n in node.kwargs}
        made = self.call(node.target, *positions, **by_name)  # type: ignore[arg-type]
        made.meta.update(origin_of(node))
        return made

    def constant(self, tensor: torch.Tensor, *, name: str) -> fx.Node:
        """A `get_attr` of `tensor`, kept as a buffer `name` (with a number if that is taken; dots make modules)."""
        return self._attribute(name, tensor.detach(), parameter=False)

    def parameter(self, tensor: torch.Tensor, *, name: str) -> fx.Node:
        """As `constant`, but kept as a parameter that training can change."""
        return self._attribute(name, tensor.detach(), parameter=True)

    def replacement(
        self, tensor: torch.Tensor, old: fx.Node, *, name: str, stands_for: str | None = None, trained: bool | None = None
    ) -> fx.Node:
        """As `constant`, for a tensor in the place of the constant `old`: a parameter if that is one, frozen if that is.

        Once the passes have run it has the name of `old`, or the name `stands_for`. Whether it is `trained` may be said, where
        it is in the place of others as well.
        """
        held = held_like(attribute(self.graph_module, str(old.target)), tensor.detach())
        if trained or (trained is not None and isinstance(held, torch.nn.Parameter)):
            held = torch.nn.Parameter(held.detach(), requires_grad=trained)
        made = self._attribute(name, held, parameter=False)
        made.meta["stands_for"] = stands_for or name_of(old)
        return made

    def module(self, module: torch.nn.Module, value: fx.Node, *, name: str) -> fx.Node:
        """A call on `value` of `module`, which keeps the shape, kept as a submodule `name` (see `constant`)."""
        target = add_attribute(self.graph_module, name, module)
        self._attributes.append(target)
        return self._insert("call_module", target, target, (value,), {}, self.value(value))

    def is_constant(self, *values: Any) -> bool:
        """Whether each of `values` is None or a `get_attr` node, whose tensor is known now."""
        return all(value is None or (isinstance(value, fx.Node) and value.op == "get_attr") for value in values)

    def tensor(self, node: fx.Node) -> torch.Tensor:
        """The tensor behind the `get_attr` `node`, detached. Do not change it in place: the user's model may share it.

        Raises:
            RuleError: `node` is something else; ask `is_constant` first.
        """
        if not isinstance(node, fx.Node) or node.op != "get_attr":
            raise RuleError(f"{node!r} is no constant; let the builder return None where new.is_constant(...) is false")
        return attribute(self.graph_module, str(node.target)).detach()

    def value(self, node: fx.Node) -> Any:
        """The fake value of `node`: a FakeTensor, a symbolic number or a tuple of them."""
        if "val" not in node.meta:
            raise RuleError(f"{describe(node)} carries no meta['val']; capture the model with fxcompress to get it")
        return node.meta["val"]

    def shape(self, node: fx.Node) -> torch.Size:
        """The shape of `node`; the batch size may be symbolic."""
        return self.value(node).shape

    def dtype(self, node: fx.Node) -> torch.dtype:
        """The dtype of `node`."""
        return self.value(node).dtype

    def is_float(self, *nodes: fx.Node) -> bool:
        """Whether each of `nodes` is a floating-point tensor."""
        values = [self.value(node) for node in nodes]
        return all(isinstance(value, torch.Tensor) and value.dtype.is_floating_point for value in values)

    def _resolve(self, name: str) -> OpOverload:
        try:
            return resolve(name)
        except (DialectError, AttributeError) as error:
            raise RuleError(f"new.{name}: {error}") from None

    def _evaluate(self, target: Callable, args: Any, kwargs: Any) -> Any:
        fake_args, fake_kwargs = fx.map_arg((args, kwargs), self.value)
        mode = detect_fake_mode(fake_args) or detect_fake_mode(self.value(self.match.root))
        with torch.no_grad(), mode or nullcontext(), enable_python_dispatcher():
            return target(*fake_args, **fake_kwargs)

    def _attribute(self, name: str, tensor: torch.Tensor, *, parameter: bool) -> fx.Node:
        if parameter:
            tensor = torch.nn.Parameter(tensor, requires_grad=tensor.is_floating_point())
        target = add_attribute(self.graph_module, name, tensor)
        self._attributes.append(target)
        mode = detect_fake_mode(self.value(self.match.root))
        value = mode.from_tensor(tensor, static_shapes=True) if mode else tensor
        node = self._insert("get_attr", target, target, (), {}, value)
        node.meta["scope"] = target.rpartition(".")[0]
        return node

    def _insert(self, op: str, target: Any, path: str, args: Any, kwargs: Any, value: Any) -> fx.Node:
        root = self.match.root
        with root.graph.inserting_before(root):
            node = root.graph.create_node(op, target, args, kwargs, name=path.replace(".", "_"))
        node.meta = origin_of(root) | {"val": value, "created_by": self._created_by, "rule": self._rule}
        self._created.append(node)
        return node

    def undo(self) -> None:
        """Take back every node and attribute made so far."""
        for node in reversed(self._created):
            node.graph.erase_node(node)
        for target in self._attributes:
            owner_path, _, leaf = target.rpartition(".")
            delattr(self.graph_module.get_submodule(owner_path), leaf)
        self._created.clear()
        self._attributes.clear()

    @property
    def created(self) -> tuple[fx.Node, ...]:
        """The nodes made so far."""
        return tuple(self._created)
