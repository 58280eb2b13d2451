"""Example inputs: where they come from."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from fxcompress.data.caches import register_caches
from fxcompress.errors import InputError

_HOW = (
    "pass them as compile(model, example_inputs=(torch.randn(1, 3, 224, 224),)), "
    "or by name as example_inputs={'input_ids': ids, 'attention_mask': mask}, or pass data=loader"
)


@dataclass(frozen=True)
class ExampleInputs:
    """One call of a model: ``model(*args, **kwargs)``.

    Raises:
        InputError: a list or dict among them holds itself, so that its tensors have no end.
    """

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        register_caches()
        try:
            pytree.tree_structure((self.args, self.kwargs))
        except RecursionError:
            raise InputError("a list or dict of the inputs holds itself, or is too deep to be read; take it out") from None

    def __repr__(self) -> str:
        named = [f"{name}={describe_value(value)}" for name, value in self.kwargs.items()]
        return f"ExampleInputs({', '.join([*map(describe_value, self.args), *named])})"

    def copy(self) -> ExampleInputs:
        """The same with tensors of its own, which a model may write to."""
        return ExampleInputs(*pytree.tree_map_only(Tensor, lambda t: t.detach().clone(), (self.args, self.kwargs)))

    def leaves(self) -> list[tuple[str, Any]]:
        """Every leaf value with the name that a reader would give it: ``inputs[0]``, ``attention_mask``."""
        found = [(f"inputs{pytree.keystr(path)}", leaf) for path, leaf in pytree.tree_leaves_with_path(self.args)]
        for name, value in self.kwargs.items():
            found += [(f"{name}{pytree.keystr(path)}", leaf) for path, leaf in pytree.tree_leaves_with_path(value)]
        return found


def describe_value(value: Any) -> str:
    """`value` in a few words: ``float32[1, 3, 224, 224]`` for a tensor."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__}({', '.join(map(describe_value, value))})"
    if isinstance(value, Mapping):
        return f"dict({', '.join(f'{k}={describe_value(v)}' for k, v in value.items())})"
    return repr(value) if value is None or isinstance(value, (int, float, str)) else type(value).__name__


def example_inputs(
    model: nn.Module | ExportedProgram, example_inputs: Any = None, data: Iterable[Any] | None = None
) -> ExampleInputs:
    """The inputs to trace `model` with.

    From `example_inputs` (a tensor, a tuple of positional inputs, or a dict of keyword inputs); else the first batch of
    `data`; else the conventions of Hugging Face (`dummy_inputs`), Lightning (`example_input_array`) and timm
    (`pretrained_cfg["input_size"]`). `data` is iterated: give it through `peek` where it can be read once only.

    Raises:
        InputError: there are none, or they cannot be used.
    """
    if example_inputs is not None:
        return _on_device(_from_argument(example_inputs), model, move=False)
    if data is not None:
        return _on_device(_from_batch(model, peek(data)[0]), model, move=True)
    if isinstance(model, ExportedProgram):
        if model.example_inputs is None:
            raise InputError(f"the exported program carries no example inputs; {_HOW}")
        args, kwargs = model.example_inputs
        return ExampleInputs(tuple(args), dict(kwargs))
    found = _by_convention(model)
    if found is None:
        raise InputError(f"no example inputs for {type(model).__name__}; {_HOW}")
    return _on_device(found, model, move=True)


def _from_argument(given: Any, what: str = "example_inputs") -> ExampleInputs:
    if isinstance(given, ExampleInputs):
        return given
    if isinstance(given, Tensor):
        return ExampleInputs((given,))
    if isinstance(given, Mapping):
        strange = [key for key in given if not isinstance(key, str)]
        if strange or not given:
            raise InputError(
                f"a dict of example inputs maps parameter names of forward to values, not {describe_value(given)}; {_HOW}"
            )
        return ExampleInputs((), dict(given))
    if isinstance(given, (tuple, list)):
        if not given:
            raise InputError(f"example_inputs is empty; {_HOW}")
        return ExampleInputs(tuple(given))
    how = "convert it with torch.as_tensor" if hasattr(given, "__array__") else _HOW
    raise InputError(f"{what} is a {type(given).__name__}, not a tensor, a tuple or a dict; {how}")


