"""Questions whether there is any, such as a token for an expert, traced as if there always were.

Where there is none, what hangs on the answer has nothing to compute with. A graph that was traced so has to compute what the
model does where nothing is found, anywhere and in places (`nothing_found`); one of a model that does something else then, or to
something else than what it asks of, does not.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any

import sympy
import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode, ShapeEnv
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from fxcompress.capture.bins import BINCOUNT, in_so_many_bins
from fxcompress.capture.choices import Choices
from fxcompress.capture.decided import asks
from fxcompress.capture.lines import calling_line
from fxcompress.capture.replaced import replaced

aten = torch.ops.aten

_ANY = (Tensor.any, torch.any)
_COUNT = (Tensor.sum, torch.sum)
_PARTS = (Tensor.__getitem__, Tensor.unbind)  # which tolist() asks for
_COMPARE = {name: getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")}
_FINDING = (torch.where, torch.nonzero, Tensor.nonzero, torch.masked_select, Tensor.masked_select)
"""What gives as many values as are found; so does a mask as an index."""

_FOUND = (1, 2, 3, 1000)

_SEVERAL = 4
"""Of no more counts than these one question asks."""

_BITS = 3

_GRANTED = "that anything is found is taken for granted, since of nothing nothing comes"


class SomethingFound(TorchFunctionMode):
    """Answers whether there is any by yes, while a model is traced; `told` are notes of what was."""

    def __init__(self) -> None:
        super().__init__()
        self.told: dict[str, None] = {}
        self._answers, self._counts, self._symbols = WeakTensorKeyDictionary(), WeakTensorKeyDictionary(), set[sympy.Symbol]()
        self._choices, self.chosen = Choices(), False
        self._answering = replaced({(ShapeEnv, "evaluate_expr"): self._answered(ShapeEnv.evaluate_expr)})

    def __enter__(self) -> SomethingFound:
        self._answering.__enter__()
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        self._answering.__exit__(*raised)

    def _answered(self, evaluate: Callable[..., Any]) -> Callable[..., Any]:
        """`evaluate`, which answers by what is found where it has no answer."""

        def answered(environment: ShapeEnv, expression: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                return evaluate(environment, expression, *args, **kwargs)
            except GuardOnDataDependentSymNode:
                if (answer := self._if_found(expression)) is None:
                    raise
                self._note(_GRANTED)
                return answer

        return answered

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if asks(func, args) and args[0] in self._answers:
            self._note(_GRANTED)
            return self._answers[args[0]]
        if func in BINCOUNT and len(args) == 1 and (kwargs or {}).get("minlength"):
            self._note("nothing is counted beyond the least number of bins")
            func = in_so_many_bins
        result = func(*args, **(kwargs or {}))
        if self._choices.follow(func, args, kwargs or {}, result):
            self._symbols |= _symbols(result)
            self.chosen = True
        else:
            self._follow(func, args, kwargs or {}, result)
        return result

    def _follow(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Know `result` where it says whether anything is found, or how much."""
        compare = _COMPARE.get(getattr(func, "__name__", "").strip("_"))
        if func in _ANY and len(args) == 1 and not kwargs:
            self._answers[result] = True
        elif func is in_so_many_bins or (func in _COUNT and args[0].dtype == torch.bool):
            self._counts[result] = None
            self._answers[result] = True
        elif func in _PARTS and args[0] in self._counts:
            self._counts.update(dict.fromkeys(pytree.tree_leaves(result)))
        elif compare is not None and args[0] in self._counts and isinstance(args[1], int):
            answer = _if_found(lambda count: compare(count, args[1]))
            if answer is not None:
                self._answers[result] = answer
        elif func in _FINDING or (func is Tensor.item and args[0] in self._counts) or _is_masked(func, args):
            self._symbols |= _symbols(result) - _symbols((args, kwargs))

    def _if_found(self, expression: Any) -> Any:
        """The value of `expression` for whatever is found, where it has another for nothing; None otherwise."""
        if isinstance(expression, sympy.core.relational.Relational):
            expression = expression.func(expression.lhs - expression.rhs, 0)  # sums that one count tells apart
        symbols = list(expression.free_symbols)
        if not 0 < len(symbols) <= _SEVERAL or not self._symbols.issuperset(symbols):
            return None
        return _if_found(lambda *counts: expression.subs(dict(zip(symbols, counts, strict=True))), len(symbols))

    def _note(self, what: str) -> None:
        self.told.setdefault(f"{what}: {calling_line()}")


