"""The pattern language: call-shaped expressions over the dialect's operations.

    from fxcompress.pattern.language import maybe, op, var

    x, w, b, gamma, beta, mean, variance = var("x w b gamma beta mean variance")
    conv = op.conv2d(x, w, b, ...).named("conv")
    conv_bn_relu = op.relu(op.batch_norm(conv, gamma, beta, mean, variance, ..., training=False))

* An argument that the pattern does not mention must equal the schema's default; `...` as the last positional argument
  waives that, and ``keyword=...`` waives it for one argument.
* Positional and keyword arguments are the same thing. Numbers agree within a relative 1e-6. A dimension counted from
  the back is the one counted from the front.
* The same variable means the same value. ``var("_")`` matches anything and remembers nothing.
* Operands of commutative operations match in either order (`dialect.COMMUTATIVE`).
* ``a | b`` matches where either does, trying `a` first. `maybe` makes a call optional.
* The values inside a match may not be used outside it, unless the pattern says `.shared()`.

Patterns are immutable; `.named`, `.where` and `.shared` return new ones. Used twice in an expression, an unnamed
pattern may match two different values of the same form; named, it stands for one.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from fxcompress.errors import PatternError
from fxcompress.ir.signature import signature
from fxcompress.pattern.binding import bind
from fxcompress.pattern.opnames import target_called, target_name

_SHOWN_DEPTH, _SHOWN_LENGTH = 4, 160  # calls inside one another, and characters, that a pattern's text shows


@dataclass(frozen=True, eq=False, repr=False)
class Pattern:
    """What a value in a graph may look like. Build one from `op`, `var` and literals."""

    name: str | None = field(default=None, kw_only=True)
    tests: tuple[Callable[[Any], Any], ...] = field(default=(), kw_only=True)

    def named(self, name: str) -> Pattern:
        """This pattern, its value bound to `name` in the match.

        Raises:
            PatternError: it has a name already, or `name` is no identifier.
        """
        if self.name is not None:
            raise PatternError(f"{self} already has the name {self.name!r}; it cannot be named {name!r} too")
        return replace(self, name=_identifier(name))

    def where(self, test: Callable[[Any], Any]) -> Pattern:
        """This pattern where `test`, given the value (an `fx.Node` or a literal), returns something true."""
        if not callable(test):
            raise PatternError(f".where takes a function of the matched value, not {test!r}")
        return replace(self, tests=(*self.tests, test))

    def shared(self) -> Pattern:
        """This call, whose value may be used outside the match as well."""
        raise PatternError(f"only a call's value can be .shared(); {self} always may be used elsewhere")

    @property
    def children(self) -> tuple[Pattern, ...]:
        """The patterns directly inside this one."""
        return ()

    def __or__(self, other: Any) -> Pattern:
        return Alternatives((*_options(self), *_options(lift(other))))

    def __ror__(self, other: Any) -> Pattern:
        return lift(other) | self

    def __add__(self, other: Any) -> Pattern:
        return op.add(self, other)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Pattern:
        return op.sub(self, other)

    def __rsub__(self, other: Any) -> Pattern:
        return op.rsub(self, other)

    def __mul__(self, other: Any) -> Pattern:
        return op.mul(self, other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Pattern:
        return op.div(self, other)

    def __rtruediv__(self, other: Any) -> Pattern:
        """``1 / x`` is how torch records it: the reciprocal, times the number."""
        return op.mul(op.reciprocal(self), other)

    def __matmul__(self, other: Any) -> Pattern:
        return op.matmul(self, other)

    def __pow__(self, other: Any) -> Pattern:
        return op.pow(self, other)

    def __neg__(self) -> Pattern:
        return op.neg(self)

    def __getitem__(self, index: Any) -> Pattern:
        return op[operator.getitem](self, index)

    __iter__ = None  # otherwise unpacking a pattern would index it forever

    def __bool__(self) -> bool:
        raise PatternError(f"a pattern has no truth value: write | for alternatives, not `or`; {self}")

    def __repr__(self) -> str:
        text = self._text(_SHOWN_DEPTH)
        return text if len(text) <= _SHOWN_LENGTH else f"{text[:_SHOWN_LENGTH]}…"

    def _text(self, depth: int) -> str:
        """This pattern in its own language; what lies more than `depth` deep is left out."""
        raise NotImplementedError

    def _labelled(self, text: str) -> str:
        return f"{self.name}={text}" if self.name else text


@dataclass(frozen=True, eq=False, repr=False)
class Variable(Pattern):
    """Any value, the same one wherever the name occurs; without a name, any value at all."""

    def _text(self, depth: int) -> str:
        return self.name or "_"


@dataclass(frozen=True, eq=False, repr=False)
class Literal(Pattern):
    """A number, truth value, string, None, dtype and the like."""

    value: Any

    def _text(self, depth: int) -> str:
        return self._labelled(f"{self.value:.6g}" if isinstance(self.value, float) else repr(self.value))


@dataclass(frozen=True, eq=False, repr=False)
class Items(Pattern):
    """A list or tuple of as many values, item by item."""

    items: tuple[Pattern, ...]

    @property
    def children(self) -> tuple[Pattern, ...]:
        return self.items

    def _text(self, depth: int) -> str:
        return self._labelled(f"[{', '.join(item._text(depth) for item in self.items)}]")


@dataclass(frozen=True, eq=False, repr=False)
class Call(Pattern):
    """A call of `target`. `operands` maps parameter names to patterns; any other argument must equal its default,
    unless it is named in `waived`."""

    target: Callable
    operands: dict[str, Pattern]
    waived: frozenset[str] = frozenset()
    escapes: bool = False

    def shared(self) -> Pattern:
        return replace(self, escapes=True)

    @property
    def children(self) -> tuple[Pattern, ...]:
        return tuple(self.operands.values())

    def _text(self, depth: int) -> str:
        label = self._labelled(target_name(self.target))
        if not depth:
            return f"{label}(…)"
        given = [(name, value._text(depth - 1)) for name, value in self.operands.items()]
        declared = signature(self.target)
        positional = declared.names[: declared.positional]
        leading = sum(1 for (name, _), expected in zip(given, positional) if name == expected)
        parts = [text for _, text in given[:leading]] + ["..."] * bool(self.waived)
        parts += [f"{name}={text}" for name, text in given[leading:]]
        return f"{label}({', '.join(parts)})"


@dataclass(frozen=True, eq=False, repr=False)
class Alternatives(Pattern):
    """Whatever any of the `options` matches, the first that does."""

    options: tuple[Pattern, ...]

    def shared(self) -> Pattern:
        shareable = [o.shared() if isinstance(o, (Call, Alternatives)) else o for o in self.options]
        return replace(self, options=tuple(shareable))

    @property
    def children(self) -> tuple[Pattern, ...]:
        return self.options

    def _text(self, depth: int) -> str:
        shown = [option._text(depth) for option in self.options[:3]] + ["…"] * (len(self.options) > 3)
        return self._labelled(f"({' | '.join(shown)})")


class _Operator:
    """Calling it with patterns and literals makes the pattern of such a call."""

    def __init__(self, target: Callable):
        self.target = target

    def __call__(self, *args: Any, **kwargs: Any) -> Call:
        """The pattern of a call with these arguments.

        Raises:
            PatternError: too many arguments, one given twice, an unknown keyword, a missing required one, or a value
                that no pattern can stand for.
        """
        given, waived = bind(self.target, args, kwargs)
        return Call(self.target, {name: lift(value) for name, value in given.items()}, waived)

    def __repr__(self) -> str:
        return f"op.{target_name(self.target)}"


class _OperatorTable:
    """`op.relu` is the dialect's operation of that name; ``op["div.Tensor_mode"]`` an explicit overload, and
    ``op[target]`` any other call target, such as an operation of the compiler's own or `operator.getitem`."""

    def __getattr__(self, name: str) -> _Operator:
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, key: str | Callable) -> _Operator:
        target = key if callable(key) else target_called(key)
        if isinstance(target, OpOverload) and target._schema.is_mutable:
            raise PatternError(f"{target} works in place, which the dialect does not allow; name its functional form")
        return _Operator(target)


