"""What is asked of free sizes while a call is written, and the example alone answers: a file is of other sizes as well."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import sympy
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fxcompress.emit.translation import UntranslatableError

_LEARNT = ("replacements", "var_to_range", "axioms")


def environment_of(values: Any) -> Any:
    """What knows the free sizes of the fake tensors and numbers among `values`; None where all sizes are known."""
    for leaf in pytree.tree_leaves(values):
        sizes: Iterable[Any] = leaf.shape if isinstance(leaf, Tensor) else (leaf,)
        for size in sizes:
            if isinstance(size, torch.SymInt):
                return size.node.shape_env
    return None


@contextlib.contextmanager
def unguarded(environment: Any, who: str, *, constants_only: bool = False) -> Iterator[None]:
    """Refuse what asks `environment` something of a free size that the example answers, and have it forget the answer.

    Args:
        who: asks, for the error.
        constants_only: refuse only what takes a free size for a constant.

    Raises:
        UntranslatableError: it was asked.
    """
    if environment is None:
        yield
        return
    before = {name: dict(getattr(environment, name)) for name in _LEARNT}
    guards, questions, around = len(environment.guards), _Questions(environment), vars(environment).get("evaluate_expr")
    environment.evaluate_expr = questions  # its own remembers answers that it gave, and then tells nobody
    try:
        yield
    finally:
        del environment.evaluate_expr
        if around is not None:
            environment.evaluate_expr = around
        if questions.guesses:
            for name in _LEARNT:
                getattr(environment, name).clear()
                getattr(environment, name).update(before[name])
            del environment.guards[guards:]
            environment._update_version_counter()
    if questions.constants if constants_only else questions.guesses:
        raise UntranslatableError(f"{who} of it holds for the sizes of the example only")


class _Questions:
    """Counts those that the example alone answers, and those whose answer is that a size is a constant."""

    def __init__(self, environment: Any) -> None:
        self._evaluate: Callable[..., Any] = environment.evaluate_expr
        self._known: Callable[[Any], Any] = environment._maybe_evaluate_static
        self.guesses = self.constants = 0

    def __call__(self, expression: Any, *args: Any, **kwargs: Any) -> Any:
        guessed = kwargs.get("fallback_value") is None and not expression.is_number and self._known(expression) is None
        answer = self._evaluate(expression, *args, **kwargs)
        if guessed:
            self.guesses += 1
            is_truth = isinstance(answer, bool | sympy.logic.boolalg.BooleanAtom)
            self.constants += not is_truth or (isinstance(expression, sympy.Eq) and bool(answer))
        return answer
