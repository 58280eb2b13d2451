"""What makes a model traceable: what torch stops at, or sees nothing of, computes the same in operations that a graph has."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

import torch
from torch import nn
from torch._subclasses import fake_tensor
from torch.fx._lazy_graph_module import _use_lazy_graph_module

from fxcompress.capture.autocasts import without_autocast
from fxcompress.capture.cross_map import cross_map_norms_as_operations
from fxcompress.capture.gradients import OwnGradients, data_as_detached, inference_as_no_grad, own_gradients
from fxcompress.capture.idle_dropouts import distinct_dropouts
from fxcompress.capture.memory import forgetting
from fxcompress.capture.suppression import suppression_of_any_number
from fxcompress.capture.tolerated import idle_calls
from fxcompress.capture.traced_kernels import flexible_attention_written_out, scores_all_at_once, traced_by
from fxcompress.data.returned import outputs_put_together
from fxcompress.ir.recurrent_shapes import RECURRENT_SHAPES


@contextlib.contextmanager
def traceable(model: nn.Module) -> Iterator[tuple[OwnGradients, list[str]]]:
    """In this context torch traces `model`; collects what it does to gradients, and the autocasts that are left out."""
    with (
        own_gradients() as gradients,
        data_as_detached(),
        inference_as_no_grad(),
        plain_kernels(),
        without_autocast() as casts,  # innermost, which is the one that notes
        forgetting(model),
        outputs_put_together(model),
        cross_map_norms_as_operations(),
        distinct_dropouts(),
        suppression_of_any_number(),
        idle_calls(),
        scores_all_at_once(),
        _use_lazy_graph_module(True),  # the code of a program is never run, and written anew by every step of torch's
        warnings.catch_warnings(),
    ):
        # Of nn.LSTM, which reassigns its list of weights; they stay where they are.
        warnings.filterwarnings("ignore", "The tensor attributes? .* assigned during export")
        yield gradients, casts


@contextlib.contextmanager
def plain_kernels() -> Iterator[None]:
    """Without autocast, what `torch.compile` made, and the fused kernels of encoder layers, which hide their operations.

    What was compiled reads memory, which fake tensors do not have. Of calls on those that fail, torch prints the traceback as
    well as it raises the error, which is told in its place.
    """
    enabled, log = torch.backends.mha.get_fastpath_enabled(), logging.getLogger(fake_tensor.__name__)
    torch.backends.mha.set_fastpath_enabled(False)
    log.addFilter(_no_record)
    try:
        eager = torch.compiler.set_stance("force_eager")
        with traced_by(RECURRENT_SHAPES), flexible_attention_written_out(), without_autocast(), eager:
            yield
    finally:
        log.removeFilter(_no_record)
        torch.backends.mha.set_fastpath_enabled(enabled)


def _no_record(record: logging.LogRecord) -> bool:
    return record.exc_info is None
