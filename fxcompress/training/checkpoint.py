"""Checkpoints: what a run needs to go on, beside the optimizer, as plain data that is looked through before it is loaded."""

from __future__ import annotations

import copy
import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxcompress.data.inputs import describe_value
from fxcompress.errors import CheckpointError, InputError
from fxcompress.ir.edit import attribute
from fxcompress.ir.modes import running_variances
from fxcompress.ir.state import ChecksState
from fxcompress.options import fits
from fxcompress.training.scheduler import Scheduler

FORMAT = 2
"""The version of what `take_checkpoint` returns; a change of its keys or their meaning is a new one."""

_SHOWN = 5


def take_checkpoint(
    model: nn.Module,
    scheduler: Scheduler,
    passes: Iterable[object],
    computes: Mapping[str, str],
    config: str | None = None,
) -> dict[str, Any]:
    """A checkpoint of `model`, which was compiled with `passes`: dicts, lists, strings, numbers and tensors.

    Keys: ``format``, `FORMAT`; ``passes``; ``computes``, what tells this model from another whose tensors are called alike;
    ``model``, a copy of its state; ``scheduler``, its state; ``config``, the text of the configuration, None where it cannot
    be written; ``digest``, of all that.
    """
    state = copy.deepcopy(dict(model.state_dict()))
    return sealed(
        {
            "format": FORMAT,
            "passes": texts(passes),
            "computes": dict(computes),
            "model": state,
            "scheduler": scheduler.state_dict(),
            "config": config,
        }
    )


def load_checkpoint(
    model: nn.Module,
    scheduler: Scheduler,
    passes: Iterable[object],
    computes: Mapping[str, str],
    checkpoint: Mapping[str, Any],
) -> None:
    """Put `checkpoint` into `model` and `scheduler`, or raise and leave both as they are.

    Raises:
        CheckpointError: it is no checkpoint, of another format, other passes or another model, it was damaged, or a value in
            it is none that the module or schedule it belongs to can have; says what differs.
    """
    _check_form(checkpoint)
    _check_passes(checkpoint["passes"], texts(passes))
    _check_state(checkpoint["model"], model.state_dict())
    _check_computation(checkpoint["computes"], computes)
    try:
        intact = checkpoint["digest"] == digest(checkpoint)
    except Exception:  # it holds itself, or what does not print
        intact = False
    if not intact:
        raise CheckpointError("the checkpoint was changed after it was taken: its digest is another; take an older copy of it")
    _check_values(model, scheduler, checkpoint)
    before = take_checkpoint(model, scheduler, passes, computes)
    try:
        _put(model, scheduler, checkpoint)
    except Exception as problem:
        _put(model, scheduler, before)
        raise CheckpointError(f"the checkpoint cannot be loaded: {problem!r}; was it changed after it was taken?") from problem


