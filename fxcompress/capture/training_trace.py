"""What a model does in training: kept where a graph in the dialect can say it, and told where it cannot.

The model is traced a second time, in training, and laid beside its graph in inference.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from fxcompress.capture.gradients import own_gradients
from fxcompress.capture.naming import scope_of
from fxcompress.capture.random_drops import find_drop
from fxcompress.capture.training_alignment import Alignment, Edge
from fxcompress.capture.training_calls import Recorder, calls_of, trains_alike
from fxcompress.capture.twin import switch
from fxcompress.data.inputs import ExampleInputs
from fxcompress.errors import CaptureError, source_line
from fxcompress.ir.dialect import IDLE
from fxcompress.ir.modes import mode_argument
from fxcompress.ir.signature import argument, arguments
from fxcompress.ir.training_ops import DROP_PATH, SYNC_BATCH_NORM

aten = torch.ops.aten

Modes = Mapping[str, bool]
"""Whether each module, by its path, is in training."""

_TOLD = 6
"""So many places are named of what is not kept."""


def training_modes(model: nn.Module, twin: nn.Module) -> Modes:
    """The modes of the modules of `model` when it trains: those that its `train()` leaves in inference mode stay there.

    So do those that are in inference mode in a model that is in training. `twin` is a copy of it, which is left in inference
    mode.
    """
    given = {path: module.training or not model.training for path, module in model.named_modules()}
    try:
        with _switched(twin):
            return {path: module.training and given[path] for path, module in twin.named_modules()}
    except Exception:  # a model may refuse to be trained
        return given


def keep_training(
    inference: fx.GraphModule,
    traced: nn.Module,
    modes: Modes,
    example: ExampleInputs,
    trace: Callable[[list[str]], fx.GraphModule],
    notes: list[str],
) -> list[str]:
    """Let `inference` train as `traced` does in `modes`; returns what it does not do as that does.

    Args:
        example: inputs that `traced` takes.
        trace: `traced` as a graph in the dialect, as it is now, without idle operations; adds what it loses to its argument.
        notes: where to add what changes no value in training.

    Frozen modules, dropouts of any kind, stochastic depth and batch norms over processes are kept. Where the model makes other
    calls in training, ``meta["trained_in"]`` is `modes`.
    """
    _mark_synchronized(inference.graph, traced)
    calls = calls_of(traced, example)
    with in_modes(traced, modes), own_gradients() as seen:
        in_training = calls_of(traced, example)
    told = list(seen.backwards)
    notes += [note for note in seen.checkpoints if note not in notes]
    if calls and in_training and trains_alike(calls, in_training) and _drop_alike(inference.graph, calls, in_training):
        return told
    try:
        with in_modes(traced, modes), _own_randomness(told):
            training = trace(told)
    except CaptureError as error:
        reason = str(error.__cause__ or error).strip().partition("\n")[0]
        return [f"what the model does in training could not be traced, and training may leave out some of it: {reason}"]
    inference.meta["trained_in"] = dict(modes)
    aligned = Alignment.of(inference, training)
    for node, twin in aligned.partner.items():
        if node.op == "call_function":
            _keep_mode(node, twin)
    missing = aligned.only_in_inference()
    kept, others = _keep_drops(aligned)
    told += _differences(aligned, kept, missing)
    told += _lines("in training it reads something else for", [one for one in others if one.op == "call_function"])
    return told or (["in training it returns other values than in inference"] if others else [])


def note_attention_dropout(graph: fx.Graph) -> None:
    """Set ``meta["dropout_p"]`` on each attention of `graph` that drops probabilities as it is."""
    for node in graph.find_nodes(op="call_function", target=aten.scaled_dot_product_attention.default):
        if argument(node, "dropout_p"):
            node.meta["dropout_p"] = argument(node, "dropout_p")


def _drop_alike(graph: fx.Graph, inference: Recorder, training: Recorder) -> bool:
    """Let the attentions of `graph` drop as those of two runs do; False where these do not tell which drops what."""
    if inference.dropped == training.dropped:
        return True
    found = graph.find_nodes(op="call_function", target=aten.scaled_dot_product_attention.default)
    if any(inference.dropped) or len(set(training.dropped)) > 1 or len(found) != len(training.dropped):
        return False
    for node in found:
        node.meta["dropout_p"] = training.dropped[0]
    return True


@contextmanager
def in_modes(twin: nn.Module, modes: Modes) -> Iterator[None]:
    """`twin`, a copy of a model, in training, but for the modules that `modes` leaves in inference mode."""
    with _switched(twin):
        for path, module in twin.named_modules():
            module.training = modes.get(path, True)
        yield


@contextmanager
def _switched(twin: nn.Module) -> Iterator[None]:
    """`twin` after its own ``train()``, which may refuse and may write to parameters; then as it was, bit for bit."""
    before = {module: module.training for module in twin.modules()}
    parameters = [(parameter, parameter.data) for parameter in twin.parameters()]
    try:
        switch(twin, True)
        yield
    finally:
        switch(twin, False)
        for parameter, data in parameters:
            parameter.data = data
        for module, mode in before.items():
            module.training = mode


@contextmanager
def _own_randomness(told: list[str]) -> Iterator[None]:
    """Tell where a model draws numbers from other generators than torch's: in a trace they are constants."""
    python, numpy = random.getstate(), np.random.get_state()[1:3]  # type: ignore[index]
    yield
    if random.getstate() != python:
        told.append("random numbers of Python's `random`, drawn in forward")
        random.setstate(python)
    after = np.random.get_state()[1:3]  # type: ignore[index]
    if numpy[1] != after[1] or not np.array_equal(numpy[0], after[0]):
        told.append("random numbers of `numpy.random`, drawn in forward")


