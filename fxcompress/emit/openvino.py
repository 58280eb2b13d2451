"""OpenVINO IR, made by OpenVINO from our ONNX model, with the binary convolutions that ONNX does not have."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from fxcompress.emit.batch import check_batch_size
from fxcompress.emit.files import Check, declared_shapes, write_onnx
from fxcompress.emit.stateful import is_state, keep_cache_inside
from fxcompress.emit.translate.attention import FUSED
from fxcompress.emit.translate.binarization import BINARY_CONVOLUTION, DOMAIN
from fxcompress.errors import InputError
from fxcompress.ir.fake import example_sizes
from fxcompress.storage.atomic import as_file, check_writable, passing_folder, replacing


def check_openvino_path(path: str | os.PathLike[str]) -> Path:
    """`path` as a `Path`, once it is known that IR can be written there. Call it before any long work.

    Raises:
        InputError: it cannot be written, does not end in ``.xml``, or OpenVINO is not installed.
    """
    target = as_file(path)
    require_openvino("writing OpenVINO IR")
    if target.suffix != ".xml":
        wanted = target.with_suffix(".xml")
        raise InputError(f"OpenVINO IR is a file .xml and a file .bin beside it; name the first, as {wanted}, not {target}")
    check_writable(target.with_suffix(".bin"))
    return check_writable(target)


def write_openvino(
    model: ir.Model,
    path: str | os.PathLike[str],
    *,
    batch_size: int | None = None,
    stateful: bool = False,
    check: Check | None = None,
) -> Path:
    """Write `model` as OpenVINO IR to `path` and to the ``.bin`` beside it, and return the path.

    Both are written under temporary names first. Then the old ``.xml`` goes, the ``.bin`` is renamed and the ``.xml`` after it,
    so that whoever looks at any time finds a pair that belongs together, or none.

    Args:
        model: may hold nodes `fxcompress::BinaryConvolution`.
        batch_size: replaces the first symbolic size of the first input, wherever an input has it; None for 1 where there
            are binary convolutions, which need a fixed size, and for leaving it symbolic elsewhere. The other sizes are those
            that were traced where there are binary convolutions.
        stateful: keep the cache of a decoder inside the model (`fxcompress.emit.stateful`).
        check: as of `write_onnx`.

    Raises:
        InputError: as `check_openvino_path`, `batch_size` cannot be used, or there is no cache to keep.
    """
    target = check_openvino_path(path)
    openvino = require_openvino("writing OpenVINO IR")
    fixed = _fixed_shapes(model, batch_size)
    if stateful:
        fixed |= _sizes_of_states(model, declared_shapes(model) | fixed)
    core = openvino.Core()
    for kind, convert in ((BINARY_CONVOLUTION, _binary_convolution), (FUSED, _attention)):
        core.add_extension(openvino.frontend.onnx.ConversionExtension(kind, DOMAIN, convert))
    with passing_folder("fxcompress-openvino") as folder:
        converted = core.read_model(write_onnx(model, folder / "model.onnx"))
        if fixed:
            converted.reshape(
                {name: [size if isinstance(size, int) else -1 for size in sizes] for name, sizes in fixed.items()}
            )
        if stateful:
            keep_cache_inside(openvino, converted)
        with replacing(target.with_suffix(".bin"), target, withdrawn=True) as (weights, network):
            try:
                openvino.serialize(converted, str(network), str(weights))
            except RuntimeError as error:
                raise InputError(f"cannot write {target}: {str(error).strip().splitlines()[-1]}") from error
            if check is not None:
                check(network, declared_shapes(model) | fixed)
        del converted  # it may map the file in `folder`
    return target


def _sizes_of_states(model: ir.Model, shapes: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """`shapes` of the inputs that hold a state of one size: but for the batch, that of the example which was traced."""
    return {name: [shapes[name][0], *sizes[1:]] for name, sizes in _as_traced(model, shapes).items() if is_state(name)}


def _as_traced(model: ir.Model, shapes: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """`shapes` with the sizes of the example which was traced for those that are free."""
    traced = {str(value.name): example_sizes(value.meta["val"].shape) for value in model.graph.inputs}
    return {
        name: [size if isinstance(size, int) else held for size, held in zip(shape, traced[name], strict=True)]
        for name, shape in shapes.items()
    }


def _fixed_shapes(model: ir.Model, batch_size: int | None) -> dict[str, list[Any]]:
    """The shape of each input, its batch size fixed, and all sizes for binary convolutions. Empty to change none."""
    if batch_size is not None:
        check_batch_size(batch_size)
    shapes = declared_shapes(model)
    first = next((sizes[0] for sizes in shapes.values() if sizes), None)
    if isinstance(first, int) and batch_size not in (None, first):
        raise InputError(f"the model was compiled for a batch size of {first}; it cannot be written for {batch_size}")
    is_binary = any((node.domain, node.op_type) == (DOMAIN, BINARY_CONVOLUTION) for node in model.graph)
    if not is_binary and (batch_size is None or isinstance(first, int)):
        return {}
    batch = first if isinstance(first, int) else batch_size or 1
    shapes = {name: [batch if size == first else size for size in sizes] for name, sizes in shapes.items()}
    return _as_traced(model, shapes) if is_binary else shapes


def _binary_convolution(context: Any) -> list[Any]:
    """The OpenVINO operations for a node `fxcompress::BinaryConvolution`.

    `FakeQuantize` of two levels, 0 and 1, gives the bits, and `BinaryConvolution` reads 0 as -1. The plugin takes the first
    of the eight weights in a byte from its lowest bit.
    """
    openvino = require_openvino("writing OpenVINO IR")
    opset = openvino.opset1
    x, threshold, signs = (context.get_input(position) for position in range(3))
    low, high = (opset.constant(np.full((1, 1, 1, 1), value, np.float32)) for value in (0, 1))
    bits = opset.fake_quantize(x, threshold, threshold, low, high, 2)
    positive = signs.get_node().data > 0
    packed = openvino.Tensor(openvino.Type.u1, openvino.Shape(positive.shape))
    packed.data[:] = np.packbits(positive.reshape(-1), bitorder="little")
    strides, padding, dilations = (context.get_attribute(name) for name in ("strides", "padding", "dilations"))
    weights = openvino.op.Constant(packed)
    return opset.binary_convolution(bits, weights, strides, padding, padding, dilations, "xnor-popcount", -1.0).outputs()


def _attention(context: Any) -> list[Any]:
    """OpenVINO's operation for a node `fxcompress::Attention`."""
    openvino = require_openvino("writing OpenVINO IR")
    scale = openvino.opset13.constant(np.float32(context.get_attribute("scale")))
    read = [context.get_input(position) for position in range(context.get_input_size())]
    bias = read[3] if len(read) > 3 else openvino.opset13.constant(np.float32(0))
    return openvino.opset13.scaled_dot_product_attention(*read[:3], bias, scale).outputs()


def require_openvino(doing: str) -> Any:
    """The module `openvino`, with what is used of it, for what is `doing`.

    Raises:
        InputError: it is not installed.
    """
    try:
        import openvino
        import openvino.frontend.onnx
        import openvino.opset1
        import openvino.opset13
    except ImportError:
        raise InputError(f"{doing} needs OpenVINO: pip install 'fxcompress[openvino]'") from None
    return openvino
