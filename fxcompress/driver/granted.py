"""What a graph takes for granted of its inputs: what is no tensor, how long lists are, and sizes that are not free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Number
from types import NoneType
from typing import Any

from torch import Tensor, fx
from torch.fx import _pytree as fx_pytree
from torch.utils import _pytree as pytree

from fxcompress.data.convention import PARAMETERS, by_name
from fxcompress.data.inputs import describe_value
from fxcompress.errors import InputError, warn_user
from fxcompress.ir.fake import static_sizes

_PLAIN = (Number, str, NoneType)


class Granted:
    """Compares calls with what the example was, where `graph` has it as a constant, and nothing in it reads the inputs."""

    def __init__(self, graph: fx.Graph) -> None:
        info = graph._codegen.pytree_info  # type: ignore[attr-defined]
        self.spec: pytree.TreeSpec = info.in_spec
        self.names = [name for name in info.orig_args if name != "self"]
        self.inputs = list(graph.find_nodes(op="placeholder"))
        self._has_warned = False

    def by_name(
        self, meta: Mapping[str, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """As `convention.by_name`, with the parameters that `meta` of the graph's module tells."""
        return by_name(meta.get(PARAMETERS), self.spec.child(0).num_children, self.names, args, kwargs)

    def check(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Look at a call; what does not fit the parameters at all is left to the call itself.

        Raises:
            InputError: what is no tensor is another than in the example, or a list has another length.

        Warns:
            UserWarning: once, where a size that is not free is another.
        """
        given = dict(zip(self.names, args)) | dict(kwargs)
        if len(given) != len(self.names) or set(given) != set(self.names):
            return
        positional, named = self.spec.children()
        values = [given[name] for name in self.names]
        for name, spec, value in zip(self.names, [*positional.children(), *named.children()], values):
            _check_lengths(name, spec, value)
        count = positional.num_children
        call = values[:count], dict(zip(named.context, values[count:]))
        for node, value in zip(self.inputs, fx_pytree.tree_flatten_spec(call, self.spec)):
            self._check(node, value)

    def _check(self, node: fx.Node, value: Any) -> None:
        granted = node.meta.get("val", value)
        if isinstance(granted, Tensor):
            if isinstance(value, Tensor) and not self._has_warned:
                self._check_sizes(node.name, static_sizes(granted.shape), value)
        elif isinstance(granted, _PLAIN) and not (isinstance(value, _PLAIN) and value == granted):
            raise _other(node.name, describe_value(granted), describe_value(value))

    def _check_sizes(self, name: str, sizes: Sequence[Any], value: Tensor) -> None:
        wanted = [size if isinstance(size, int) else None for size in sizes]
        if len(wanted) == value.dim() and all(size in (None, other) for size, other in zip(wanted, value.shape)):
            return
        self._has_warned = True
        shape = ", ".join("any" if size is None else str(size) for size in wanted)
        warn_user(
            f"the model was compiled for {name} of the shape [{shape}], and is called with {list(value.shape)}: what forward "
            "computes from sizes is as for the former. Compile it with dynamic_shapes='auto', or with data of several sizes",
            UserWarning,
        )


def _check_lengths(name: str, spec: pytree.TreeSpec, value: Any) -> None:
    """Raise InputError where a list of `value` has another length than in the example: the graph reads as many items."""
    if isinstance(value, (list, tuple)):
        if spec.type in (list, tuple) and len(value) != spec.num_children:
            raise _other(name, f"{spec.num_children} items", str(len(value)))
        items: Sequence[Any] = value
    else:
        items = [value.get(key) for key in spec.context] if isinstance(value, Mapping) and spec.type is dict else ()
    for place, (one, item) in enumerate(zip(spec.children(), items)):
        _check_lengths(f"{name}[{place}]", one, item)


def _other(name: str, granted: str, given: str) -> InputError:
    return InputError(
        f"the model was compiled for calls with {name}={granted}, not {given}, and knows no other; compile it with example "
        "inputs that have that"
    )
