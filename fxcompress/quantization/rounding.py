"""Which integers stand for a weight: those that disturb a layer's output least, rather than the nearest ones.

The output error of a linear map is quadratic in the weight error, ``(W - V) H (W - V)^T`` with H the second moment of what
the layer reads, so a weight may be rounded the wrong way to make up for its neighbours. (Nagel et al., "Up or Down?
Adaptive Rounding for Post-Training Quantization", arXiv 2004.10568, section 3.)
"""

from __future__ import annotations

import torch
from torch import Tensor

from fxcompress.quantization.descent import settle

BLOCK = 64
"""Columns that are settled before the error they leave reaches the columns after them, by one matrix product."""


def error(difference: Tensor, moment: Tensor) -> Tensor:
    """``trace(D H D^T)`` of each row D of `difference` [groups, rows, columns] in `moment` [groups, columns, columns]."""
    return ((difference @ moment) * difference).sum(-1)


def damped(moment: Tensor, damping: float) -> Tensor:
    """`moment` [groups, columns, columns] with `damping` times the mean of its diagonal added to the diagonal.

    That is a penalty on changes of the weight. Where all inputs are zero, it is a small one.
    """
    mean = moment.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-12)
    return moment + torch.diag_embed((damping * mean)[:, None].expand(moment.shape[:2]))


def descend(
    target: Tensor,
    moment: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    levels: tuple[int, int],
    sweeps: int = 4,
    free: Tensor | None = None,
) -> Tensor:
    """Integers q, as float, for which `error` of ``(q - zero_point) * scale - target`` is low in `moment`.

    Cyclic coordinate descent from the nearest integers: one integer of every row is set to its best value while the others
    stand, column after column, until nothing changes or `sweeps` are done. Each step can only lower the error of a row, so
    the result is never worse than the nearest integers. (Behdin et al., "QuantEase", arXiv 2309.01885, algorithm 1.)

    Args:
        target: the weight, [groups, rows, columns]: a convolution's groups, output channels of a group, and inputs of one
            output value.
        moment: second moment of the inputs, [groups, columns, columns], positive semidefinite.
        scale, zero_point: of the grid, broadcast against `target`.
        levels: lowest and highest integer.
        free: which integers may move, of the shape of `target`; None for all.
    """
    diagonal = moment.diagonal(dim1=1, dim2=2)
    # Columns with strong inputs go first: the weaker ones after them can still make up for their errors.
    order = diagonal.sum(0).argsort(descending=True)
    moment = (moment / diagonal.amax(1)[:, None, None].clamp(min=torch.finfo(torch.float32).tiny))[:, order][:, :, order]
    # In this order from here on, and before rows, so that what one step reads, a column of every row, lies together in memory.
    free = None if free is None else free.mT[:, order]
    wanted, scale, zero_point = (x.expand_as(target).mT[:, order] for x in (target, scale, zero_point))
    integers = (wanted / scale + zero_point).round().clamp(*levels)
    slope = moment @ ((integers - zero_point) * scale - wanted)  # half the gradient of the error
    blocks = [slice(start, min(start + BLOCK, len(order))) for start in range(0, len(order), BLOCK)]
    for left in reversed(range(sweeps)):
        moved = [_descend_block(block, integers, slope, moment, scale, levels, free, last=not left) for block in blocks]
        if not any(moved):
            break
    return torch.empty_like(integers).index_copy_(1, order, integers).mT


NEGLIGIBLE = 1e-12
"""An input with this share of the strongest one's power, or less, is as good as always zero: its weight stays."""


def _descend_block(
    block: slice,
    integers: Tensor,
    slope: Tensor,
    moment: Tensor,
    scale: Tensor,
    levels: tuple[int, int],
    free: Tensor | None,
    last: bool,
) -> bool:
    """Settle the columns `block` one after the other; whether any integer moved. `integers` and `slope` are updated.

    In the `last` sweep the slope of earlier columns is not, since nobody reads it.
    """
    within = moment[:, block, block].contiguous()
    curvature = within.diagonal(dim1=1, dim2=2)[..., None]
    steps, before = scale[:, block].contiguous(), integers[:, block]
    slopes, after = (one[:, block].clone(memory_format=torch.contiguous_format) for one in (slope, integers))
    newton = torch.where(curvature > NEGLIGIBLE, 1 / (curvature * steps), 0.0)
    if free is not None:
        newton = newton * free[:, block]
    settle(within, slopes, newton, steps, after, levels)
    moves = (after - before) * steps
    if not moves.any():
        return False
    integers[:, block] = after
    felt = slice(block.stop if last else 0, None)
    slope[:, felt].baddbmm_(moment[:, felt, block], moves)
    return True
