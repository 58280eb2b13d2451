"""Capture: from a model to a graph in the dialect."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram

from fxcompress.capture import free_sizes
from fxcompress.capture.assembly import assemble
from fxcompress.capture.batch import find_batch
from fxcompress.capture.choices import some_hidden
from fxcompress.capture.emptiness import nothing_found
from fxcompress.capture.fixed_sizes import fixed_sizes
from fxcompress.capture.float32 import compute_in_float32
from fxcompress.capture.free_sizes import (
    Dimensions,
    Ties,
    both,
    fixed_beside_free,
    leading,
    lengths,
    several,
    without,
)
from fxcompress.capture.gradients import backward_hooks
from fxcompress.capture.in_dialect import in_dialect
from fxcompress.capture.inserted import InsertedModules
from fxcompress.capture.mode_reads import ModeReads
from fxcompress.capture.naming import rename
from fxcompress.capture.norms import averages_of_all_batches, keep_statistics
from fxcompress.capture.padding import note_padding
from fxcompress.capture.reached_otherwise import parameters_no_module_holds
from fxcompress.capture.remembered import remembered
from fxcompress.capture.safe_names import check_parameters
from fxcompress.capture.tracing import prepare, trace, trace_free
from fxcompress.capture.training_trace import Modes, keep_training, note_attention_dropout, training_modes
from fxcompress.capture.true_sizes import bounded, computes, is_of_one, untrue
from fxcompress.capture.twin import twin_of
from fxcompress.capture.unseen_writes import unseen_writes
from fxcompress.capture.watched import Watched
from fxcompress.capture.written_out import LoopError, with_few_written_out
from fxcompress.data.batch import Batch
from fxcompress.data.convention import PARAMETERS, parameters_of
from fxcompress.data.inputs import ExampleInputs
from fxcompress.errors import CaptureError
from fxcompress.ir.collection import collected_later
from fxcompress.ir.constants import mark_computed
from fxcompress.ir.exclusion import one_thread_at_a_time
from fxcompress.ir.modes import set_training
from fxcompress.ir.weights import check_weights

aten = torch.ops.aten


@one_thread_at_a_time
@collected_later()
def capture(
    model: nn.Module | fx.GraphModule | ExportedProgram,
    example_inputs: ExampleInputs,
    *,
    dynamic_shapes: Any = None,
    given: ExampleInputs | None = None,
    modes: Modes | None = None,
) -> fx.GraphModule:
    """`model` in inference mode as a graph in the dialect, called as the model is called with `example_inputs`.

    The batch is symbolic where the model allows it: dimension 0 of every tensor that agrees there with the first one, or else
    the second dimension. Where it and padding lie is found out, and noted on the graph (`fxcompress.data`).
    `model` is left untouched; the graph computes in float32, and has parameters on the memory of those of `model`, under the
    same names, and under identifiers where those are none: ``meta["own_names"]`` maps such paths to the model's.
    ``meta["capture_notes"]`` lists what the graph does not keep of the model, and why: ``meta["decided"]`` those on branches
    that go one way, ``meta["lost_in_training"]`` those that only training is without. ``meta["never_in_inference"]`` are the
    paths of modules that ``eval()`` leaves in training.

    Args:
        dynamic_shapes: as for `torch.export.export`, instead of the symbolic batch; ``"auto"`` for every size that the model
            leaves free: those that its code fixes stay, and those at which the graph is not the model. ``"lengths"`` for those
            but the sizes of pictures.
        given: `example_inputs` in the precision that the graph is to take, where that is not the model's.
        modes: of each module of `model` in training, by its path; None for the model's own, or what its `train()` gives.

    Raises:
        CaptureError: the model cannot be traced; names the source line that stopped it.
        InputError: a weight is empty or not finite.
    """
    if isinstance(model, ExportedProgram):
        return _Capture(model, example_inputs, given or example_inputs, None, {}, None).graph(model, None)
    traced = twin_of(model)
    check_parameters(example_inputs.kwargs)
    inserted = InsertedModules(traced)
    prepare(traced, example_inputs)
    modes = modes or training_modes(model, traced)
    one = _Capture(model, example_inputs, given or example_inputs, traced, modes, inserted)
    return with_few_written_out(lambda: one.with_sizes(dynamic_shapes))


Trace = Callable[[], ExportedProgram]

_OTHERS = 2
"""At how many other sizes a model is traced: height and width may each be special."""


@dataclass(frozen=True)
class _Capture:
    """One model on its way, with its twin (`traced`) where there is more than a program, and its `modes`."""

    model: nn.Module | ExportedProgram
    example: ExampleInputs
    given: ExampleInputs
    traced: nn.Module | None
    modes: Modes
    inserted: InsertedModules | None

    def with_sizes(self, dynamic_shapes: Any) -> fx.GraphModule:
        """The model with sizes as `capture` is given them.

        Raises:
            LoopError: a loop over a free size has to be written out.
        """
        if dynamic_shapes is not None and not isinstance(dynamic_shapes, str):
            return self.traced_by(lambda: trace(self.traced, self.example, dynamic_shapes))
        chosen = {None: leading, "lengths": lengths, "auto": several}[dynamic_shapes]
        found = self.with_free_sizes(chosen(self.example)) or self.with_free_batch()
        if dynamic_shapes is not None:
            assert self.traced is not None
            sides = dynamic_shapes == "auto"
            found.meta["capture_notes"] += bounded(found, self.traced, self.example)
            found.meta["capture_notes"] += fixed_sizes(found.graph, self.traced, self.example, sides=sides)
        return found

    def with_free_sizes(self, sizes: Dimensions, seen: Sequence[ExampleInputs] = ()) -> fx.GraphModule | None:
        """The model with those of `sizes` free that can be, and the batch; None where the batch cannot, or not with others.

        A graph that is not the model at other sizes may be that of a special one, which a window divides. So it is traced at
        such another as well, and has to be the model at those `seen` before, or None is returned.
        """
        assert self.traced is not None
        free = both(leading(self.example), sizes)
        ties: Ties = []
        while free != leading(self.example):
            try:
                program, _ = trace_free(self.traced, self.example, free, ties)
            except CaptureError:
                return None
            found = None if program is None else self.graph(program, self._freely(free, ties))
            if found is None or not (batch := Batch.of(found.graph)).is_free:
                return None
            if not is_of_one(found, self.traced, self.example):
                return None
            wrong, tied, other = untrue(found, self.traced, batch.first(self.example, 2))
            if not any(wrong) and not tied:
                return found if all(computes(found, self.traced, one) for one in seen) else None
            if other is not None and self.given is self.example and len(seen) < _OTHERS:
                elsewhere = replace(self, example=other, given=other).with_free_sizes(free, (*seen, self.example))
                if elsewhere is not None:
                    return elsewhere
            if seen and any(wrong):
                return None
            before = free, ties
            free, ties = without(free, wrong), [*ties, *(tie for tie in tied if tie not in ties)]
            if (free, ties) == before:
                return None
        return None

    def _class_of(self, path: str) -> str | None:
        """The name of the class of the submodule at `path`; None for a program, which has none."""
        return None if self.traced is None else type(self.traced.get_submodule(path)).__name__

    def with_free_batch(self) -> fx.GraphModule:
        """The model with a free batch where it lies, with other free sizes where it is not found, or else a fixed one."""
        assert self.traced is not None
        first, second = leading(self.example), free_sizes.second(self.example)
        program, reason = trace_free(self.traced, self.example, first)
        found = None if program is None else self.graph(program, self._freely(first))
        if found and Batch.of(found.graph).is_free:
            if is_of_one(found, self.traced, self.example):
                return found
            reason, found, second = "the model computes something else of one sample than of several", None, []
        elsewhere = self._with_batch_among(both(first, second) if found else second)
        if elsewhere:
            return elsewhere
        looped = fixed_beside_free(found.graph, self.example) if found else []
        if found and not looped:
            return found
        if looped:  # others may not have another number of samples then
            reason = f"forward needs that of {', '.join(looped)} as a number, as a loop over samples does"
        note = f"the batch size is fixed to that of the example inputs: {reason}"
        return self.traced_by(lambda: trace(self.traced, self.example), note)

    def _with_batch_among(self, sizes: Dimensions) -> fx.GraphModule | None:
        """The model with `sizes` free, if the batch is one of them."""
        assert self.traced is not None
        if not any(sizes):
            return None
        try:
            program, _ = trace_free(self.traced, self.example, sizes)
        except CaptureError:
            return None
        found = None if program is None else self.graph(program, self._freely(sizes))
        return found if found and Batch.of(found.graph).is_free else None

    def _freely(self, sizes: Dimensions, ties: Ties = ()) -> Trace:
        def again() -> ExportedProgram:
            program, reason = trace_free(self.traced, self.example, sizes, ties)
            if program is None:
                raise CaptureError(reason)
            return program

        return again

    def traced_by(self, trace: Trace, *notes: str) -> fx.GraphModule:
        """What `trace` gives, in the dialect."""
        return self.graph(trace(), trace, *notes)

    def graph(self, program: ExportedProgram, trace: Trace | None, *notes: str) -> fx.GraphModule:
        """`program` in the dialect, with a note on its inputs of where the samples lie.

        Args:
            trace: gives what `program` is of the model in its present mode, for what the model does in training.
        """
        watched = Watched.of(program)
        told = [*notes, *watched.notes]
        module, own_names = in_dialect(program, told, self._class_of)
        note_attention_dropout(module.graph)
        lost = [] if trace is None else self._lost_in_training(module, watched.reads, trace, told)
        if self.traced is not None:
            lost += [*watched.backwards, *backward_hooks(self.model)]
            lost += [*module.meta.get("written", []), *unseen_writes(program)]
            lost += parameters_no_module_holds(self.traced, program)
        seen = self.model if self.traced is not None and isinstance(self.model, nn.Module) else None
        (told if seen is None else lost).extend(averages_of_all_batches(module.graph, seen))
        compute_in_float32(module, [leaf for _, leaf in self.given.leaves()], told)
        in_inference = self.traced is not None and not isinstance(self.model, fx.GraphModule)  # others may be of training
        told += [*keep_statistics(module.graph, in_inference=in_inference), *(one for one in lost if one not in told)]
        result = assemble(module, rename(module.graph))
        if self.inserted is not None:
            self.inserted.put_back(result)
        mark_computed(result.graph)
        set_training(result, False)
        result.meta |= {
            "capture_notes": told,
            "decided": watched.decided,
            "lost_in_training": tuple(dict.fromkeys(lost)),
            "own_names": own_names,
        }
        modules = () if self.traced is None else self.traced.named_modules()
        result.meta["never_in_inference"] = [path for path, one in modules if one.training]
        result.meta[PARAMETERS] = parameters_of(self.model) if isinstance(self.model, nn.Module) else None
        result.meta["trained_in"] = module.meta.get("trained_in")
        result.meta["precision"] = module.meta.get("precision", torch.float32)
        check_weights(result)
        find_batch(result, self.given).mark(result.graph)
        note_padding(result, self.given)
        result.eval()
        if module.meta.get("loops") and self.traced is not None and not computes(result, self.traced, self.example):
            raise LoopError("a loop over a size that is free does something that two of its steps do not tell")
        if watched.granted and not self._holds_of_nothing(result, watched):
            tried = "; ".join(watched.granted)
            raise CaptureError(f"a data-dependent branch does something where nothing is found; tried was {tried}")
        return result

    def _holds_of_nothing(self, result: fx.GraphModule, watched: Watched) -> bool:
        """Whether `result` is the model where nothing is found as well, and where nothing chooses some of the choices."""
        if self.traced is None:
            return False
        hidden = some_hidden() if watched.chosen else []
        for context in itertools.chain(nothing_found([*watched.places], in_places=bool(watched.found)), hidden):
            with context:
                if not computes(result, self.traced, self.example):
                    return False
        return not hidden or any(one.hid for one in hidden)

    def _lost_in_training(self, module: fx.GraphModule, reads: ModeReads, trace: Trace, told: list[str]) -> list[str]:
        """Let `module` train as the model does; what it does not do as that does, and is not `told`."""
        if self.traced is None or reads.tell_training(self.modes, module.graph):
            return []

        def again(new: list[str]) -> fx.GraphModule:
            program = trace()
            watched = Watched.of(program)
            new += [one for one in watched.backwards if one not in new]
            told.extend(one for one in watched.checkpoints if one not in told)
            return in_dialect(program, new, self._class_of)[0]

        lost = keep_training(module, self.traced, self.modes, self.example, again, told)
        return [*(one for one in lost if one not in told), *remembered(self.traced, self.example, self.modes, told)]
