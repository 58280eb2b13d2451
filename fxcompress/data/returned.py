"""What models return, in the order in which torch puts it together again.

A result of Hugging Face lists its fields as they were filled; one that torch has put together lists them as they are declared.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.utils import _pytree as pytree


def put_together(outputs: Any) -> Any:
    """`outputs`, taken apart and put together again."""
    leaves, form = pytree.tree_flatten(outputs)
    return pytree.tree_unflatten(leaves, form)


@contextmanager
def outputs_put_together(model: nn.Module) -> Iterator[None]:
    """In this context `model` returns what it does put together again."""
    handle = model.register_forward_hook(lambda module, args, outputs: put_together(outputs))
    try:
        yield
    finally:
        handle.remove()
