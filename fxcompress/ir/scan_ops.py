"""A loop over the steps of a sequence, which ATen has no name for: its body, once, and what each step hands to the next."""

from __future__ import annotations

import functools
import json
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

_SIGN = "%"


@dataclass(frozen=True)
class Ref:
    """The value with this number in a body: what it is given, in order, and then what its calls give."""

    number: int


@dataclass(frozen=True)
class Body:
    """What is computed at each step.

    Attributes:
        calls: targets with their positional and keyword arguments, in which a `Ref` stands for a value.
        carried: what the next step is given in the place of each value that is carried.
        gathered: what is kept of each step.
    """

    calls: tuple[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]], ...]
    carried: tuple[Ref, ...]
    gathered: tuple[Ref, ...]

    def run(self, given: Iterable[Any], call: Callable[..., Any] | None = None) -> tuple[list[Any], list[Any]]:
        """What one step carries on and what is kept of it; `call`, where given, makes its calls."""
        values = list(given)
        for target, args, kwargs in self.calls:
            args, kwargs = pytree.tree_map_only(Ref, lambda ref: values[ref.number], (args, kwargs))
            values.append(target(*args, **kwargs) if call is None else call(target, args, kwargs))
        return [values[ref.number] for ref in self.carried], [values[ref.number] for ref in self.gathered]

    def converted(self, convert: Callable[[Any], Any]) -> Body:
        """The same with what `convert` gives for each literal argument."""
        calls = [(target, *pytree.tree_map(convert, (args, kwargs))) for target, args, kwargs in self.calls]
        return Body(tuple(calls), self.carried, self.gathered)

    def text(self) -> str:
        """As an argument of `scan`.

        Raises:
            ValueError: an argument of a call cannot be written.
        """
        calls = [[_name(target), *_plain([args, kwargs])] for target, args, kwargs in self.calls]
        held = {"calls": calls, "carried": _plain(self.carried), "gathered": _plain(self.gathered)}
        return json.dumps(held, separators=(",", ":"))

    @staticmethod
    @functools.lru_cache(maxsize=256)
    def of(text: str) -> Body:
        """The body that `text` is of."""
        held = json.loads(text)
        calls = tuple((_target(name), tuple(_whole(args)), _whole(kwargs)) for name, args, kwargs in held["calls"])
        return Body(calls, *(tuple(_whole(held[name])) for name in ("carried", "gathered")))


def _name(target: Any) -> str:
    return "getitem" if target is operator.getitem else str(target)


def _target(name: str) -> Callable[..., Any]:
    return operator.getitem if name == "getitem" else operator.attrgetter(name)(torch.ops)


def _plain(argument: Any) -> Any:
    """`argument` as JSON has it."""
    if isinstance(argument, Ref):
        return f"{_SIGN}{argument.number}"
    if isinstance(argument, torch.dtype):
        return {"dtype": str(argument).removeprefix("torch.")}
    if isinstance(argument, torch.device):
        return {"device": str(argument)}
    if isinstance(argument, list | tuple):
        return [_plain(one) for one in argument]
    if isinstance(argument, dict):
        return {"named": {name: _plain(one) for name, one in argument.items()}}
    if isinstance(argument, str | bool | int | float | None):
        return argument
    raise ValueError(f"{argument!r} cannot be an argument of a call in the body of a loop")


def _whole(argument: Any) -> Any:
    """What `_plain` wrote as `argument`."""
    if isinstance(argument, list):
        return [_whole(one) for one in argument]
    if isinstance(argument, dict):
        ((kind, held),) = argument.items()
        if kind == "named":
            return {name: _whole(one) for name, one in held.items()}
        return getattr(torch, held) if kind == "dtype" else torch.device(held)
    return Ref(int(argument[1:])) if isinstance(argument, str) and argument.startswith(_SIGN) else argument


def _steps(
    carried: Sequence[Tensor],
    scanned: Sequence[Tensor],
    held: Sequence[Tensor],
    sizes: Sequence[int],
    axes: Sequence[int],
    along: Sequence[int],
    body: str,
) -> list[Tensor]:
    """`body` at each place of a sequence, one after the other.

    Args:
        carried: what the first step is given, and each later one of that before; the body keeps their shapes.
        scanned: tensors of which each step is given its place, at least one.
        held: what every step is given as it is.
        sizes: whole numbers that every step is given.
        axes: along which axis of each of `scanned` the steps lie.
        along: along which axis of what is kept of the steps they lie.
        body: the `Body.text` of what a step does with `carried`, its place of `scanned`, `held` and `sizes`.

    Returns:
        What the last step carries on, and what is kept of all of them. Source: ONNX, Scan-11.
    """
    step = Body.of(body)
    kept: list[list[Tensor]] = [[] for _ in along]
    places = [one.unbind(axis) for one, axis in zip(scanned, axes)]
    for place in zip(*places, strict=True):
        carried, found = step.run([*carried, *place, *held, *sizes])
        for several, one in zip(kept, found):
            several.append(one)
    return [*(one.clone() for one in carried), *map(torch.stack, kept, along)]


scan = torch.library.custom_op("fxcompress::scan", _steps, mutates_args=())


@scan.register_fake
def _(
    carried: Sequence[Tensor],
    scanned: Sequence[Tensor],
    held: Sequence[Tensor],
    sizes: Sequence[int],
    axes: Sequence[int],
    along: Sequence[int],
    body: str,
) -> list[Tensor]:
    count = scanned[0].shape[axes[0]]
    first = [one.select(axis, 0) for one, axis in zip(scanned, axes)]
    _, found = Body.of(body).run([*carried, *first, *held, *sizes])
    kept = [one.new_empty([*one.shape[:axis], count, *one.shape[axis:]]) for one, axis in zip(found, along)]
    return [*map(torch.empty_like, carried), *kept]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    carried, scanned, held, *ctx.others = inputs
    ctx.counts = [len(carried), len(scanned), len(held)]
    ctx.save_for_backward(*carried, *scanned, *held)


def _backward(ctx: Any, gradients: Sequence[Tensor | None]) -> tuple[Any, ...]:
    """The gradients of the steps, which are computed once more."""
    with torch.enable_grad():
        inputs = [one.detach().requires_grad_(one.is_floating_point()) for one in ctx.saved_tensors]
        carried, scanned, held = _split(inputs, ctx.counts)
        outputs = _steps(carried, scanned, held, *ctx.others)
    pairs = [(one, g) for one, g in zip(outputs, gradients) if g is not None and one.requires_grad]
    trained = [one for one in inputs if one.requires_grad]
    found = torch.autograd.grad([one for one, _ in pairs], trained, [g for _, g in pairs], allow_unused=True)
    by_input = dict(zip(map(id, trained), found))
    several = _split([by_input.get(id(one)) for one in inputs], ctx.counts)
    return (*several, *(None if one else [] for one in ctx.others))  # an empty list is one of tensors to torch


def _split(several: list[Any], counts: Sequence[int]) -> list[list[Any]]:
    rest = iter(several)
    return [[next(rest) for _ in range(count)] for count in counts]


scan.register_autograd(_backward, setup_context=_save)

SCAN = torch.ops.fxcompress.scan.default