def sealed(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """`checkpoint` with the digest of what it holds."""
    return {**checkpoint, "digest": digest(checkpoint)}


def digest(checkpoint: Mapping[str, Any]) -> str:
    """A digest of all that `checkpoint` holds, tensors bit by bit."""
    found = hashlib.sha256()
    plain = {key: value for key, value in checkpoint.items() if key not in ("model", "digest")}
    found.update(json.dumps(plain, sort_keys=True, default=repr).encode())
    for name, value in sorted(checkpoint["model"].items()):
        found.update(f"{name} {describe_value(value)} ".encode(errors="surrogatepass"))
        if isinstance(value, Tensor):
            held = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
            found.update(held.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def fingerprint(graph: fx.Graph) -> str:
    """A digest of what `graph`, in inference mode, computes: operations, literals and how they hang together; no tensors."""
    lines = [f"{node.op} {node.name} {node.target} {node.args} {sorted(node.kwargs.items())}" for node in graph.nodes]
    return hashlib.sha256("\n".join(lines).encode(errors="surrogatepass")).hexdigest()


def _put(model: nn.Module, scheduler: Scheduler, checkpoint: Mapping[str, Any]) -> None:
    scheduler.load_state_dict(checkpoint["scheduler"])  # first: what it sets in the model, the model's own state replaces
    model.load_state_dict(checkpoint["model"])


def texts(passes: Iterable[object]) -> list[str]:
    """`passes` as they print, but for the addresses of objects in their options, which are other ones in each process."""
    return [re.sub(r" at 0x[0-9a-f]+", "", str(one)) for one in passes]


def _check_form(checkpoint: Any) -> None:
    given = checkpoint if isinstance(checkpoint, Mapping) else {}
    kinds: dict[str, Any] = {"format": int, "passes": list[str], "model": dict[str, Any], "scheduler": dict[str, Any]}
    if fits(given.get("format"), int) and given["format"] == FORMAT:
        kinds |= {"computes": dict[str, str], "digest": str, "config": str | None}
    missing = [key for key, kind in kinds.items() if not fits(given.get(key), kind)]
    if missing:
        raise CheckpointError(
            f"this is no checkpoint: it lacks {', '.join(map(repr, missing))}; give what compiled.checkpoint() returned "
            "(a state_dict of weights alone goes into compiled.load_state_dict)"
        )
    if checkpoint["format"] != FORMAT:
        raise CheckpointError(
            f"the checkpoint has format {checkpoint['format']!r}, this version of fxcompress reads format {FORMAT}; "
            "load it with the version that wrote it"
        )


def _check_passes(saved: Sequence[str], passes: Sequence[str]) -> None:
    if list(saved) != list(passes):
        _, _, _, *lines = difflib.unified_diff(list(saved), list(passes), n=len(saved), lineterm="")
        raise CheckpointError(
            "the checkpoint was saved with other passes; compile the model with the passes that it was saved with "
            "(- in the checkpoint, + in this model):\n" + "\n".join(f"{line[0]} {line[1:]}" for line in lines)
        )


def _check_computation(saved: Mapping[str, str], computes: Mapping[str, str]) -> None:
    """Check that two models whose tensors are called alike are the same model, for the same runtime."""
    for what in sorted({*saved, *computes}):
        if saved.get(what) != computes.get(what):
            plain = f": it was {saved.get(what)!r}, here it is {computes.get(what)!r}" if what == "target" else ""
            raise CheckpointError(
                f"the checkpoint is of another model, whose {what} is another{plain}. "
                "Compile the model that it was saved from, for the same target"
            )


def _check_values(model: nn.Module, scheduler: Scheduler, checkpoint: Mapping[str, Any]) -> None:
    """Ask every module that knows what its state can be, and the schedules; the other tensors are finite where they were."""
    saved = checkpoint["model"]
    problems = []
    for name, present in model.state_dict().items():
        if not _finite(saved[name]) and _finite(present):
            problems.append(f"{name} holds NaN or infinite values")
    problems += [f"{name} is a variance below zero" for name in _variances(model) if bool((saved[name] < 0).any())]
    for path, module in model.named_modules():
        if isinstance(module, ChecksState):
            dot = f"{path}." if path else ""
            problem = module.problem_with({key[len(dot) :]: saved[key] for key in saved if key.startswith(dot)})
            problems += [f"{path}: {problem}"] if problem else []
    try:
        scheduler.check_state(checkpoint["scheduler"])
    except (InputError, KeyError, TypeError, AttributeError) as problem:
        problems.append(f"its schedules cannot be taken up ({problem!r})")
    if problems:
        raise CheckpointError(f"the checkpoint cannot be loaded: {_listed(problems)}; was it changed after it was taken?")


def _variances(model: nn.Module) -> list[str]:
    """The names in the state of `model` of what norms in its graphs read as running variances."""
    graphs = [module for module in model.modules() if isinstance(module, fx.GraphModule)]
    held = {attribute(one, name).data_ptr() for one in graphs for name in running_variances(one.graph)}
    return [name for name, value in model.state_dict().items() if isinstance(value, Tensor) and value.data_ptr() in held]


def _check_state(saved: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Check that the names of the tensors, and each one's shape and dtype, are those of `state`."""
    differences = []
    for what, names in (("it lacks", state.keys() - saved.keys()), ("only it has", saved.keys() - state.keys())):
        if names:
            differences.append(f"{what} {_listed(sorted(names))}")
    unlike = [name for name in state if name in saved and not _alike(saved[name], state[name])]
    if unlike:
        told = [f"{name} is {_told(saved[name])}, here {_told(state[name])}" for name in unlike]
        differences.append(_listed(told))
    if differences:
        raise CheckpointError(
            f"the checkpoint is of another model: {'; '.join(differences)}. "
            "Compile the model that it was saved from, for the same target"
        )


def _finite(value: Any) -> bool:
    return not isinstance(value, Tensor) or not value.is_floating_point() or bool(value.isfinite().all())


def _alike(saved: Any, present: Any) -> bool:
    """Whether `saved` is of the kind, the shape and the type of `present`; what is of another kind may have none of them."""
    if _kind(saved) != _kind(present):
        return False
    if not isinstance(present, Tensor) or present.is_nested:
        return True
    return (saved.shape or (1,), saved.dtype) == (present.shape or (1,), present.dtype)  # scalars had no dimension once


def _kind(value: Any) -> Any:
    return _unlike_plain(value) if isinstance(value, Tensor) else type(value)


def _told(value: Any) -> str:
    return (_unlike_plain(value) if isinstance(value, Tensor) else None) or describe_value(value)


def _unlike_plain(value: Tensor) -> str | None:
    """What keeps `value` from being numbers in memory, one behind another, which alone can be looked through."""
    if type(value) not in (Tensor, nn.Parameter):
        return f"a {type(value).__name__}"
    if value.is_nested or value.is_quantized or value.layout is not torch.strided:
        kind = "nested" if value.is_nested else "quantized" if value.is_quantized else str(value.layout).removeprefix("torch.")
        return f"a {kind} tensor"
    if torch._C._functorch.is_functorch_wrapped_tensor(value):
        return "a tensor of torch.func"
    needed = value.storage_offset() + 1 + sum((size - 1) * step for size, step in zip(value.shape, value.stride()))
    if value.is_meta or (value.numel() and value.untyped_storage().nbytes() < needed * value.element_size()):
        return "a tensor without values"
    return None


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
