"""What a graph takes for granted of its inputs: what is no tensor, how long lists are, and sizes that are not free."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from numbers import Number
from types import NoneType
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx import _pytree as fx_pytree
from torch.utils import _pytree as pytree

from fxcompress.data.convention import by_name, same_constant
from fxcompress.data.inputs import describe_value
from fxcompress.errors import InputError, warn_user
from fxcompress.ir.fake import describe_sizes, static_sizes

_PLAIN = (Number, str, NoneType)


class Granted:
    """Compares calls with what the example was, where `graph` has it as a constant, and nothing in it reads the inputs.

    Attributes:
        made: what was made for calls such as the example, as messages begin.
        held: what the user has of the compiled model.
        refuses_sizes: whether a size that is not free is an error where it is another; else it is warned of, once.
    """

    def __init__(
        self,
        graph: fx.Graph,
        *,
        made: str = "the model was compiled",
        held: str = "compiled",
        refuses_sizes: bool = False,
    ) -> None:
        info = graph._codegen.pytree_info  # type: ignore[attr-defined]
        self.spec: pytree.TreeSpec = info.in_spec
        self.names = [name for name in info.orig_args if name != "self"]
        self.inputs = list(graph.find_nodes(op="placeholder"))
        self.made, self.held, self.refuses_sizes = made, held, refuses_sizes
        self._has_warned = False

    def as_known(
        self, parameters: Sequence[inspect.Parameter] | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """A call of forward, which has `parameters`, as one of the graph; those that the call leaves out have their defaults.

        Raises:
            InputError: an argument says something that the graph does not know, or one that it reads is missing.
            TypeError: there are too many, or one twice.
        """
        args, named = by_name(parameters, self.spec.child(0).num_children, self.names, args, kwargs, self.made)
        said = {name: value for name, value in named.items() if name in self.names or value is not None}
        missing = [name for name in self.names[len(args) :] if name not in said]
        if not missing or said.keys() - set(self.names):
            return args, said  # what is too much, the call itself tells
        defaults, constants = {one.name: one.default for one in parameters or ()}, self._constants()
        filled = {name: constants[name] for name in missing if name in constants and name in defaults}
        filled = {name: value for name, value in filled.items() if same_constant(value, defaults[name])}
        missing = [name for name in missing if name not in filled]
        if missing:
            raise InputError(
                f"{self.made} for calls with {', '.join(missing)}, which this call leaves out; where only a loss needs that, "
                f"call {self.held}.without({', '.join(map(repr, missing))}), which returns the other outputs"
            )
        return args, said | filled

    def check(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Look at a call of the graph, unless it is being traced; one that does not fit the parameters fails by itself.

        Raises:
            InputError: what is no tensor is another than in the example, or there where the example had a tensor; a list has
                another length, a dict other keys; or a size that is not free is another, if `refuses_sizes`.

        Warns:
            UserWarning: such a size, else.
        """
        given = dict(zip(self.names, args)) | dict(kwargs)
        if torch.compiler.is_compiling() or torch.jit.is_tracing() or given.keys() != set(self.names):
            return
        for name, spec in self._parameters():
            _check_form(f"{self.made} for calls with {name}", spec, given[name])
        positional, named = self.spec.children()
        values = [given[name] for name in self.names]
        count = positional.num_children
        call = values[:count], dict(zip(named.context, values[count:]))
        for (name, node), value in zip(self._leaves(), fx_pytree.tree_flatten_spec(call, self.spec)):
            self._check(name, node.meta.get("val", value), value)

    def _check(self, name: str, granted: Any, value: Any) -> None:
        if isinstance(granted, Tensor) and isinstance(value, Tensor):
            self._check_sizes(name, granted, value)
        elif isinstance(granted, Tensor) and isinstance(value, _PLAIN):
            raise _other(f"{self.made} for calls with {name}", describe_sizes(granted), value)
        elif isinstance(granted, _PLAIN) and not (isinstance(value, _PLAIN) and value == granted):
            raise _other(f"{self.made} for calls with {name}", describe_value(granted), value)

    def _check_sizes(self, name: str, granted: Tensor, value: Tensor) -> None:
        if self._has_warned or _fits(static_sizes(granted.shape), value):
            return
        told = f"{self.made} for calls with {name}={describe_sizes(granted)}, not {describe_value(value)}"
        how = "sizes are free where the model allows it, with dynamic_shapes='auto', or where the data has several"
        if self.refuses_sizes:
            raise InputError(f"{told}; {how}")
        self._has_warned = True
        warn_user(f"{told}: what forward computes from sizes is as for the former; {how}", UserWarning)

    def _parameters(self) -> Iterator[tuple[str, pytree.TreeSpec]]:
        positional, named = self.spec.children()
        yield from zip(self.names, [*positional.children(), *named.children()])

    def _leaves(self) -> Iterator[tuple[str, fx.Node]]:
        """The inputs, by the names that a reader knows them by."""
        inputs = iter(self.inputs)
        for name, spec in self._parameters():
            for _ in range(spec.num_leaves):
                node = next(inputs)
                yield name if spec.is_leaf() else node.name, node

    def _constants(self) -> dict[str, Any]:
        """What the example had for each parameter that is no tensor."""
        found, inputs = {}, iter(self.inputs)
        for name, spec in self._parameters():
            values = [next(inputs).meta.get("val", torch.empty(0)) for _ in range(spec.num_leaves)]
            if all(isinstance(value, _PLAIN) for value in values):
                found[name] = pytree.tree_unflatten(values, spec)
        return found


def _fits(sizes: Sequence[Any], value: Tensor) -> bool:
    return len(sizes) == value.dim() and all(not isinstance(a, int) or a == b for a, b in zip(sizes, value.shape))


def _check_form(what: str, spec: pytree.TreeSpec, value: Any) -> None:
    """Raise InputError where a list of `value` has another length than in the example, or a dict other keys: none is read."""
    items: Sequence[Any] = ()
    if spec.type in (list, tuple) or isinstance(value, (list, tuple)):
        if spec.type in (list, tuple) and not (isinstance(value, (list, tuple)) and len(value) == spec.num_children):
            raise _other(what, f"{spec.num_children} items", value)
        items = value
    elif spec.type is dict:
        said = {key for key, item in value.items() if item is not None} if isinstance(value, Mapping) else None
        if said is None or not said <= set(spec.context) <= value.keys():
            raise _other(what, f"a dict of {', '.join(map(str, spec.context))}", value)
        items = [value[key] for key in spec.context]
    for place, (one, item) in enumerate(zip(spec.children(), items)):
        _check_form(f"{what}[{place}]", one, item)


def _other(what: str, granted: str, given: Any) -> InputError:
    return InputError(
        f"{what}={granted}, not {describe_value(given)}, and knows no other; compile it with example inputs that have that"
    )
