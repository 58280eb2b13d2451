"""A decoder in OpenVINO that keeps its cache between calls, in the form that OpenVINO's pipelines for generation take.

Inputs ``past_key_values.N.key`` and outputs ``present.N.key`` become one state of the model. An input ``beam_idx``, int32
``[batch]``, says which sample of the call before each sample goes on from. A model so formed runs the kernel of attention that
keeps the cache itself, in 8 bits unless ``KV_CACHE_PRECISION`` says otherwise.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fxcompress.errors import InputError

PAST, PRESENT = "past_key_values.", "present."
BEAMS = "beam_idx"


def is_state(name: str) -> bool:
    """Whether the input `name` is a state of what has been read, of one size, rather than keys or values of each token."""
    return name.startswith(PAST) and not name.endswith((".key", ".value"))


def keep_cache_inside(openvino: Any, model: Any) -> None:
    """Let `model`, an `openvino.Model`, keep its cache. What an encoder gives a decoder to read stays an input.

    The model's `rt_info` tells the names of the outputs that there were, in their order.

    Args:
        openvino: the module.
        model: of which each state of what has been read has one size, but for the batch.

    Raises:
        InputError: the model has no cache, or does not return one that it takes.
    """
    from openvino._offline_transformations import apply_make_stateful_transformation

    opset, names = openvino.opset13, [port.get_any_name() for port in model.inputs]
    outputs = [port.get_any_name() for port in model.outputs]
    pairs = {name: PRESENT + name.removeprefix(PAST) for name in names if name.startswith(PAST) and ".encoder." not in name}
    lost = sorted(set(pairs.values()) - set(outputs))
    if lost or not pairs:
        what = f"it takes a cache, and does not return {', '.join(lost[:3])}" if lost else "it takes no cache"
        raise InputError(
            f"the model cannot be written with stateful=True, since {what}; compile it on "
            "example_inputs=fxcompress.decoding_inputs(model, ...)"
        )
    first = next(port for port in model.inputs if not port.get_any_name().startswith(PAST))
    beams = opset.parameter(openvino.PartialShape([first.get_partial_shape()[0]]), openvino.Type.i32, name=BEAMS)
    beams.output(0).set_names({BEAMS})
    for name in pairs:
        port = model.input(name)
        readers = port.get_target_inputs()
        chosen = opset.gather(port, beams, opset.constant(0)).output(0)
        for reader in readers:
            reader.replace_source_output(chosen)
    model.add_parameters([beams])
    model.validate_nodes_and_infer_types()
    apply_make_stateful_transformation(model, pairs)
    batch = opset.gather(opset.shape_of(first), opset.constant([0]), opset.constant(0))
    for node in model.get_ops():
        if node.get_type_name() == "ReadValue":
            node.set_arguments([_before_the_first_token(opset, node, batch)])
    model.validate_nodes_and_infer_types()
    model.set_rt_info(",".join(outputs), ["fxcompress", "outputs"])


def _before_the_first_token(opset: Any, state: Any, batch: Any) -> Any:
    """Zeros, as many as the node `state` reads: no tokens of each of the samples."""
    sizes = [opset.constant([size.get_min_length()]) for size in list(state.get_output_partial_shape(0))[1:]]
    zero = opset.constant(np.zeros((), state.get_output_element_type(0).to_dtype()))
    return opset.broadcast(zero, opset.concat([batch, *sizes], 0)).output(0)
