"""Key and value caches of language models: how torch takes them apart, and what their tensors are called in files.

The names are those of Hugging Face's exporters, which pipelines look for: ``past_key_values.0.key`` goes in,
``present.0.key`` comes out; ``.decoder`` and ``.encoder`` stand before ``key`` where a decoder reads an encoder too. A layer
that keeps a state of what it has read, of any length, has ``.conv_state`` and ``.recurrent_state``. A cache of a model's own,
derived from that of transformers, has what it holds beside the layers under its own name, ``0.linear_cache``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

_MODULE = "transformers.cache_utils"

_PLAIN, _BOTH = "DynamicCache", "EncoderDecoderCache"

_Layers = tuple[tuple[str, tuple[tuple[str, int], ...], tuple[str, ...]], ...]
"""Of each layer: the name of its class, what that is made with, and what it holds."""


class _Form(NamedTuple):
    """A cache without its tensors."""

    layers: _Layers
    beside: pytree.TreeSpec
    """What it holds beside the layers, by name."""


_STATES = {"conv_state": "conv_states", "recurrent_state": "recurrent_states"}
"""The attributes of a layer that hold its states, each by its number; the first one's name has none."""


def register_caches() -> None:
    """Let torch take the caches of transformers apart, where transformers is in use, unless it has been told how."""
    ways = [(kind, _parts_of, partial(_cache_of, kind)) for kind in _plain_kinds()]
    for kind, flatten, unflatten in [*ways, *((kind, _caches_of, _both_of) for kind in _kinds_of_both())]:
        if kind not in pytree.SUPPORTED_NODES:
            pytree.register_pytree_node(
                kind,
                flatten,
                unflatten,
                serialized_type_name=f"{kind.__module__}.{kind.__name__}",
                flatten_with_keys_fn=partial(_with_keys, flatten),
            )


def _plain_kinds() -> tuple[type, ...]:
    """The cache of transformers, and those that models derive from it."""
    kind = getattr(sys.modules.get(_MODULE), _PLAIN, None)
    found = [] if kind is None else [kind]
    for one in found:
        found += one.__subclasses__()
    return tuple(found)


def _kinds_of_both() -> tuple[type, ...]:
    kind = getattr(sys.modules.get(_MODULE), _BOTH, None)
    return () if kind is None else (kind,)


def cache_of(outputs: Any) -> Any:
    """The cache in what a model of transformers returned, ready to be taken apart; None where there is none."""
    register_caches()
    return next((value for value in dict(outputs).values() if _is_cache(value)), None)


def takes_cache(inputs: Any) -> bool:
    """Whether there is a cache among the `inputs` of a model, in any containers."""
    return any(cache_names(pytree.tree_structure(held)) is not None for held in pytree.tree_leaves(inputs, is_leaf=_is_cache))


def tensors_of_caches(inputs: Any) -> list[Tensor]:
    """The tensors that the caches among `inputs` hold."""
    held = pytree.tree_leaves(inputs, is_leaf=_is_cache)
    return [tensor for one in held if _is_cache(one) for tensor in pytree.tree_leaves(one)]


def _is_cache(value: Any) -> bool:
    return type(value) in (*_plain_kinds(), *_kinds_of_both())


def _with_keys(flatten: Callable[[Any], tuple[list[Any], Any]], cache: Any) -> tuple[list[tuple[Any, Any]], Any]:
    children, context = flatten(cache)
    keys = _names(context) if context else ["decoder", "encoder"][: len(children)]
    return [(pytree.MappingKey(key), child) for key, child in zip(keys, children)], context


def cache_names(spec: pytree.TreeSpec) -> list[str] | None:
    """What each tensor of a cache is called, ``0.key`` or ``0.encoder.value``; None where `spec` is not that of a cache."""
    if spec.type in _plain_kinds() and isinstance(spec.context, _Form):
        return _names(spec.context)
    if spec.type in _kinds_of_both():
        sides = zip(("decoder", "encoder"), map(cache_names, spec.children()))
        return [name.replace(".", f".{side}.", 1) for side, names in sides for name in names or ()]
    return None


def holds_cache(spec: pytree.TreeSpec) -> bool:
    """Whether what `spec` describes is a cache, or holds one in any containers."""
    return cache_names(spec) is not None or any(map(holds_cache, spec.children()))


