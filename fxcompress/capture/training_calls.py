"""Whether a model makes the same calls in training as in inference, but for the flag that tells the modes apart.

Two runs on fake tensors say it, in a tenth of the time that a second trace takes.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from fxcompress.capture.gradients import inference_as_no_grad
from fxcompress.capture.memory import forgetting
from fxcompress.capture.mode_reads import put_back_random_states, random_states
from fxcompress.capture.traceable import plain_kernels
from fxcompress.capture.twin import unwritten
from fxcompress.data.inputs import ExampleInputs

_Call = tuple[Callable[..., Any], list[Any], bool]
"""A function, its arguments, tensors as which they are, and whether it is told that it trains; a layer without modes is."""


def trains_alike(inference: Recorder, training: Recorder) -> bool:
    """Whether `training` is known to be `inference` with every layer told that it trains, but for what attentions drop."""
    if len(inference.calls) != len(training.calls):
        return False
    return all(f == g and trains and _same(a, b) for (f, a, _), (g, b, trains) in zip(inference.calls, training.calls))


def same_calls(left: Recorder, right: Recorder) -> bool:
    """Whether two runs make the same calls."""
    ours, theirs = left.calls, right.calls
    alike = all(f == g and t == u and _same(a, b) for (f, a, t), (g, b, u) in zip(ours, theirs))
    return alike and len(ours) == len(theirs) and left.dropped == right.dropped


def calls_of(model: nn.Module, example: ExampleInputs) -> Recorder | None:
    """The calls of torch's functions that `model` makes, in its present mode; None where a run cannot tell."""
    before = random_states()
    try:
        with fake_calls(model, example) as run, torch.enable_grad():
            calls = run()
    except Exception:  # a trace will tell why
        return None
    readable = calls.readable and random_states() == before
    return calls if readable else None


@contextlib.contextmanager
def fake_calls(model: nn.Module, example: ExampleInputs) -> Iterator[Callable[[], Recorder]]:
    """Runs `model` on fake tensors, one call after the other; what it remembers of them is put back in the end."""
    with _fake(model, example) as (state, args, kwargs):
        yield lambda: _recorded(state, (args, kwargs), lambda: torch.func.functional_call(model, state, args, kwargs))


@contextlib.contextmanager
def real_calls(model: nn.Module, example: ExampleInputs) -> Iterator[Callable[[], Recorder]]:
    """As `fake_calls`, on the example's values, where what `model` calls depends on them; what it writes is put back."""
    given, here = example.copy(), random_states()
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    try:
        with forgetting(model), unwritten(model), torch.random.fork_rng(devices=[]), _as_traced():
            yield lambda: _recorded(state, (given.args, given.kwargs), lambda: model(*given.args, **given.kwargs))
    finally:
        put_back_random_states(here)


def _recorded(state: Mapping[str, Tensor], given: Any, call: Callable[[], Any]) -> Recorder:
    counters = {id(tensor) for name, tensor in state.items() if name.endswith("num_batches_tracked")}
    learned = {name: tensor.requires_grad for name, tensor in state.items()}
    with Recorder(counters, [*state.values(), given]) as recorder:
        result = call()
    recorder.switched = [name for name, tensor in state.items() if tensor.requires_grad != learned[name]]
    for name in recorder.switched:
        state[name].requires_grad_(learned[name])
    form = pytree.tree_structure(result)
    recorder.calls.append((calls_of, [str(form), *recorder.literals(result)], True))
    return recorder


@contextlib.contextmanager
def _fake(model: nn.Module, example: ExampleInputs) -> Iterator[tuple[dict[str, Tensor], Any, Any]]:
    """The parameters and buffers of `model` and its arguments as fake tensors."""
    with forgetting(model), FakeTensorMode(allow_non_fake_inputs=True) as fake, _as_traced(), enable_python_dispatcher():
        state = {name: fake.from_tensor(t) for name, t in [*model.named_parameters(), *model.named_buffers()]}
        yield state, *pytree.tree_map_only(Tensor, fake.from_tensor, (example.args, example.kwargs))