def _is_masked(func: Any, args: Any) -> bool:
    """Whether a tensor is indexed by masks, and so not by slices, whose lengths are of no masks."""
    indices = pytree.tree_leaves(args[1]) if func is Tensor.__getitem__ else []
    sliced = any(isinstance(one, slice) and one != slice(None) for one in indices)
    return not sliced and any(isinstance(one, Tensor) and one.dtype == torch.bool for one in indices)


def _if_found(question: Callable[..., Any], of: int = 1) -> Any:
    """What `question` `of` so many counts gives however much is found, where it gives something else for nothing; or None."""
    nothing, *found = itertools.starmap(question, [(0,) * of, *itertools.product(_FOUND, repeat=of)])
    return found[0] if len(set(found)) == 1 and nothing != found[0] else None


def _symbols(values: Any) -> set[sympy.Symbol]:
    """Those in the sizes of tensors among `values`, and in numbers among them."""
    found = set[sympy.Symbol]()
    leaves = pytree.tree_leaves(pytree.tree_map_only(slice, lambda one: (one.start, one.stop, one.step), values))
    for leaf in leaves:
        for size in leaf.shape if isinstance(leaf, Tensor) else (leaf,):
            if isinstance(size, torch.SymInt):
                found |= size.node.expr.free_symbols
    return found


def nothing_found(looped: Collection[str] = (), *, in_places: bool) -> Iterator[TorchDispatchMode]:
    """Contexts in which masks have nothing in them: all of them, and `in_places` some and not others as well.

    Where some have, the masks that are found at the `looped` lines are as they are: a graph does not have them, and goes over
    all their places, at each of which another mask may be empty.

    Which ones goes by how much is in a mask, so that one that is asked about and one that is used have the same fate only where
    they may well be the same.
    """
    yield _Nothing(torch.ones_like)
    for bit, value in itertools.product(range(_BITS if in_places else 0), (0, 1)):
        yield _Nothing(partial(_has_bit, bit=bit, value=value), looped)


def _has_bit(counts: Tensor, bit: int, value: int) -> Tensor:
    return (counts >> bit) % 2 == value


class _Nothing(TorchDispatchMode):
    """Empties masks in which there is as much as `is_emptied` says, given counts."""

    def __init__(self, is_emptied: Callable[[Tensor], Tensor], looped: Collection[str] = ()) -> None:
        super().__init__()
        self._is_emptied, self._looped = is_emptied, looped

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is aten.bincount.default or (func in (aten.sum.default, aten.sum.dim_IntList) and args[0].dtype == torch.bool):
            counts = func(*args, **kwargs)
            return torch.where(self._is_emptied(counts).bool(), 0, counts)
        if func is aten.nonzero.default and self._looped and calling_line() in self._looped:
            return func(*args)
        if func in (aten.nonzero.default, aten.any.default):
            args = (self._emptied(args[0]),)
        elif func is aten.masked_select.default:
            args = (args[0], self._emptied(args[1]))
        elif func.overloadpacket in (aten.index, aten.index_put, aten.index_put_, aten._unsafe_index):
            indices = [self._emptied(one) if one is not None and one.dtype == torch.bool else one for one in args[1]]
            args = (args[0], indices, *args[2:])
        return func(*args, **kwargs)

    def _emptied(self, mask: Tensor) -> Tensor:
        return torch.zeros_like(mask) if self._is_emptied(mask.count_nonzero()) else mask