def _mark_synchronized(graph: fx.Graph, model: nn.Module) -> None:
    layers = {path for path, module in model.named_modules() if isinstance(module, nn.SyncBatchNorm)}
    for node in graph.find_nodes(op="call_function", target=aten.batch_norm.default):
        if scope_of(node) in layers and argument(node, "running_mean") is not None:
            node.meta["trains_as"] = SYNC_BATCH_NORM


def _keep_mode(training: fx.Node, inference: fx.Node) -> None:
    """Note on the call in inference what the same call says in training."""
    name = mode_argument(inference)
    if name is not None and not argument(training, name):
        inference.meta["frozen"] = True
    if "dropout_p" in arguments(inference):
        probability = argument(training, "dropout_p")
        if probability and not argument(inference, "dropout_p"):
            inference.meta["dropout_p"] = probability


# ------------------------------------------------------------------------------------------------ stochastic depth


def _keep_drops(aligned: Alignment) -> tuple[set[fx.Node], list[fx.Node]]:
    """Put the drops that training makes between a value and its readers into inference, idle.

    Returns the calls that they were, and the readers that read another value that both have.
    """
    kept: set[fx.Node] = set()
    others: list[fx.Node] = []
    made: dict[fx.Node, fx.Node] = {}
    for edge in aligned.edges:
        drops = _chain(aligned, edge)
        if drops is None:
            others += [edge.reader] if edge.training in aligned.partner else []
            continue
        for source, value, target, args, region in drops:
            if value not in made:
                made[value] = _insert(made.get(source) or aligned.partner[source], value, target, args)
            kept |= region
        _let_read(edge, made[edge.training])
    return kept, others


_Step = tuple[fx.Node, fx.Node, Any, tuple[Any, ...], set[fx.Node]]


def _chain(aligned: Alignment, edge: Edge) -> list[_Step] | None:
    """The drops, first to last, that make what training reads at `edge` of what inference reads there; None where others do."""
    wanted, value, steps = _read_at(edge), edge.training, []
    while aligned.partner.get(value) is not wanted:
        if value in aligned.partner:
            return None
        if value.target in IDLE:
            source, target, args, region = value.args[0], value.target, value.args[1:-1], {value}
        else:
            drop = find_drop(aligned.training, value, aligned.partner)
            if drop is None:
                return None
            source, target, args, region = drop.source, DROP_PATH, (drop.p, list(drop.dims), drop.scale), set(drop.region)
        steps.append((source, value, target, args, region))
        value = source  # type: ignore[assignment]
    return list(reversed(steps))  # type: ignore[return-value]


def _read_at(edge: Edge) -> fx.Node:
    found: list[fx.Node] = []
    fx.map_arg((edge.reader.args, edge.reader.kwargs), lambda node: found.append(node) or node)  # type: ignore[func-returns-value]
    return found[edge.position]


def _let_read(edge: Edge, node: fx.Node) -> None:
    places = itertools.count()

    def one(read: fx.Node) -> fx.Node:
        return node if next(places) == edge.position else read

    edge.reader.args, edge.reader.kwargs = fx.map_arg((edge.reader.args, edge.reader.kwargs), one)  # type: ignore[misc, assignment]


def _insert(value: fx.Node, training: fx.Node, target: Any, args: tuple[Any, ...]) -> fx.Node:
    with value.graph.inserting_after(value):
        node = value.graph.call_function(target, (value, *args, False))
    node.meta = {key: training.meta[key] for key in ("stack_trace", "nn_module_stack") if key in training.meta}
    node.meta["val"] = value.meta["val"]
    return node


# ----------------------------------------------------------------------------------------------- what is not kept


def _differences(aligned: Alignment, kept: set[fx.Node], missing: list[fx.Node]) -> list[str]:
    """The calls that only one of the modes makes, by the line that makes them, and outputs that only training has."""
    extra = [n for n in aligned.training.graph.nodes if n.op == "call_function" and n not in aligned.partner and n not in kept]
    told = [*_lines("in training it also runs", _first(extra)), *_lines("in training it does not run", _first(missing))]
    ours, theirs = (_outputs(module) for module in (aligned.inference, aligned.training))
    if ours != theirs:
        told.insert(0, f"in training it returns {theirs} tensors, and the graph returns {ours}")
    return told


def _outputs(module: fx.GraphModule) -> int:
    return len([one for one in torch.utils._pytree.tree_leaves(module.graph.output_node().args) if one is not None])


def _first(nodes: list[fx.Node]) -> list[fx.Node]:
    """The tensors among `nodes` that are computed from no other of them, where the differences begin."""
    among = {node: None for node in nodes if isinstance(node.meta.get("val"), (Tensor, tuple, list))}
    return [node for node in among if among.keys().isdisjoint(node.all_input_nodes)]


def _lines(what: str, nodes: list[fx.Node]) -> list[str]:
    found: dict[str, str] = {}
    for node in nodes:
        found.setdefault(source_line(node), getattr(node.target, "_overloadpacket", node.target).__name__)
    told = [f"{what} {name} ({line})" for line, name in found.items()]
    return told if len(told) <= _TOLD else [*told[:_TOLD], f"{what} more, at {len(told) - _TOLD} other lines"]
