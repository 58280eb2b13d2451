"""Call paths as scopes: the operations of a graph by NNCF's names for them, or by a regular expression over these."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

from torch import fx

from fxcompress.errors import InputError
from fxcompress.ir.place import Place, place_of

EXPRESSION = "{re}"
"""What a scope begins with, or holds, that is a regular expression, to be found anywhere in a call path."""

_OPERATORS = {
    name: [f"__{name}__", f"__r{name}__", name] for name in ("add", "sub", "mul", "matmul", "pow", "and", "or", "xor")
} | {
    "div": ["__truediv__", "__div__", "__rtruediv__", "__rdiv__", "div", "true_divide"],
    "rsub": ["__rsub__", "rsub"],
    "slice": ["__getitem__", "narrow"],
    "select": ["__getitem__", "select"],
    "index": ["__getitem__"],
    "constant_pad_nd": ["pad"],
    "upsample_bilinear2d": ["interpolate"],
    "upsample_nearest2d": ["interpolate"],
    "upsample_bicubic2d": ["interpolate"],
    "upsample_linear1d": ["interpolate"],
    "upsample_trilinear3d": ["interpolate"],
    "hardtanh": ["hardtanh", "relu6"],
    "_softmax": ["softmax"],
    "special_expit": ["sigmoid"],
}
"""How a call that torch names so may have been written: by its operator, or by the function of which it is a part."""

_WEIGHTED = re.compile(
    r"\b(Conv[123]d|ConvTranspose[123]d|Linear|Bilinear|BatchNorm[123]d|GroupNorm|LayerNorm|Embedding|EmbeddingBag)\["
)
_RENAMED = {"Conv2dNormActivation": ["ConvNormActivation", "ConvBNReLU", "ConvBNActivation"]}
"""Classes of torchvision by their names in older versions, which files name."""


def is_call_path(scope: str) -> bool:
    return EXPRESSION in scope or "/" in scope


def called(graph: fx.Graph, scope: str) -> set[fx.Node] | None:
    """The nodes of `graph` that the call path, or the expression, `scope` names; empty where passes have replaced them all.

    A path of modules alone names all that is called in them. None where the model never had such a call.

    Raises:
        InputError: the expression is none.
    """
    matches = _matcher(scope)
    had = [one for call in graph.output_node().meta.get("calls", ()) for one in _in_model(graph, call)]
    for exactly in (True, False):
        found = {node for node in graph.nodes if any(map(matches, _spellings(node, exactly)))}
        if found:
            return found
        if any(matches(name) for call in had for name in spelled(call, exactly)):
            return set()
    return None


def is_outside(place: Place, scope: str) -> bool:
    """Whether the call path, or the expression, `scope` names calls, or modules, outside of the parts that are compiled.

    What a module calls that did not run, as in a model that returns there in training alone, is not known: any will do.
    """
    modules = {one: call in place.called for call in place.outside.values() for one in (call, _WEIGHTED.sub(r"NNCF\1[", call))}
    matches = _matcher(scope)
    calls = [call for found in place.called.values() for call in found]
    if any(matches(name) for call in calls for exactly in (True, False) for name in spelled(call, exactly)):
        return True
    if EXPRESSION in scope:
        return any(matches(f"{call}/") for call in modules)
    return scope in modules or not modules.get(scope.rpartition("/")[0], True)


def all_names(nodes: Iterable[fx.Node]) -> Iterator[str]:
    """The call path of each of `nodes`, as NNCF would have written it, and of what is called outside of the parts."""
    place = None
    for node in nodes:
        place = place or place_of(node.graph)
        yield from list(_spellings(node, True))[-1:]
    for calls in place.called.values() if place else ():
        yield from (spelled(call, True)[-1] for call in calls)


def _matcher(scope: str):
    if EXPRESSION in scope:
        text = scope.replace(EXPRESSION, "")
        try:
            expression = re.compile(text)
        except re.error as problem:
            raise InputError(f"{text!r} is no regular expression: {problem}") from None
        return lambda name: bool(expression.search(name))
    return lambda name: name == scope or name.startswith(f"{scope}/")


def _spellings(node: fx.Node, exactly: bool) -> Iterable[str]:
    if node.op == "placeholder":
        inputs = [one for one in node.graph.nodes if one.op == "placeholder"]
        return (f"/nncf_model_input_{inputs.index(node)}",)
    call = node.meta.get("call")
    return [name for one in _in_model(node.graph, call) for name in spelled(one, exactly)] if call else ()


def _in_model(graph: fx.Graph, call: str) -> list[str]:
    """The call path as the graph has it, and as the model has it that the graph is a part of."""
    place = place_of(graph)
    return [call] if place is None else [call, place.call(call)]


@lru_cache(maxsize=100_000)
def spelled(call: str, exactly: bool) -> tuple[str, ...]:
    """The ways in which NNCF's users may have written the call path `call`, that of NNCF 2 last.

    Not `exactly`, it may have been written in place where it is not, and the other way round.
    """
    modules, _, last = call.rpartition("/")
    written, _, order = last.rpartition("_")
    plain = written.rstrip("_")
    in_place = written.endswith("_") and not written.startswith("__")
    names = _OPERATORS.get(plain, [plain])
    swapped = [f"__i{plain}__"] if plain in _OPERATORS and f"__{plain}__" in names else []
    swapped += ["__itruediv__"] if plain == "div" else []
    swapped += [f"{plain}_"]
    if not exactly:
        operations = [*names, *swapped, plain.upper(), written]
    else:
        operations = [*swapped[-1:], *swapped[:-1]] if in_place else list(reversed(names))
    paths = [modules]
    for new, olds in _RENAMED.items():
        paths = [*(path.replace(f"{new}[", f"{old}[") for path in paths if f"{new}[" in path for old in olds), *paths]
    paths += [_WEIGHTED.sub(r"NNCF\1[", path) for path in paths]
    return tuple(dict.fromkeys(f"{path}/{one}_{order}" for path in paths for one in operations))
