"""What torch.export does not take though nothing comes of it: `len` of a tensor, the least of some sizes, a move of a module to
where it is, a look at whether a mask is the causal one."""

from __future__ import annotations

import builtins
import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.trace_rules import is_builtin_callable

from fxcompress.capture.replaced import replaced

_SYMBOLIC = torch.SymInt | torch.SymFloat
_NUMBERS = int | float | torch.SymInt | torch.SymFloat


@contextlib.contextmanager
def symbolic_lengths() -> Iterator[None]:
    """In this context ``len(x)`` of a tensor is ``x.shape[0]``, which may be symbolic: Python's own has to be a number."""
    own = builtins.len
    is_builtin_callable(own)  # torch.compile lists the built-in functions once, when it is first asked, and for good

    def length(one: Any, /) -> Any:
        return one.shape[0] if isinstance(one, Tensor) and one.dim() else own(one)

    with replaced({(builtins, "len"): length}):
        yield


@contextlib.contextmanager
def symbolic_extremes() -> Iterator[None]:
    """In this context `min` and `max` of numbers are symbolic where one of these is: Python's own takes the one that it is now.

    torch.export has some of its own of two whole numbers, and asks these for all else.
    """
    choices = {"min": torch.sym_min, "max": torch.sym_max}

    def extreme(own: Any, choose: Any, *args: Any, **options: Any) -> Any:
        if len(args) == 1 and isinstance(args[0], Iterator):
            args = ([*args[0]],)
        given = args[0] if len(args) == 1 and isinstance(args[0], Sequence) else args
        if (
            options
            or not any(isinstance(one, _SYMBOLIC) for one in given)
            or not all(isinstance(one, _NUMBERS) for one in given)
        ):
            return own(*args, **options)
        return functools.reduce(choose, given)

    own = {(builtins, name): getattr(builtins, name) for name in choices}
    with replaced({(home, name): functools.partial(extreme, one, choices[name]) for (home, name), one in own.items()}):
        yield


@contextlib.contextmanager
def idle_calls() -> Iterator[None]:
    """In this context calls that change nothing are passed by.

    ``module.to(...)`` is the module where it is there, and so in its dtype, already. `nn.TransformerEncoder` and the like do
    not look into a mask to choose a kernel: all compute the same.
    """
    own = nn.Module.to

    def to(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        device, dtype, _, layout = torch._C._nn._parse_to(*args, **kwargs)
        tensors = [*module.parameters(), *module.buffers()]
        there = all(device in (None, one.device) for one in tensors)
        so = all(dtype in (None, one.dtype) for one in tensors if one.is_floating_point() or one.is_complex())
        return module if there and so and layout is None else own(module, *args, **kwargs)

    def detect(mask: Tensor | None, is_causal: bool | None = None, size: int | None = None) -> bool:
        return is_causal is True

    with replaced({(nn.Module, "to"): to, (nn.modules.transformer, "_detect_is_causal_mask"): detect}):
        yield
