"""Scaled dot-product attention, as one operation and spelled out."""

from __future__ import annotations

from torch import fx

from fxcompress.ir.signature import argument
from fxcompress.pattern import maybe, op, var

q, k, v, mask, scale, inverse_scale = var("q k v mask scale inverse_scale")


def swaps_last_two(node: fx.Node) -> bool:
    """Whether the `transpose` or `permute` call `node` swaps the last two dimensions and leaves the others."""
    rank = node.meta["val"].dim()
    if rank < 2:
        return False
    if "dims" in node.kwargs or "permute" in str(node.target):
        order = [dimension % rank for dimension in argument(node, "dims")]
        return order == [*range(rank - 2), rank - 1, rank - 2]
    swapped = {argument(node, "dim0") % rank, argument(node, "dim1") % rank}
    return swapped == {rank - 1, rank - 2}


_scaled_q = op.mul(q, scale) | op.div(q, inverse_scale) | q
_keys = op.transpose(k, ...).where(swaps_last_two) | op.permute(k, ...).where(swaps_last_two)
_scaled_keys = op.mul(_keys, scale) | op.div(_keys, inverse_scale) | _keys | k
_product = op.matmul(_scaled_q, _scaled_keys)
_scores = op.mul(_product, scale) | op.div(_product, inverse_scale) | _product
_masked = op.add(_scores, mask) | op.masked_fill(_scores, mask, ...) | op.where(mask, _scores, ...) | _scores
_weights = op.softmax(_masked, -1, ...).named("weights")

composed_attention = op.matmul(maybe(op.dropout(_weights, ...)), v)
"""softmax(q @ k.T / sqrt(d) + mask) @ v (Vaswani et al., arXiv 1706.03762, equation 1).

The scale may multiply or divide the scores, or either operand before the product; `k` may come transposed already. A
mask is added, or fills the scores it hides. `scale`, `inverse_scale` and `mask` are None where there is none.
"""

fused_attention = op.scaled_dot_product_attention(q, k, v, mask, ..., scale=scale)
"""The same as one operation; its scale is 1 / sqrt(d) where `scale` is None."""

attention = composed_attention | fused_attention
"""Attention in either form."""
