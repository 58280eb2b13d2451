"""Rounding that is learned: each integer of a weight moves between two neighbours until it has settled for one.

Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", arXiv 2004.10568, section 3.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fxcompress.quantization.rounding import error

ZETA, GAMMA = 1.1, -0.1
"""How far the sigmoid is stretched, so that it reaches 0 and 1 (the paper's equation 23)."""

WARM_UP = 0.2
"""The share of the iterations that pass before the integers are urged to settle."""

BETA = 20.0, 2.0
"""The exponent of equation 24, at first and at last: large, it urges those near an integer only."""


def learn(
    integers: Tensor,
    target: Tensor,
    moment: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    levels: tuple[int, int],
    iterations: int,
    learning_rate: float,
    regularization: float,
) -> Tensor:
    """Integers q, as float, for which `error` of ``(q - zero_point) * scale - target`` is lower in `moment`.

    By gradient, from the present `integers`: each may move to its neighbour on the side of `target`. It starts in the
    middle between its present place and the target's, within these two. A row whose error this does not lower keeps its
    integers. The objective is equation 21 of the paper for all samples at once, since the error of a linear map needs
    their second moment alone; each row's is a share of what it starts with, so that `regularization` means the same in
    every layer.

    Args:
        integers, target: [groups, rows, columns].
        moment: second moment of the inputs, [groups, columns, columns], positive semidefinite.
        scale, zero_point: of the grid, broadcast against `target`.
        levels: lowest and highest integer.
        iterations: steps of Adam, at `learning_rate`.
        regularization: weight of the mean of equation 24 over a row.
    """
    wanted = target / scale + zero_point
    lower = torch.where(wanted < integers, integers - 1, integers).clamp(levels[0], levels[1] - 1)
    before = error((integers - zero_point) * scale - target, moment)
    unit = before.clamp(min=torch.finfo(torch.float32).tiny)[..., None]
    with torch.inference_mode(False), torch.enable_grad():
        share = ((integers + wanted) / 2 - lower).clamp(0.01, 0.99)
        logits = torch.logit((share - GAMMA) / (ZETA - GAMMA)).requires_grad_()  # V of the paper
        optimizer = torch.optim.Adam([logits], lr=learning_rate)
        for iteration in range(iterations):
            up = (torch.sigmoid(logits) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)  # equation 23
            difference = (lower + up.detach() - zero_point) * scale - target
            slope = 2 * (difference @ moment) * scale / unit  # by `up`: one product, where autograd would take two
            loss = (slope * up).sum()
            if iteration >= WARM_UP * iterations:
                undecided = 1 - (2 * up - 1).abs().pow(_beta(iteration / iterations))  # equation 24
                loss = loss + regularization * undecided.mean(-1).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    learned = torch.where(logits.detach() >= 0, lower + 1, lower)
    after = error((learned - zero_point) * scale - target, moment)
    return torch.where((after < before)[..., None], learned, integers)


def _beta(progress: float) -> float:
    """The exponent when this share of the iterations is done: along half a wave of the cosine."""
    first, last = BETA
    return last + (first - last) * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP))) / 2
