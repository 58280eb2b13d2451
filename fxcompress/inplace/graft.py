"""Let a module compute what a model compiled from it computes, and leave all else of it as it is.

The module's class, methods, attributes, children, parameters and hooks stay; what passes inserted becomes children and
parameters beside them, and only `forward` changes.
"""

from __future__ import annotations

import copy
import functools
import weakref
from typing import Any

import torch
from torch import fx, nn

from fxcompress.compiled import Compiled
from fxcompress.errors import InputError
from fxcompress.inplace.calls import Calls
from fxcompress.inplace.insides import Insides
from fxcompress.ir.dialect import copy_graph
from fxcompress.ir.own_class import Underived, give_class
from fxcompress.ir.state import same_attributes


def graft(module: nn.Module, compiled: Compiled) -> Compiled:
    """Make `module` compute what `compiled`, made of it, computes; returns the compiled model on the tensors of `module`.

    The two share all state from then on: what one trains, loads or moves is the other's.

    Raises:
        InputError: `module` has been compressed already, its forward was replaced on the instance, names of its parts cannot
            stand in code, or it is not in single precision.
    """
    check_graftable(module)
    check_state(module, compiled)
    graph, insides = copy_graph(compiled.graph), Insides(module, compiled.graph)
    _move_in(module, compiled, graph)
    twin = Compiled.sharing(module, graph, compiled)
    _replace_forward(module, twin, insides)
    return twin


def check_graftable(module: nn.Module) -> None:
    """Raise InputError where `module` has been compressed already, or its forward was replaced on the instance."""
    if any(hasattr(child, "_compressed_graph") for child in module.modules()):
        raise InputError(f"this {type(module).__name__} has been compressed already; compress it once, with all passes")
    if "forward" in vars(module):
        raise InputError(
            f"the forward of this {type(module).__name__} was replaced on the instance (by a wrapper such as Accelerate's); "
            "compress the model before it is wrapped"
        )


def check_insides(model: nn.Module) -> None:
    """Raise InputError where a module was replaced inside of what is compressed in `model`; warn of other changes."""
    for module in model.modules():
        insides = getattr(module, "_compressed_insides", None)
        if insides is not None and insides.module is module:  # a copy has those of what it was copied from
            insides.check(module.training)


def check_state(module: nn.Module, compiled: Compiled) -> None:
    """Raise InputError where `compiled` holds state of `module` under other names, or in another precision."""
    renamed = sorted(compiled.meta.get("own_names", {}).values())
    if renamed:
        raise InputError(
            f"{', '.join(map(repr, renamed))} cannot stand in code, or is what a compiled model calls something of its own; "
            f"rename it in {type(module).__name__}, or compile a copy: fxcompress.compile(model, ...)"
        )
    held = {**dict(compiled.named_parameters()), **dict(compiled.named_buffers())}
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if name in held and held[name].dtype != tensor.dtype:
            raise InputError(
                f"{name} is {tensor.dtype}, and models are compressed in {held[name].dtype}: convert the model first, "
                "model.float(), and train it in mixed precision (torch.autocast)"
            )


def _move_in(module: nn.Module, compiled: Compiled, graph: fx.Graph) -> None:
    """Give `module` what `graph` reads and it has not got, under another name where its own means something else.

    Modules that passes put beside the graph, a teacher for instance, go with it.
    """
    moved: dict[str, str] = {}
    for node in graph.nodes:
        if node.op in ("get_attr", "call_module"):
            target = str(node.target)
            if target not in moved:
                moved[target] = _give(module, target, _held(compiled, target))
            node.target = moved[target]
    for name, child in compiled.named_children():
        if type(child) is not nn.Module and name not in moved:  # a plain module only holds the model's own names
            _give(module, name, child)


def _held(module: nn.Module, target: str) -> Any:
    owner, _, leaf = target.rpartition(".")
    return getattr(module.get_submodule(owner), leaf)


def _give(module: nn.Module, target: str, value: Any) -> str:
    """Let `module` hold `value` at `target`, unless it holds its own there; returns where it is."""
    path, _, leaf = target.rpartition(".")
    owner = module
    where: list[str] = []
    for name in filter(None, path.split(".")):
        if name not in owner._modules:
            name = _free(owner, name)
            owner.add_module(name, nn.Module())
        owner = owner.get_submodule(name)
        where.append(name)
    if isinstance(value, torch.Tensor):
        own = owner._parameters.get(leaf, owner._buffers.get(leaf))
        if own is not None and own.shape == value.shape:
            if leaf in owner._buffers and own.dtype == value.dtype:
                own.copy_(value)  # statistics that a pass took anew are the module's own
            if torch.equal(own, value):
                return target
    name = _free(owner, leaf)
    if isinstance(value, nn.Parameter):
        owner.register_parameter(name, value)
    elif isinstance(value, torch.Tensor):
        owner.register_buffer(name, value)
    else:
        owner.add_module(name, value.train(module.training))
    return ".".join([*where, name])


def _free(owner: nn.Module, name: str) -> str:
    """`name`, with a number where `owner` has something of this name."""
    unique, count = name, 0
    while hasattr(owner, unique):
        count += 1
        unique = f"{name}_{count}"
    return unique


def _replace_forward(module: nn.Module, compiled: Compiled, insides: Insides) -> None:
    """Give the instance a class of its own, of the same name, whose forward runs the graph of `compiled`.

    The instance runs `compiled` itself, so that controllers who watch that see every pass; a copy of it runs the code alone.
    """
    own, code, run = type(module), type(compiled).forward, functools.partial(nn.Module.__call__, compiled)
    calls = Calls(own.forward, compiled.graph, own.__name__)
    instance = weakref.ref(module)

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        mine = self is instance()
        if mine:
            insides.check(self.training)
            compiled.training = self.training
        return calls.run(self, run if mine else self._compressed_code, args, kwargs)

    forward.__wrapped__ = own.forward  # type: ignore[attr-defined]  # for those who look at its signature
    give_class(
        module,
        {
            "forward": forward,
            "_compressed_code": code,
            "_compressed_graph": compiled.graph,
            "_compressed_insides": insides,
            "_in_spec": getattr(compiled, "_in_spec", None),
            "_out_spec": getattr(compiled, "_out_spec", None),
        },
        _Grafted,
    )


class _Grafted(Underived):
    """What the class of a compressed instance has before the user's: copies do without pickling, which its code cannot.

    The copying of graph modules themselves makes one of their own graph, so that it is not asked.
    """

    def __copy__(self) -> Any:
        own = None if isinstance(self, fx.GraphModule) else getattr(super(), "__copy__", None)
        return own() if own else same_attributes(self)  # type: ignore[arg-type]

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        twin: Any = object.__new__(type(self))
        if isinstance(self, fx.GraphModule):
            memo[id(self)] = twin
            twin.__dict__.update(copy.deepcopy(vars(self), memo))
            return twin
        own = getattr(super(), "__deepcopy__", None)
        if own:
            return own(memo)
        memo[id(self)] = twin
        _, _, state, *_ = tuple(super().__reduce_ex__(4))
        twin.__setstate__(copy.deepcopy(state, memo))
        return twin

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(
            f"a compressed {type(self).__name__} cannot be pickled: its forward is code made for it; save its state, "
            "torch.save(compression.checkpoint(), path), and load that into the same compression of the model"
        )
