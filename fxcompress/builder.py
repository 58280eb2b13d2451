"""What a rule's builder builds with: calls and constants, inserted before the place that is being rewritten."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any, TypeVar

import torch
from torch import fx
from torch._dispatch.python import enable_python_dispatcher
from torch._guards import detect_fake_mode
from torch._ops import OpOverload

from fxcompress.dialect import resolve
from fxcompress.errors import DialectError, RuleError, describe, did_you_mean
from fxcompress.pattern.matcher import Match
from fxcompress.pattern.opnames import target_name
from fxcompress.signature import arguments, signature

Module = TypeVar("Module", bound=torch.nn.Module)


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
        made.meta.update(_origin(node))
        return made

    def constant(self, tensor: torch.Tensor, *, name: str) -> fx.Node:
        """A `get_attr` of `tensor`, kept as a buffer `name` (with a number if that is taken; dots make modules)."""
        return self._attribute(name, tensor.detach(), parameter=False)

    def parameter(self, tensor: torch.Tensor, *, name: str) -> fx.Node:
        """As `constant`, but kept as a parameter that training can change."""
        return self._attribute(name, tensor.detach(), parameter=True)

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
        node.meta = _origin(root) | {"val": value, "created_by": self._created_by, "rule": self._rule}
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


def _origin(node: fx.Node) -> dict[str, Any]:
    """The metadata that say where in the user's model `node` comes from."""
    return {key: node.meta[key] for key in ("scope", "stack_trace", "region") if key in node.meta}


def attribute(graph_module: fx.GraphModule, target: str) -> Any:
    """What the `get_attr` `target` (a dotted path) names in `graph_module`."""
    owner_path, _, leaf = target.rpartition(".")
    return getattr(graph_module.get_submodule(owner_path), leaf)


def called(graph_module: fx.GraphModule, node: fx.Node, kind: type[Module]) -> Module | None:
    """The module of `kind` that `node` calls; None where it is something else."""
    module = graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
    return module if isinstance(module, kind) else None


def insert_call(value: fx.Node, readers: Iterable[fx.Node], target: str | OpOverload, *, name: str, created_by: str) -> fx.Node:
    """Let `readers` read a call of the module or function `target` on `value`, which is of the same shape.

    It stands behind `value`, and behind the inputs and constants that follow one another there.
    """
    after = value
    while after.op in ("placeholder", "get_attr") and after.next.op in ("placeholder", "get_attr"):
        after = after.next
    with value.graph.inserting_after(after):
        op = "call_module" if isinstance(target, str) else "call_function"
        node = value.graph.create_node(op, target, (value,), name=name)
    node.meta = {key: value.meta[key] for key in ("val", "scope", "stack_trace") if key in value.meta}
    node.meta["created_by"] = created_by
    for reader in readers:
        reader.replace_input_with(value, node)
    return node


def insert_constant(
    graph_module: fx.GraphModule, name: str, value: torch.Tensor, *, before: fx.Node, created_by: str
) -> fx.Node:
    """A `get_attr` of `value`, kept as `name` (see `add_attribute`), before the node that it is for."""
    target = add_attribute(graph_module, name, value)
    with before.graph.inserting_before(before):
        node = before.graph.create_node("get_attr", target, name=target.replace(".", "_"))
    node.meta = _origin(before) | {"val": value, "created_by": created_by}
    return node


def insert_function(
    target: OpOverload, *args: Any, name: str, value: torch.Tensor, before: fx.Node, created_by: str
) -> fx.Node:
    """A call of `target`, which gives such a `value`, before the node that it is for."""
    with before.graph.inserting_before(before):
        node = before.graph.create_node("call_function", target, args, name=name)
    node.meta = _origin(before) | {"val": value, "created_by": created_by}
    return node


def add_attribute(graph_module: fx.GraphModule, name: str, value: torch.Tensor | torch.nn.Module) -> str:
    """Keep `value` in `graph_module` as `name`, with a number where that is taken; returns the target for `get_attr`.

    A parameter becomes a parameter, a module a submodule, any other tensor a buffer. Dots in `name` make modules.
    """
    owner_path, _, leaf = name.rpartition(".")
    owner: torch.nn.Module = graph_module
    for part in filter(None, owner_path.split(".")):
        if not hasattr(owner, part):
            owner.add_module(part, torch.nn.Module())
        owner = getattr(owner, part)
    unique, count = leaf, 0
    while hasattr(owner, unique):
        count += 1
        unique = f"{leaf}_{count}"
    if isinstance(value, torch.nn.Module):
        owner.add_module(unique, value)
    elif isinstance(value, torch.nn.Parameter):
        owner.register_parameter(unique, value)
    else:
        owner.register_buffer(unique, value)
    return f"{owner_path}.{unique}" if owner_path else unique
