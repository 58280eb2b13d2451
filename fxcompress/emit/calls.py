"""How a call is written: as what it gives, by our translation, by torchlib's, or as the calls torch decomposes it into."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import onnx_ir as ir
import torch
from torch.utils import _pytree as pytree

from fxcompress.emit import decomposition, torchlib
from fxcompress.emit.complex_parts import PARTWISE, write_parts
from fxcompress.emit.constants import computed
from fxcompress.emit.fractions import fraction
from fxcompress.emit.guards import environment_of, unguarded
from fxcompress.emit.promotion import is_mixed, promoted
from fxcompress.emit.translation import TAKE_COMPLEX, TRANSLATIONS, Emitter, UntranslatableError
from fxcompress.emit.types import onnx_type

_INTEGERS_IN_BYTES = {ir.DataType.INT4, ir.DataType.UINT4}


def write_call(emit: Emitter, args: Any, kwargs: Any) -> Any:
    """Append the nodes for the call of ``emit.node`` with these arguments, and declare what it gives.

    Returns:
        An `onnx_ir.Value`, or a sequence of them (None for a result that is not written).

    Raises:
        UntranslatableError: there is no way to write it; says what the first that was tried met.
    """
    node, result = emit.node, emit.result
    reason = ""
    for name, way in _ways(emit, args, kwargs):
        emit.node, emit.result = node, result
        try:
            written = way()
        except UntranslatableError as error:
            if error.final:
                raise
            missing = f"{node.target} has no translation, and torch's decomposition of it does not help: {error}"
            reason = reason or (missing if name == "decomposed" else str(error))
            continue
        emit.node, emit.result = node, result
        _declare_results(emit, written)
        emit.ways[node.name] = name
        return written
    raise UntranslatableError(reason or f"{node.target} has no translation")


def _ways(emit: Emitter, args: Any, kwargs: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The ways to write a call with their names, in the order in which they are tried."""
    target = emit.node.target
    leaves = pytree.tree_leaves((args, kwargs))
    fakes = [emit.fake(leaf) for leaf in leaves if isinstance(leaf, ir.Value)]
    complex_inputs = any(fake.is_complex() for fake in fakes)
    if not complex_inputs and (value := computed(emit, args, kwargs, leaves)) is not None:
        yield "constant", lambda: value
    complex_results = any(isinstance(r, torch.Tensor) and r.is_complex() for r in pytree.tree_leaves(emit.result))
    ours = TRANSLATIONS.get(target)  # type: ignore[arg-type]
    if ours is not None and (target in TAKE_COMPLEX or not (complex_inputs or complex_results)):
        write = partial(_write_ours, emit, ours, args, kwargs)
        yield "ours", _guarded(emit, "the translation", write) if _fractions(args, kwargs) else write
    theirs = torchlib.find(target, complex_inputs=complex_inputs)
    if theirs is not None:
        yield "torchlib", _guarded(emit, "torchlib's translation", torchlib.write, emit, target, theirs, args, kwargs, True)
    if complex_inputs and complex_results and target in PARTWISE:
        yield "ours", partial(write_parts, emit, args, kwargs)
    for inner in decomposition.find(target):
        yield "decomposed", _guarded(emit, "torch's decomposition", decomposition.write, emit, inner, args, kwargs, write_call)
    if theirs is not None:
        yield "torchlib", _guarded(emit, "torchlib's translation", torchlib.write, emit, target, theirs, args, kwargs, False)


def _fractions(args: Any, kwargs: Any) -> bool:
    """Whether a number among the arguments is computed from free sizes: not all that take numbers take such."""
    return any(isinstance(leaf, torch.SymFloat) for leaf in pytree.tree_leaves((args, kwargs)))


def _write_ours(emit: Emitter, write: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    args, kwargs = pytree.tree_map_only(torch.SymFloat, partial(fraction, emit), (args, kwargs))
    if is_mixed(args, kwargs):
        args, kwargs = promoted(emit, emit.node.target, args, kwargs)
    leaves = pytree.tree_leaves((args, kwargs))
    given = [leaf.meta.get("val") if isinstance(leaf, ir.Value) else leaf for leaf in leaves]
    with unguarded(environment_of((emit.result, given)), "the translation"):
        return write(emit, *args, **kwargs)


def _guarded(emit: Emitter, what: str, write: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    """`write` as a way that fails as ours do, whatever goes wrong in code that is not ours."""

    def way() -> Any:
        target = emit.node.target
        try:
            return write(*arguments)
        except UntranslatableError:
            raise
        except Exception as error:
            cause = error.__cause__ or error
            raise UntranslatableError(f"{what} of {target} failed: {type(cause).__name__}: {cause}") from error

    return way


def _declare_results(emit: Emitter, written: Any) -> None:
    """Give what the call appended its name, shape and type; a result that existed before keeps its own."""
    node, fakes = emit.node, emit.result
    if isinstance(written, ir.Value):
        fake = fakes if isinstance(fakes, torch.Tensor) else fakes[0]
        return _declare_result(emit, written, fake, node.name, node.name)
    one_node = len({value.producer() for value in written if value is not None}) == 1
    for index, (value, fake) in enumerate(zip(written, fakes)):
        name = f"{node.name}_{index}"
        if value is not None:
            _declare_result(emit, value, fake, name, node.name if one_node else name)


def _declare_result(emit: Emitter, value: ir.Value, fake: torch.Tensor, name: str, node_name: str) -> None:
    producer = value.producer()
    if producer is not None and "val" not in value.meta:
        value.name = emit.unique(name)
        producer.name = node_name
        declare(emit, value, fake)


def declare(emit: Emitter, value: ir.Value, fake: torch.Tensor) -> None:
    """Give `value` the shape and type of `fake`; complex numbers are pairs along one more axis at the end."""
    value.meta["val"] = fake
    emit.symbols.bind_result(value, fake.shape)
    value.shape = emit.symbols.declared([*fake.shape, 2] if fake.is_complex() else fake.shape)
    if value.dtype not in _INTEGERS_IN_BYTES:
        value.dtype = onnx_type(fake.dtype)
