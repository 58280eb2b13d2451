"""Rows of the table of spellings: convolutions, linear layers, norms, attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from fxcompress.capture.constants import PREFIX
from fxcompress.capture.respelling import Call, same_sizes, size_of, spelling
from fxcompress.ir.reach import reached

aten = torch.ops.aten

_CONVOLUTIONS = {1: aten.conv1d.default, 2: aten.conv2d.default, 3: aten.conv3d.default}
_TRANSPOSED = {1: aten.conv_transpose1d.default, 2: aten.conv_transpose2d.input, 3: aten.conv_transpose3d.input}


# ---------------------------------------------------------------------------------------------------- convolutions


@spelling(aten.convolution.default, aten._convolution.default)
def _convolution(call: Call) -> fx.Node | None:
    dims = len(size_of(call["weight"])) - 2
    stride, padding, dilation = (_each(call[name], dims) for name in ("stride", "padding", "dilation"))
    inputs = (call["input"], call["weight"], call["bias"])
    if call["transposed"]:
        extra = _each(call["output_padding"], dims)
        return call.same(_TRANSPOSED[dims], *inputs, stride, padding, extra, call["groups"], dilation)
    return call.same(_CONVOLUTIONS[dims], *inputs, stride, padding, dilation, call["groups"])


@spelling(aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding)
def _convolution_same_or_valid(call: Call) -> fx.Node:
    """`padding="same"` puts the odd element of an uneven padding at the end, as torch does."""
    kernel = size_of(call["weight"])[2:]
    stride, dilation = (_each(call[name], len(kernel)) for name in ("stride", "dilation"))
    totals = [d * (k - 1) if call["padding"] == "same" else 0 for d, k in zip(dilation, kernel)]
    before = [total // 2 for total in totals]
    excess = [total - 2 * low for total, low in zip(totals, before)]
    x = call["input"]
    if any(excess):
        x = call.new(aten.constant_pad_nd.default, x, [side for extra in reversed(excess) for side in (0, extra)])
    target = _CONVOLUTIONS[len(kernel)]
    return call.same(target, x, call["weight"], call["bias"], stride, before, dilation, call["groups"])


def _each(value: Any, dims: int) -> list[Any]:
    values = list(value) if isinstance(value, Sequence) else [value]
    return values * dims if len(values) == 1 else values


# --------------------------------------------------------------------------------------------------- linear layers


@spelling(aten.addmm.default)
def _addmm(call: Call) -> fx.Node | None:
    if call["beta"] != 1 or call["alpha"] != 1 or len(size_of(call["self"])) != 1:
        return None
    weight = _transposed_weight(call, call["mat2"])
    return None if weight is None else call.same(aten.linear.default, call["mat1"], weight, call["self"])


@spelling(aten.mm.default, aten.matmul.default, aten.bmm.default, aten.mv.default)
def _matrix_product(call: Call) -> fx.Node | None:
    left, right = call.node.args
    if len(size_of(left)) >= 2 and len(size_of(right)) == 2:
        weight = _transposed_weight(call, right)
        if weight is not None:
            return call.same(aten.linear.default, left, weight)
    return None if call.node.target is aten.matmul.default else call.same(aten.matmul.default, left, right)


def _transposed_weight(call: Call, matrix: fx.Node) -> fx.Node | None:
    """The weight whose transpose is `matrix`; None where `matrix` does not come from parameters and buffers alone."""
    if matrix.target is aten.transpose.int and _is_weight(matrix.args[0]):
        return matrix.args[0]  # type: ignore[return-value]
    return call.new(aten.transpose.int, matrix, 0, 1) if _is_weight(matrix) else None


def _is_weight(matrix: fx.Node) -> bool:
    """Whether `matrix` is a parameter or buffer, or computed from such alone."""
    held = []
    for node in reached([matrix], lambda one: one.all_input_nodes):
        random = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
        if node.op not in ("get_attr", "call_function") or random:
            return False
        if node.op == "get_attr":
            held.append(str(node.target))
    return any(not name.startswith(PREFIX) for name in held)


@spelling(aten.linear.default)
def _linear(call: Call) -> fx.Node | None:
    """A product where the weight is a vector, which no layer has."""
    if len(size_of(call["weight"])) == 1:
        return call.same(aten.matmul.default, call["input"], call["weight"])
    return _linear_on_flattened(call)


def _linear_on_flattened(call: Call) -> fx.Node | None:
    """A linear layer between a reshape to rows and the reshape back is the same layer on the unflattened input."""
    flat, readers = call["input"], list(call.node.users)
    if flat.target not in (aten.reshape.default, aten.flatten.using_ints) or len(readers) != 1:
        return None
    source, back = flat.args[0], readers[0]
    size = size_of(source)
    if back.target not in (aten.reshape.default, aten.view.default, aten._unsafe_view.default) or len(size) < 3:
        return None
    rows = len(size_of(flat)) == 2 and same_sizes(size[-1:], size_of(flat)[-1:])
    if not rows or not same_sizes(size_of(back), (*size[:-1], size_of(call.node)[-1])):
        return None
    new = call.same(aten.linear.default, source, *call.node.args[1:])
    new.meta["val"] = back.meta["val"]
    back.replace_all_uses_with(new, propagate_meta=False)
    call.node.graph.erase_node(back)
    return new


# ----------------------------------------------------------------------------------------------------------- norms


@spelling(aten._native_batch_norm_legit_no_training.default, aten._batch_norm_no_update.default)
def _batch_norm_in_inference(call: Call) -> fx.Node | None:
    return _batch_norm(call, False)


@spelling(aten.native_batch_norm.default, aten._native_batch_norm_legit.default)
def _batch_norm_either(call: Call) -> fx.Node | None:
    return _batch_norm(call, call["training"])


@spelling(aten._native_batch_norm_legit.no_stats)
def _batch_norm_without_statistics(call: Call) -> fx.Node | None:
    inputs = (call["input"], call["weight"], call["bias"], None, None)
    return call.first(aten.batch_norm.default, *inputs, True, call["momentum"], call["eps"], True)


@spelling(aten.cudnn_batch_norm.default)
def _batch_norm_of_cudnn(call: Call) -> fx.Node | None:
    inputs = [call[name] for name in ("input", "weight", "bias", "running_mean", "running_var")]
    literals = (call["training"], call["exponential_average_factor"], call["epsilon"])
    return call.first(aten.batch_norm.default, *inputs, *literals, True)


def _batch_norm(call: Call, training: bool) -> fx.Node | None:
    inputs = [call[name] for name in ("input", "weight", "bias", "running_mean", "running_var")]
    return call.first(aten.batch_norm.default, *inputs, training, call["momentum"], call["eps"], True)


@spelling(aten.native_layer_norm.default)
def _layer_norm(call: Call) -> fx.Node | None:
    inputs = (call["input"], call["normalized_shape"], call["weight"], call["bias"])
    return call.first(aten.layer_norm.default, *inputs, call["eps"])


@spelling(aten.native_group_norm.default)
def _group_norm(call: Call) -> fx.Node | None:
    inputs = (call["input"], call["group"], call["weight"], call["bias"])
    return call.first(aten.group_norm.default, *inputs, call["eps"])


# ------------------------------------------------------------------------------------------------------- attention


@spelling(aten._scaled_dot_product_flash_attention_for_cpu.default)
def _flash_attention(call: Call) -> fx.Node | None:
    inputs = (call["query"], call["key"], call["value"], call["attn_mask"], call["dropout_p"], call["is_causal"])
    return call.first(aten.scaled_dot_product_attention.default, *inputs, scale=call["scale"])


@spelling(aten._scaled_dot_product_efficient_attention.default)
def _efficient_attention(call: Call) -> fx.Node | None:
    inputs = (call["query"], call["key"], call["value"], call["attn_bias"], call["dropout_p"], call["is_causal"])
    return call.first(aten.scaled_dot_product_attention.default, *inputs, scale=call["scale"])


# ------------------------------------------------------------------------------------------------------- distances


@spelling(aten.cdist.default, aten._cdist_forward.default)
def _distances(call: Call) -> fx.Node:
    """The distance of every row of one matrix from every row of another: the norm of their differences."""
    left, right = (call.new(aten.unsqueeze.default, call[name], dim) for name, dim in (("x1", -2), ("x2", -3)))
    difference = call.new(aten.sub.Tensor, left, right)
    return call.same(aten.linalg_vector_norm.default, difference, call["p"], [-1])


# ------------------------------------------------------------------------------------------------- bags of embeddings


@spelling(aten.embedding_bag.padding_idx, aten.embedding_bag.default)
def _embedding_bag(call: Call) -> fx.Node | None:
    """Bags of one size, of a matrix of indices, are embeddings that are summed, averaged or maximised."""
    length, padding = _bag_size(call["offsets"]), call.node.target is aten.embedding_bag.padding_idx and call["padding_idx"]
    others = any(reader.args[1] != 0 for reader in call.node.users)
    if (
        length is None
        or others
        or call["include_last_offset"]
        or (padding is not False and padding is not None and padding >= 0)
    ):
        return None
    rows = call.new(aten.reshape.default, call["indices"], [-1, length])
    found = call.new(aten.embedding.default, call["weight"], rows)
    if call["per_sample_weights"] is not None:
        weights = call.new(aten.reshape.default, call["per_sample_weights"], [-1, length, 1])
        found = call.new(aten.mul.Tensor, found, weights)
    targets = (aten.sum.dim_IntList, aten.mean.dim, aten.amax.default)
    return call.first(targets[call["mode"]], found, [1])


def _bag_size(offsets: Any) -> int | None:
    """The step of `offsets` where they are counted up from 0."""
    if offsets.target is not aten.arange.start_step or offsets.args[0] != 0:
        return None
    step = offsets.args[2] if len(offsets.args) > 2 else 1
    return step if isinstance(step, int) else None
