"""Taking layers of a quantized graph out of the integers again, or giving their weights more bits.

Ranges that were calibrated stay as they are. Quantizers stand afterwards where placement would have put them had these
layers been ignored: that is asked of `place` itself, so there is one set of rules. Leaving a layer in float only ever
shortens the way that a quantizer travels up through operations that move values, so each quantizer that placement asks
for is met on the way up from its readers, and a move changes no value that it rounds.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace

from torch import fx

from fxcompress.ir.edit import add_attribute, attribute, insert_call, name_of, tensor_of
from fxcompress.ir.reach import reached
from fxcompress.masks.mask import masked, replace_constant, source_constant
from fxcompress.quantization.placement import ADD, place
from fxcompress.quantization.quantized import Layer, moves_values, quantized_layers, quantizer_calls
from fxcompress.quantization.weights import fit
from fxcompress.quantizers.options import QuantizationOptions
from fxcompress.quantizers.quantizer import Quantizer
from fxcompress.targets.table import Target

Wiring = dict[tuple[fx.Node, fx.Node], fx.Node]
"""The quantizer call between a value and one of its readers."""


def leave_in_float(
    graph_module: fx.GraphModule, layers: Collection[fx.Node], target: Target, reference: fx.GraphModule | None = None
) -> list[fx.Node]:
    """Take the operations `layers` out of the integers, in place.

    They read real values and the constants of `reference`, the model before it was quantized. An elementwise operation
    that stood in integers only for their sake goes with them.

    Returns:
        Every operation that was in integers before and is not any more, in the order of the graph.
    """
    target = _as_placed(graph_module, target)
    before = [layer.node for layer in quantized_layers(graph_module, target)]
    ignored = _left_out(graph_module, target) | set(layers)
    wiring = _detach(graph_module)
    alike = QuantizationOptions(weights=target.weights, activations=target.activations)  # which grid, the calls say
    for site in place(graph_module.graph, target, dict.fromkeys(graph_module.graph.nodes, alike), ignored).activations:
        _attach(site.producer, site.consumers, wiring, target)
    given_up = set(layers)
    for (value, reader), call in wiring.items():
        if source_constant(value) is not None:
            if set(_operations(reader, target)) <= set(layers):
                given_up.add(reader)
            else:
                _connect(call, value, [reader])
    for call in {call: None for call in wiring.values() if not call.args}:
        graph_module.graph.erase_node(call)
    restore_constants(graph_module, given_up, reference)
    graph_module.recompile()
    after = {layer.node for layer in quantized_layers(graph_module, target)}
    return [node for node in before if node not in after]


def widen(
    graph_module: fx.GraphModule, layer: Layer, bits: int, target: Target, reference: fx.GraphModule | None = None
) -> None:
    """Give the weights of `layer` the target's grid with so many bits, in place; the range is that of all their values."""
    restore_constants(graph_module, {reader for call in layer.weights for reader in call.users}, reference)
    for call in layer.weights:
        quantizer = _widened(graph_module, call, bits, target)
        fit(quantizer, masked(graph_module, call.args[0]))
        call.target = add_attribute(graph_module, call.name, quantizer)
    graph_module.recompile()


def added_bytes(graph_module: fx.GraphModule, layer: Layer, bits: int | None, target: Target) -> int:
    """How many bytes more the weights of `layer` take once they have so many bits, None: are float; 0 where they take fewer."""
    calls, added = quantizer_calls(graph_module), 0
    for call in layer.weights:
        weight = masked(graph_module, call.args[0])
        count = weight.numel()
        after = weight.nbytes if bits is None else _widened(graph_module, call, bits, target).bytes_in_file(count)
        added += after - calls[call].bytes_in_file(count)
    return max(added, 0)


def _widened(graph_module: fx.GraphModule, call: fx.Node, bits: int, target: Target) -> Quantizer:
    """The quantizer, without a range, that `widen` puts in place of the one that `call` rounds a weight with."""
    present = quantizer_calls(graph_module)[call]
    spec = replace(target.weights, bits=bits, channel_axis=present.spec.channel_axis, pairs=present.spec.pairs)
    return Quantizer(spec, masked(graph_module, call.args[0]).shape)


def restore_constants(graph_module: fx.GraphModule, nodes: Iterable[fx.Node], reference: fx.GraphModule | None) -> None:
    """Let each of `nodes` read the constants that it reads in `reference`, where a pass has put others in their place."""
    originals = {node.name: node for node in reference.graph.nodes} if reference else {}
    for node in nodes:
        if node.name not in originals:
            continue
        arguments = originals[node.name].args
        for position, present in enumerate(node.args):
            original = arguments[position] if position < len(arguments) else None
            if _is_constant(present):
                if original is None:
                    node.update_arg(position, None)
                elif _is_constant(original):
                    _exchange(graph_module, node, present, reference, source_constant(original))


