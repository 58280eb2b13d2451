"""Scaled dot-product attention, written out in matrix products and a softmax, or as one node of our own domain."""

from __future__ import annotations

import math

import onnx_ir as ir
import torch

from fxcompress.emit.forms import Form
from fxcompress.emit.translate.binarization import DOMAIN
from fxcompress.emit.translation import Emitter, translation

aten = torch.ops.aten

FUSED = "Attention"
"""The node: of queries, keys and values ``[batch, heads, tokens, channels]`` and, maybe, what is added to the scores."""


@translation(aten.scaled_dot_product_attention.default)
def attention(
    emit: Emitter,
    query: ir.Value,
    key: ir.Value,
    value: ir.Value,
    attn_mask: ir.Value | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> ir.Value:
    if dropout_p > 0:
        emit.refuse("attention dropout is active: call eval() on the model first")
    rank = emit.rank(query)
    swapped = [*range(rank - 2), rank - 1, rank - 2]
    factor = 1 / math.sqrt(emit.static(query, -1)[0]) if scale is None else float(scale)
    bias, shown = _bias(emit, query, key, attn_mask, is_causal)
    if enable_gqa:
        key, value = (_shared_heads(emit, heads, query) for heads in (key, value))
    if Form.FUSED_ATTENTION in emit.forms and rank == 4:
        mixed = emit.op(FUSED, query, key, value, bias, domain=DOMAIN, scale=factor)
        return mixed if shown is None else emit.Mul(mixed, emit.derived(shown, "any", lambda: emit.ReduceMax(shown, [-1])))
    scores = emit.MatMul(query, emit.transposed(key, swapped))
    scores = emit.Mul(scores, factor)
    if bias is not None:
        scores = emit.Add(scores, bias)
    weights = emit.Softmax(scores, axis=-1)
    # Not behind the product, where it would keep OpenVINO from fusing the transpose that follows.
    return emit.MatMul(weights if shown is None else emit.Mul(weights, shown), value)


def _shared_heads(emit: Emitter, heads: ir.Value, query: ir.Value) -> ir.Value:
    """Grouped-query attention: each key or value head repeated for the query heads that share it."""
    batch, count, length, width = emit.shape(heads)
    repeats = emit.static(query, -3)[0] // emit.static(heads, -3)[0]
    if repeats == 1:
        return heads
    tiled = emit.Tile(emit.Unsqueeze(heads, [2]), [1, 1, repeats, 1, 1])
    return emit.reshape(tiled, [batch, count, repeats, length, width], [batch, count * repeats, length, width])


def _bias(
    emit: Emitter, query: ir.Value, key: ir.Value, mask: ir.Value | None, is_causal: bool
) -> tuple[ir.Value | None, ir.Value | None]:
    """What to add to the scores, and what to multiply the weights with (None: nothing).

    torch gives zeros where a mask hides everything, a softmax of equal scores does not.
    """
    dtype = emit.dtype(query)
    if is_causal:
        return _causal(emit, query, key, dtype), None
    if mask is None or _hides_nothing(emit, mask):
        return None, None
    zero, low = (emit.constant(torch.tensor(v, dtype=dtype)) for v in (0.0, torch.finfo(dtype).min))
    if emit.dtype(mask) != torch.bool:
        mask = emit.cast(mask, dtype)
        if not _may_hide_all(emit, mask):
            return mask, None
        shown = emit.derived(mask, "shown", lambda: emit.cast(emit.Greater(mask, -math.inf), dtype))
        return emit.derived(mask, "bias", lambda: emit.Max(mask, low)), shown
    bias = emit.derived(mask, ("bias", dtype), lambda: emit.Where(mask, zero, low))
    return bias, emit.derived(mask, ("shown", dtype), lambda: emit.cast(mask, dtype))


def _hides_nothing(emit: Emitter, mask: ir.Value) -> bool:
    """A constant boolean mask, perhaps expanded to the batch, that is true everywhere."""
    producer = mask.producer()
    source = producer.inputs[0] if producer is not None and producer.op_type == "Expand" else mask
    data = emit.data(source) if source is not None else None
    return data is not None and data.dtype == torch.bool and bool(data.all())


def _may_hide_all(emit: Emitter, mask: ir.Value) -> bool:
    """Whether a row of the mask may be minus infinity throughout: a constant shows it, and what comes from infinity may."""
    data = emit.data(mask)
    if data is not None:
        return bool((data == -math.inf).all(-1).any())
    seen: set[ir.Value] = set()
    sources = [mask]
    while sources:
        value = sources.pop()
        if value in seen:
            continue
        seen.add(value)
        producer, data = value.producer(), emit.data(value)
        if producer is not None:
            sources += [source for source in producer.inputs if source is not None]
        elif data is None or not data.is_floating_point():  # an input, or what runtimes compute sizes and indices with
            if data is None and emit.dtype(value).is_floating_point:
                return True
        elif not data.isfinite().all():
            return True
    return False


def _causal(emit: Emitter, query: ir.Value, key: ir.Value, dtype: torch.dtype) -> ir.Value:
    """Minus infinity above the diagonal: a query sees the keys up to its own position."""
    rows, columns = emit.shape(query)[-2], emit.shape(key)[-2]
    if isinstance(rows, int) and isinstance(columns, int):
        return emit.constant(torch.full((rows, columns), -math.inf, dtype=dtype).triu(1))
    row, column = (emit.Range(emit.size_scalar(0), emit.size_scalar(size), emit.size_scalar(1)) for size in (rows, columns))
    zero, low = (emit.constant(torch.tensor(v, dtype=dtype)) for v in (0.0, -math.inf))
    return emit.Where(emit.LessOrEqual(column, emit.Unsqueeze(row, [1])), zero, low)