def without_tokens(cache: Any) -> Any:
    """`cache` as it is before any token has been read: no keys and values, and states of zeros."""
    tensors, form = pytree.tree_flatten(cache)
    names = cache_names(form)
    assert names is not None
    empty = [
        tensor[:, :, :0] if name.endswith((".key", ".value")) else torch.zeros_like(tensor)
        for name, tensor in zip(names, tensors)
    ]
    return pytree.tree_unflatten(empty, form)


def holds_keys(cache: Any) -> bool:
    """Whether some layer of `cache` keeps the tokens that it has read, and no state of them alone."""
    names = cache_names(pytree.tree_structure(cache))
    return any(name.endswith(".key") for name in names or ())


def _names(form: _Form) -> list[str]:
    beside, _ = pytree.tree_flatten_with_path(pytree.tree_unflatten(range(form.beside.num_leaves), form.beside))
    paths = ([str(getattr(key, "key", getattr(key, "idx", key))) for key in path] for path, _ in beside)
    return [
        *(f"{position}.{part}" for position, (_, _, parts) in enumerate(form.layers) for part in parts),
        *(".".join([*rest, name]) for name, *rest in paths),
    ]


def _parts_of(cache: Any) -> tuple[list[Any], _Form]:
    held = list(map(_held, cache.layers))
    kinds, options = map(_kind, cache.layers), map(_options, cache.layers)
    own = vars(cache).keys() - vars(getattr(sys.modules[_MODULE], _PLAIN)()).keys()
    beside, form = pytree.tree_flatten({name: getattr(cache, name) for name in sorted(own)})
    layers = tuple(zip(kinds, options, map(tuple, held)))
    return [*(tensor for one in held for tensor in one.values()), *beside], _Form(layers, form)


def _kind(layer: Any) -> str:
    """The class of `layer` or, of a model's own, the one that it is derived from."""
    return next(kind.__name__ for kind in type(layer).__mro__ if kind.__module__ == _MODULE)


def _options(layer: Any) -> tuple[tuple[str, int], ...]:
    found = ((name, getattr(layer, name, None)) for name in ("sliding_window", "number_of_states"))
    return tuple((name, value) for name, value in found if value is not None)


def _held(layer: Any) -> dict[str, Tensor]:
    """What `layer` holds, by name."""
    pairs = {"key": getattr(layer, "keys", None), "value": getattr(layer, "values", None)}
    for name, attribute in _STATES.items():
        states = getattr(layer, attribute, {})
        pairs |= {f"{name}.{number}" if number else name: state for number, state in states.items()}
    return {name: tensor for name, tensor in pairs.items() if tensor is not None}


def _cache_of(kind: type, tensors: Sequence[Any], form: _Form) -> Any:
    module, rest = sys.modules[_MODULE], iter(tensors)
    cache: Any = object.__new__(kind)
    vars(cache).update(vars(getattr(module, _PLAIN)()))
    vars(cache)["layers"] = [
        _filled(getattr(module, name)(**dict(options)), {part: next(rest) for part in parts})
        for name, options, parts in form.layers
    ]
    vars(cache).update(pytree.tree_unflatten(list(rest), form.beside))
    return cache


def _filled(layer: Any, held: dict[str, Any]) -> Any:
    """`layer` with what it has `held`; nothing is computed, so nothing is traced."""
    for name, tensor in held.items():
        part, _, number = name.partition(".")
        layer.dtype, layer.device = tensor.dtype, tensor.device
        if part in _STATES:
            getattr(layer, _STATES[part])[int(number or 0)] = tensor
            getattr(layer, f"is_{_STATES[part]}_initialized")[int(number or 0)] = True
            layer.has_previous_state[int(number or 0)] = True
            if part == "conv_state":
                layer.conv_kernel_size[int(number or 0)] = tensor.shape[-1]
        else:
            setattr(layer, f"{part}s", tensor)
            layer.is_initialized = True
    if "key" in held and hasattr(layer, "cumulative_length"):
        layer.cumulative_length = layer.keys.shape[-2]
    return layer


def _caches_of(cache: Any) -> tuple[list[Any], None]:
    return [cache.self_attention_cache, cache.cross_attention_cache], None


def _both_of(caches: Sequence[Any], _: None) -> Any:
    return sys.modules[_MODULE].EncoderDecoderCache(*caches)
