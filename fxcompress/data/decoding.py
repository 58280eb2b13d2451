"""Inputs of one step of a language model that generates: tokens to read, behind a cache of those read before."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fxcompress.data.caches import cache_of, holds_keys, without_tokens
from fxcompress.errors import InputError, shown


@torch.no_grad()
def decoding_inputs(model: nn.Module, inputs: Mapping[str, Tensor], *, past: int | None = None) -> dict[str, Any]:
    """`inputs` as a step of generation: the tokens from `past` on, behind the cache of those before.

    A model of Hugging Face compiled on such inputs gives one file that reads a prompt and generates from it: its cache goes in
    as ``past_key_values.0.key`` and so on, of any length or none, and comes out as ``present.0.key``. States of what has been
    read go in as ``past_key_values.0.conv_state`` and ``.recurrent_state``, of zeros before the first token.

    Args:
        model: of `transformers`, one that returns a cache. It runs once, in the mode that it is in.
        inputs: ``input_ids`` ``[batch, tokens]`` int64, and maybe ``attention_mask`` of that shape, and what else the model
            takes.
        past: how many tokens have been read before; 0 leaves the cache empty. None for about half of them.

    Returns:
        Keyword inputs: ``input_ids`` ``[batch, tokens - past]``, ``attention_mask`` ``[batch, tokens]``, and the cache, whose
        keys and values are ``[batch, heads, past, channels]``. The mask is of the new tokens alone where the model keeps states
        and no keys.

    Raises:
        InputError: there are not more tokens than `past`, or the model returns no cache.
    """
    if not isinstance(inputs, Mapping) or "input_ids" not in inputs:
        found = list(inputs) if isinstance(inputs, Mapping) else type(inputs).__name__
        raise InputError(f"inputs of a decoder are a dict with input_ids, not {found}")
    tokens = inputs["input_ids"]
    if not isinstance(tokens, Tensor) or tokens.dim() != 2:
        raise InputError("input_ids is a tensor of shape [batch, tokens]")
    if past is not None and (not isinstance(past, int) or isinstance(past, bool)):
        raise InputError(f"past is a number of tokens, not {shown(past)}")
    length = tokens.shape[1]
    cut = length // 2 if past is None else past
    if not 0 <= cut < length:
        raise InputError(f"past={cut} of {length} tokens leaves none to read; give 0 to {length - 1}")
    mask = inputs.get("attention_mask", torch.ones_like(tokens))
    before = max(cut, 1)
    rest = {name: value for name, value in inputs.items() if name not in ("input_ids", "attention_mask")}
    try:
        result = model(input_ids=tokens[:, :before], attention_mask=mask[:, :before], use_cache=True, **rest)
    except TypeError as error:
        raise InputError(f"{type(model).__name__} cannot be called as a decoder is: {error}") from error
    cache = cache_of(result)
    if cache is None:
        raise InputError(f"{type(model).__name__} returns no cache; compile it on its plain inputs")
    if cut < before:
        cache = without_tokens(cache)
    if not holds_keys(cache):
        mask = mask[:, cut:]
    parameters = inspect.signature(model.forward).parameters
    name = "cache" if "cache" in parameters else "past_key_values"
    return {"input_ids": tokens[:, cut:], "attention_mask": mask, name: cache, **rest}