def _is_constant(value: object) -> bool:
    """Whether `value` is a constant, maybe behind masks and quantizers."""
    return isinstance(value, fx.Node) and source_constant(value) is not None


def _exchange(
    graph_module: fx.GraphModule, node: fx.Node, present: fx.Node, reference: fx.GraphModule, original: fx.Node
) -> None:
    """Let `node`, or the masks and quantizers `present` before it, read the constant `original` of `reference`."""
    constant, tensor = source_constant(present), tensor_of(reference, original)
    if constant.op != "get_attr" or attribute(graph_module, constant.target) is tensor:
        return  # nothing has taken its place
    with graph_module.graph.inserting_after(constant):
        made = graph_module.graph.get_attr(add_attribute(graph_module, name_of(original), tensor))
    made.meta = dict(constant.meta) | {"stands_for": name_of(constant)}
    if present is constant:
        node.replace_input_with(constant, made)
    else:
        replace_constant(present, made)


def _as_placed(graph_module: fx.GraphModule, target: Target) -> Target:
    """`target` as placement had it: kernels add a shortcut unrounded only if some addition in integers has one such operand."""
    sums = [layer for layer in quantized_layers(graph_module, target) if layer.node.target is ADD]
    accumulates = any(operand not in layer.cone for layer in sums for operand in layer.node.all_input_nodes)
    return replace(target, accumulates=target.accumulates and accumulates)


def _left_out(graph_module: fx.GraphModule, target: Target) -> set[fx.Node]:
    """What placement must ignore to put the quantizers where they are now.

    That is operations that could read integers and do not, and moves that a quantizer did not travel through.
    """
    in_integers = {layer.node for layer in quantized_layers(graph_module, target) if layer.activations}
    heads = (target.weighted.keys() | target.products.keys() | target.elementwise.keys()) - target.fused
    found = {node for node in graph_module.graph.nodes if node.target in heads and node not in in_integers}
    for call in quantizer_calls(graph_module):
        value = call.args[0]
        moved = value.args[0] if value.target is operator.getitem else value
        if moves_values(moved, target):
            found.add(moved)
    return found


def _detach(graph_module: fx.GraphModule) -> Wiring:
    """Let all readers of quantizers read the values in front of them; the calls stay, connected to nothing."""
    wiring: Wiring = {}
    for call in quantizer_calls(graph_module):
        value = call.args[0]
        wiring |= {(value, reader): call for reader in call.users}
        call.replace_all_uses_with(value)
        call.args = ()
    return wiring


def _attach(producer: fx.Node, readers: Iterable[fx.Node], wiring: Wiring, target: Target) -> None:
    """Put between `producer` and each of `readers` the quantizer that was met on the way up."""
    homes = {call: value for (value, _), call in wiring.items()}
    by_call: dict[fx.Node, list[fx.Node]] = {}
    for reader in readers:
        call = next(_met(producer, reader, wiring, target), None)
        if call is not None:
            by_call.setdefault(call, []).append(reader)
    for call, served in by_call.items():
        _connect(call if homes[call] is producer else _moved(call, producer), producer, served)


def _met(value: fx.Node, reader: fx.Node, wiring: Wiring, target: Target) -> Iterator[fx.Node]:
    """The quantizer calls that stood between `value` and `reader`, or above `value`."""

    def above(edge: tuple[fx.Node, fx.Node]) -> list[tuple[fx.Node, fx.Node]]:
        source, _ = edge
        return [(one, source) for one in source.all_input_nodes] if edge not in wiring and moves_values(source, target) else []

    return (wiring[edge] for edge in reached([(value, reader)], above) if edge in wiring)


def _moved(call: fx.Node, producer: fx.Node) -> fx.Node:
    """A call of the same quantizer behind `producer`."""
    name = f"{producer.name}_quantizer"
    return insert_call(producer, (), str(call.target), name=name, created_by=call.meta["created_by"])


def _connect(call: fx.Node, value: fx.Node, readers: Iterable[fx.Node]) -> None:
    for reader in readers:
        reader.replace_input_with(value, call)
    call.args = (value,)


def _operations(reader: fx.Node, target: Target) -> Iterator[fx.Node]:
    """The operations that read what `reader` moves, or `reader` itself."""
    met = reached([reader], lambda one: one.users if moves_values(one, target) else ())
    return (one for one in met if not moves_values(one, target))