def _from_batch(model: Any, batch: Any) -> ExampleInputs:
    """The part of `batch` that the model takes: as many leading items as its forward has required parameters."""
    if isinstance(batch, Mapping):
        accepted = _parameters(model)
        takes_any = any(p.kind is p.VAR_KEYWORD for p in accepted)
        names = {p.name for p in accepted}
        return _from_argument({k: v for k, v in batch.items() if takes_any or not names or k in names} or batch)
    if isinstance(batch, (tuple, list)):
        wanted = max(1, sum(p.default is p.empty and p.kind in (0, 1) for p in _parameters(model)))
        if len(batch) < wanted:
            raise InputError(
                f"a batch of data holds {len(batch)} items, but forward of {type(model).__name__} requires {wanted}; {_HOW}"
            )
        return _from_argument(tuple(batch[:wanted]))
    return _from_argument(batch, "a batch of data")


def _parameters(model: Any) -> list[inspect.Parameter]:
    if isinstance(model, ExportedProgram):
        model = model.graph_module
    try:
        return list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):
        return []


def _by_convention(model: Any) -> ExampleInputs | None:
    for name in ("dummy_inputs", "example_input_array"):
        try:
            value = getattr(model, name, None)
        except NotImplementedError:
            continue
        if value is not None:
            return _from_argument(value)
    for name in ("pretrained_cfg", "default_cfg"):
        config = getattr(model, name, None) or {}
        size = config.get("input_size") if isinstance(config, Mapping) else getattr(config, "input_size", None)
        if size:
            return ExampleInputs((torch.randn(1, *size, generator=torch.Generator().manual_seed(0)),))
    return None


def _on_device(found: ExampleInputs, model: Any, move: bool) -> ExampleInputs:
    """`found` on the device of the model's weights: moved there, or an error where the user placed them elsewhere."""
    if not any(isinstance(leaf, Tensor) for _, leaf in found.leaves()):
        raise InputError(f"the example inputs {found!r} hold no tensor; {_HOW}")
    state = model.state_dict if isinstance(model, ExportedProgram) else model.state_dict(keep_vars=True)
    device = next((t.device for t in state.values() if isinstance(t, Tensor)), None)
    for name, leaf in found.leaves():
        if not isinstance(leaf, Tensor):
            continue
        if not move and device is not None and leaf.device != device:
            raise InputError(f"{name} is on {leaf.device}, but the model is on {device}; move it: {name}.to({str(device)!r})")
        if unusable := _unusable(leaf):
            raise InputError(f"{name} of the example inputs, {describe_value(leaf)}, {unusable}; {_HOW}")
    if not move or device is None:
        return found
    args, kwargs = pytree.tree_map_only(Tensor, lambda t: t.to(device), (found.args, found.kwargs))
    return ExampleInputs(args, kwargs)


def _unusable(tensor: Tensor) -> str | None:
    """Why nothing can be computed with `tensor`, or seen of it."""
    if tensor.is_meta:
        return "is on the meta device and holds no values"
    if tensor.layout is not torch.strided:
        return f"is {str(tensor.layout).removeprefix('torch.')}, not dense; call its to_dense()"
    return "holds no samples" if tensor.dim() and not tensor.shape[0] else None


def peek(data: Iterable[Any]) -> tuple[Any, Iterable[Any]]:
    """The first batch of `data`, and an iterable of all batches that can be read several times.

    A re-iterable (a list, a `DataLoader`) is handed back as it is; an iterator is `Remembered`.

    Raises:
        InputError: `data` cannot be iterated or is empty.
    """
    check_batches(data)
    readable = Remembered(data) if isinstance(data, Iterator) else data
    for first in readable:
        return first, readable
    raise InputError("data is empty; it must yield at least one batch of inputs")


def check_batches(data: Any) -> None:
    """Raise InputError where `data` is one batch, or nothing that has any."""
    one = isinstance(data, (Tensor, str, bytes, Mapping, nn.Module)) or getattr(data, "shape", None) == ()
    if one or not isinstance(data, Iterable):
        raise InputError(
            f"data is a {type(data).__name__}, not an iterable of batches; wrap a single batch in a list: data=[batch]"
        )


class Remembered:
    """An iterator that can be read several times: batches are kept as they are read, and no sooner."""

    def __init__(self, iterator: Iterator[Any]):
        self._iterator = iterator
        self._kept: list[Any] = []

    def __iter__(self) -> Iterator[Any]:
        for position in itertools.count():
            if position == len(self._kept):
                try:
                    self._kept.append(next(self._iterator))
                except StopIteration:
                    return
            yield self._kept[position]
