"""Idle dropouts are traced as values of their own: torch returns their input, which later calls then read behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, fx

from fxcompress.capture.replaced import replaced
from fxcompress.capture.traced_kernels import traced_by

aten = torch.ops.aten

DROPOUTS = (aten.dropout.default, aten.feature_dropout.default, aten.alpha_dropout.default, aten.feature_alpha_dropout.default)
_LIBRARY = torch.library.Library("fxcompress", "FRAGMENT")
_LIBRARY.define("kept_dropout(Tensor input, float p, bool train, str name) -> Tensor")
_LIBRARY.impl("kept_dropout", lambda input, p, train, name: input.clone(), "CompositeExplicitAutograd")
_KEPT = torch.ops.fxcompress.kept_dropout.default
_IN_PLACE = ("dropout_", "feature_dropout_", "alpha_dropout_", "feature_alpha_dropout_")


@contextmanager
def distinct_dropouts() -> Iterator[None]:
    """In this context, the result of a dropout of fake tensors is never its input, and one in place writes to it."""
    written = {name: partial(_written, getattr(torch, name.removesuffix("_"))) for name in _IN_PLACE}
    in_place = {(owner, name): function for name, function in written.items() for owner in (torch, torch._VF)}
    with replaced(in_place), traced_by(dict.fromkeys(DROPOUTS, _dropped)):
        yield


def _dropped(x: Tensor, p: float, train: bool) -> Tensor:
    return torch.empty_like(x)


def _written(dropout: Callable[[Tensor, float, bool], Tensor], input: Tensor, p: float, train: bool) -> Tensor:
    return input.copy_(dropout(input, p, train))


def keep_dropouts(graph: fx.Graph) -> None:
    """Put what torch's functionalisation passes by in the place of dropouts, of which it would leave idle ones out."""
    for node in graph.nodes:
        if node.target in DROPOUTS:
            node.args = (*node.args, node.target.overloadpacket.__name__)
            node.target = _KEPT


def put_back_dropouts(graph: fx.Graph) -> None:
    """Undo `keep_dropouts`."""
    for node in graph.find_nodes(op="call_function", target=_KEPT):
        *arguments, name = node.args
        node.target, node.args = getattr(aten, name).default, tuple(arguments)
