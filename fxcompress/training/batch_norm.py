"""Batch-norm adaptation: statistics of the compressed model, before it trains or without it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.utils import _pytree as pytree

from fxcompress.data.batch import Batch
from fxcompress.data.fitting import fitting
from fxcompress.errors import InputError
from fxcompress.ir import modes


def adapt_batch_norm(compiled: Any, data: Iterable[Any], samples: int | None = 2000) -> int:
    """Let the batch norms of a compiled model take their running statistics from `data`, and nothing else change.

    What was quantized or pruned shifts the values that batch norms see. Everything but the batch norms runs as in inference,
    and each batch counts with their momentum. The model's mode plays no part.

    Args:
        compiled: a `Compiled` model whose batch norms are not folded.
        data: batches as `compile` takes them.
        samples: at most so many, in whole batches; None for all of the data.

    Returns:
        How many samples were run.

    Raises:
        InputError: the model has no such batch norm, `samples` is not positive, there is no data, or a batch does not fit.
    """
    if samples is not None and samples < 1:
        raise InputError(f"adapt_batch_norm needs at least one sample, not samples={samples}")
    twin, seen = modes.inference_twin(compiled), 0
    if not modes.set_batch_norm_training(twin):
        raise InputError("no batch norm of this model takes statistics; leave FoldBatchNorm() out of its passes")
    with torch.no_grad():
        for inputs in fitting(data, compiled.compilation.example, compiled.graph):
            twin(*inputs.args, **inputs.kwargs)
            seen += Batch.of(compiled.graph).count(pytree.tree_leaves((inputs.args, inputs.kwargs)))
            if samples is not None and seen >= samples:
                break
    if not seen:
        raise InputError("the data is empty: give at least one batch")
    return seen