op = _OperatorTable()
"""The dialect's operations, as makers of patterns."""


def var(names: str) -> Any:
    """Variables called `names`, separated by spaces: one variable for one name, else a tuple. ``_`` is anonymous."""
    made = tuple(Variable(name=None if name == "_" else _identifier(name)) for name in names.split())
    if not made:
        raise PatternError("var needs at least one name, as in var('x w b')")
    return made[0] if len(made) == 1 else made


def maybe(call: Pattern) -> Pattern:
    """`call`, or its first argument alone.

    Raises:
        PatternError: `call` is not a call, or has no first argument.
    """
    first = signature(call.target).names[0] if isinstance(call, Call) else None
    if not isinstance(call, Call) or first not in call.operands:
        raise PatternError(f"maybe takes a call with a first argument, such as maybe(op.relu(x)), not {call!r}")
    return call | call.operands[first]


def lift(value: Any) -> Pattern:
    """`value` as a pattern: lists item by item, anything else but a pattern as a literal.

    Raises:
        PatternError: `value` is something that no pattern can stand for, such as a tensor or a node.
    """
    if isinstance(value, Pattern):
        return value
    if isinstance(value, (list, tuple)):
        return Items(tuple(map(lift, value)))
    if value is None or isinstance(value, (bool, int, float, str, torch.dtype, torch.device)):
        return Literal(value)
    if isinstance(value, (torch.memory_format, torch.layout)):
        return Literal(value)
    kind = "a graph's node" if isinstance(value, fx.Node) else f"{type(value).__name__} {value!r}"
    raise PatternError(f"{kind} cannot stand in a pattern; use a variable, with .where(...) to constrain it")


def _options(pattern: Pattern) -> tuple[Pattern, ...]:
    plain = isinstance(pattern, Alternatives) and pattern.name is None and not pattern.tests
    return pattern.options if plain else (pattern,)  # type: ignore[attr-defined]


def _identifier(name: str) -> str:
    if not isinstance(name, str) or not name.isidentifier():
        raise PatternError(f"{name!r} cannot be a name in a pattern; use an identifier, such as 'conv'")
    return name
