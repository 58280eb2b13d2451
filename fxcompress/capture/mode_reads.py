"""Who reads whether a module trains: where those are layers of torch that hand it on, training differs in nothing else."""

from __future__ import annotations

import contextlib
import random
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import fx, nn

from fxcompress.capture.memory import changed, kept
from fxcompress.capture.naming import scope_of
from fxcompress.ir.bypassing import has_hooks
from fxcompress.ir.modes import mode_argument

_HAND_IT_ON = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm, nn.modules.dropout._DropoutNd)
_OWN_WAYS = (nn.SyncBatchNorm,)
_LAYERS = "torch.nn.modules."
_ROUND = ("torch.func", "torch._functorch", "torch.nn.utils.stateless", "fxcompress.")
"""What stands around a call of the model."""


@dataclass
class ModeReads:
    """The paths of `layers` of torch that read their mode to hand it on, and whether anything else may depend on a mode."""

    layers: frozenset[str] = frozenset()
    others: bool = True

    def tell_training(self, modes: Mapping[str, bool], graph: fx.Graph) -> bool:
        """Whether a run in `modes` is known to be `graph`, which is of inference, with every call told that it trains.

        What is told its mode by no layer that reads one has it in the code of forward, and keeps it in training.
        """
        told = {scope_of(node) for node in graph.nodes if node.op == "call_function" and mode_argument(node)}
        return not self.others and told <= self.layers and all(modes.get(path, True) for path in self.layers)


@contextlib.contextmanager
def mode_reads(model: nn.Module, reads: ModeReads) -> Iterator[None]:
    """Writes to `reads` who reads `training` in this context and thread, in which `model` runs once, in any mode.

    Where only layers do that hand it on, a run in other modes reads no more, since nothing else could tell it from this one.
    Numbers drawn by Python or NumPy, attributes that change, modes that are set, and a `train` or `eval` of a module's own
    count as others.
    """
    here, before, own = threading.get_ident(), random_states(), kept(model)
    readers: set[nn.Module | None] = set()  # None for others

    def training(module: nn.Module) -> bool:
        code = sys._getframe(1).f_globals.get("__name__", "")
        if threading.get_ident() == here and not code.startswith(_ROUND):
            readers.add(module if code.startswith(_LAYERS) and _hands_it_on(module) else None)
        return bool(vars(module)["training"])

    def switched(module: nn.Module, mode: bool) -> None:
        if threading.get_ident() == here:
            readers.add(None)
        vars(module)["training"] = mode

    nn.Module.training = property(training, switched)  # type: ignore[assignment]
    try:
        yield
    finally:
        del nn.Module.training
        reads.layers = frozenset(path for path, one in model.named_modules(remove_duplicate=False) if one in readers)
        moved = random_states() != before or bool(changed(own, kept(model)))
        reads.others = None in readers or moved or _keeps_modes(model) or _has_hooks(model)


def random_states() -> tuple[Any, ...]:
    """The states of the generators of Python and NumPy, which no trace knows of."""
    name, keys, *others = np.random.get_state()
    return random.getstate(), name, np.asarray(keys).tobytes(), *others


def put_back_random_states(states: tuple[Any, ...]) -> None:
    """Set the generators of Python and NumPy to what `random_states` gave."""
    of_python, name, keys, *others = states
    random.setstate(of_python)
    np.random.set_state((name, np.frombuffer(keys, np.uint32), *others))


def _keeps_modes(model: nn.Module) -> bool:
    """Whether a module of `model` has a `train` or an `eval` of its own, and so may keep its mode elsewhere as well."""
    return any(
        type(module).train is not nn.Module.train
        or type(module).eval is not nn.Module.eval
        or not vars(module).keys().isdisjoint({"train", "eval"})
        for module in model.modules()
    )


def _has_hooks(model: nn.Module) -> bool:
    """Whether a part of `model` has hooks on its forward, which may keep what they see. A trace puts some on `model`."""
    return any(has_hooks(one) for one in model.modules() if one is not model)


def _hands_it_on(module: nn.Module) -> bool:
    known = isinstance(module, _HAND_IT_ON) and not isinstance(module, _OWN_WAYS)
    return known and type(module).__module__.startswith(_LAYERS)