@contextlib.contextmanager
def _as_traced() -> Iterator[None]:
    with plain_kernels(), inference_as_no_grad():
        yield


class Recorder(TorchFunctionMode):
    """The calls that are made in this context.

    Tensors are numbered, what is `known` first and others as they come up: in two runs of the same calls the same ones have
    the same numbers.

    Attributes:
        dropped: the probability that each attention drops, which is no argument of its call.
        switched: the parameters whose `requires_grad` the model sets to something else.
    """

    switched: Sequence[str] = ()

    def __init__(self, counters: Collection[int], known: Any) -> None:
        super().__init__()
        self.counters, self.readable = counters, True
        self.calls: list[_Call] = []
        self.dropped: list[float] = []
        self.numbered: dict[int, tuple[int, Tensor]] = {}  # and kept, so that no other has the same id
        self.literals(known)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.add_ and id(args[0]) in self.counters:  # batch norms count what nobody reads
            return func(*args, **kwargs)
        self.calls.append(self._call(func, args, kwargs))
        result = func(*args, **kwargs)
        if isinstance(result, Tensor) and _flag(func) is not None and id(result) in self.numbered:
            result = result.view_as(result)  # an idle dropout, whose result is its input
        self.literals(result)
        return result

    def _call(self, func: Any, args: Any, kwargs: Any) -> _Call:
        flag = _flag(func)
        if flag is None:
            self.readable &= func not in _MODES_BY_POSITION
            if func is F.scaled_dot_product_attention:
                args, kwargs = self._without_dropout(*args, **kwargs)
            return func, self.literals((args, kwargs)), True
        given = inspect.signature(func).bind(*args, **kwargs)
        given.apply_defaults()
        if func is F.multi_head_attention_forward and given.arguments["dropout_p"]:
            self.readable = False  # it calls dropout in training only
        trains = bool(given.arguments.pop(flag))
        return func, self.literals(dict(given.arguments)), trains

    def _without_dropout(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, dropout_p: float = 0.0, *rest: Any, **named: Any
    ) -> tuple[Any, Any]:
        self.dropped.append(dropout_p)
        return (query, key, value, attn_mask, *rest), named

    def has_read(self, tensor: Tensor) -> bool:
        """Whether a call reads `tensor`, or it is returned."""
        return id(tensor) in self.numbered

    def with_history(self) -> list[Tensor]:
        """The tensors of these calls that have been computed from learned ones, in their order."""
        return [tensor for _, tensor in self.numbered.values() if tensor.grad_fn is not None]

    def literals(self, value: Any) -> list[Any]:
        """The leaves of `value`, each tensor by its number, those that are bounds of slices too."""
        leaves = pytree.tree_leaves(pytree.tree_map_only(slice, lambda one: (one.start, one.stop, one.step), value))
        return [self._number(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves]

    def _number(self, tensor: Tensor) -> str:
        return f"%{self.numbered.setdefault(id(tensor), (len(self.numbered), tensor))[0]}"


_MODES_BY_POSITION = {
    *(torch.batch_norm, torch.dropout, torch.alpha_dropout, torch.feature_dropout, torch.rrelu, torch.native_dropout),
    *(torch._VF.lstm, torch._VF.gru, torch._VF.rnn_tanh, torch._VF.rnn_relu),
}


@cache
def _flag(func: Any) -> str | None:
    """The parameter of a Python function that says whether it trains."""
    if not inspect.isfunction(func):
        return None
    try:
        names = inspect.signature(func).parameters
    except ValueError:  # an operator such as `x ** 2`: a function of C in a wrapper
        return None
    return next((name for name in ("training", "use_input_stats") if name in names), None)


def _same(left: list[Any], right: list[Any]) -> bool:
    return len(left) == len(right) and all(a is b or (type(a) is type(b) and bool(a == b)) for a, b in zip(left, right))
