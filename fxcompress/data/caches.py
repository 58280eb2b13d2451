"""Key and value caches of language models: how torch takes them apart, and what their tensors are called in files.

The names are those of Hugging Face's exporters, which pipelines look for: ``past_key_values.0.key`` goes in,
``present.0.key`` comes out; ``.decoder`` and ``.encoder`` stand before ``key`` where a decoder reads an encoder too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

_MODULE = "transformers.cache_utils"

_KINDS = ("DynamicCache", "EncoderDecoderCache")

_Layers = tuple[tuple[int, bool, int | None], ...]
"""Of each layer: its position, whether it holds keys and values, and the window it looks through."""


def register_caches() -> None:
    """Let torch take the caches of transformers apart, where transformers is in use, unless it has been told how."""
    module = sys.modules.get(_MODULE)
    for name, (flatten, unflatten) in zip(_KINDS, ((_layers_of, _cache_of), (_caches_of, _both_of))):
        kind = getattr(module, name, None)
        if kind is not None and kind not in pytree.SUPPORTED_NODES:
            pytree.register_pytree_node(
                kind,
                flatten,
                unflatten,
                serialized_type_name=f"{_MODULE}.{name}",
                flatten_with_keys_fn=partial(_with_keys, flatten),
            )


def cache_of(outputs: Any) -> Any:
    """The cache in what a model of transformers returned, ready to be taken apart; None where there is none."""
    register_caches()
    module = sys.modules.get(_MODULE)
    kinds = tuple(kind for name in _KINDS if (kind := getattr(module, name, None)))
    return next((value for value in dict(outputs).values() if isinstance(value, kinds)), None)


def _with_keys(flatten: Callable[[Any], tuple[list[Any], Any]], cache: Any) -> tuple[list[tuple[Any, Any]], Any]:
    children, context = flatten(cache)
    keys = _names(context) if context else ["decoder", "encoder"][: len(children)]
    return [(pytree.MappingKey(key), child) for key, child in zip(keys, children)], context


def cache_names(spec: pytree.TreeSpec) -> list[str] | None:
    """What each tensor of a cache is called, ``0.key`` or ``0.encoder.value``; None where `spec` is not that of a cache."""
    module = sys.modules.get(_MODULE)
    if module is None or spec.type is None:
        return None
    if spec.type is getattr(module, "DynamicCache", None) and isinstance(spec.context, tuple):
        return _names(spec.context)
    if spec.type is getattr(module, "EncoderDecoderCache", None):
        sides = zip(("decoder", "encoder"), map(cache_names, spec.children()))
        return [name.replace(".", f".{side}.") for side, names in sides for name in names or ()]
    return None


def _names(layers: _Layers) -> list[str]:
    return [f"{position}.{part}" for position, held, _ in layers if held for part in ("key", "value")]


def _layers_of(cache: Any) -> tuple[list[Tensor], _Layers]:
    layers = cache.layers
    held = [getattr(layer, "keys", None) is not None for layer in layers]
    tensors = [tensor for layer, some in zip(layers, held) if some for tensor in (layer.keys, layer.values)]
    windows = [getattr(layer, "sliding_window", None) for layer in layers]
    return tensors, tuple(zip(range(len(layers)), held, windows))


def _cache_of(tensors: Sequence[Any], layers: _Layers) -> Any:
    module = sys.modules[_MODULE]
    cache, rest = module.DynamicCache(), iter(tensors)
    cache.layers = [
        _filled(module.DynamicLayer() if window is None else module.DynamicSlidingWindowLayer(window), held, rest)
        for _, held, window in layers
    ]
    return cache


def _filled(layer: Any, held: bool, rest: Any) -> Any:
    """`layer` with the next keys and values of `rest`, if it is to hold any; nothing is computed, so nothing is traced."""
    if held:
        layer.keys, layer.values = next(rest), next(rest)
        layer.dtype, layer.device = layer.keys.dtype, layer.keys.device
        layer.is_initialized = True
        if hasattr(layer, "cumulative_length"):
            layer.cumulative_length = layer.keys.shape[-2]
    return layer


def _caches_of(cache: Any) -> tuple[list[Any], None]:
    return [cache.self_attention_cache, cache.cross_attention_cache], None


def _both_of(caches: Sequence[Any], _: None) -> Any:
    return sys.modules[_MODULE].EncoderDecoderCache(*caches)
