"""What layers with weights, products and attentions do to channels."""

from __future__ import annotations

from fxcompress.channels.call import Axes, Axis, Call, Operand, rule


@rule("conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d")
def _convolution(call: Call) -> Axes:
    """Input channel i of a group meets weight[:, i], filter o is weight[o]; the other way round if it is transposed."""
    x, weight, bias = call["input"], call["weight"], call["bias"]
    position = x.rank - (weight.rank - 2) - 1
    transposed = call["output_padding"] is not None
    if call["groups"] == 1:
        column, row = (0, 1) if transposed else (1, 0)
        call.sum_over(x.axes[position], weight, column)
        made = weight.axes[row]
    else:
        made = (_transposed_groups if transposed else _groups)(call, x.axes[position], weight)
    call.channels.add_layer(call.node, weight.node, made.ids)
    made = call.affine(made, bias)
    return [*x.axes[:position], made, *map(Axis, call.result.shape[position + 1 :])]


def _groups(call: Call, taken: Axis, weight: Operand) -> Axis:
    """The filters of a grouped convolution: whole groups can go, or the same channels of every group (`summed`)."""
    filters, groups = weight.axes[0], call["groups"]
    preferred = 1 if call.node.meta.get("summed") else None
    of_group, within = call.split(taken, (groups, taken.size // groups), preferred)
    same_group, filter_of_group = call.split(filters, (groups, filters.size // groups), preferred)
    call.channels.groups[call.node] = of_group.ids
    call.sum_over(within, weight, 1)
    call.tie(of_group, same_group)
    call.tie(filter_of_group)
    return filters


def _transposed_groups(call: Call, taken: Axis, weight: Operand) -> Axis:
    groups, (rows, outer) = call["groups"], weight.axes[:2]
    of_group, within = call.split(rows, (groups, rows.size // groups))
    call.channels.groups[call.node] = of_group.ids
    call.tie(within)
    call.sum_over(taken, weight, 0)
    return call.merge([of_group, outer])


@rule("linear")
def _linear(call: Call) -> Axes:
    x, weight, bias = call["input"], call["weight"], call["bias"]
    if weight.rank != 2:
        return x.axes[:-1]
    call.sum_over(x.axes[-1], weight, 1)
    filters = weight.axes[0]
    call.channels.add_layer(call.node, weight.node, filters.ids)
    if bias is not None and bias.rank == 1:
        filters = call.affine(filters, bias)
    return [*x.axes[:-1], filters]


@rule("matmul bmm mm")
def _product(call: Call) -> Axes | tuple[Axes, ...]:
    """With a constant a linear layer. Of two activations, the axis that is summed over stays, unless it is counted."""
    left, right = call.operands
    if min(left.rank, right.rank) < 2:
        return call.whole()
    weight = next((one for one in (right, left) if call.channels.add_weight(one.node)), None)
    if weight is not None:
        call.tie(left.axes[-1], right.axes[-2])
        call.channels.add_layer(call.node, weight.node, (right.axes[-1] if weight is right else left.axes[-2]).ids)
    elif call.is_counted(left, left.rank - 1):
        call.tie(left.axes[-1], right.axes[-2])
    else:
        call.meet(left.axes[-1], right.axes[-2])
    return [*call.broadcast(left.axes[:-2], right.axes[:-2]), left.axes[-2], right.axes[-1]]


@rule("einsum")
def _einsum(call: Call) -> Axes | tuple[Axes, ...]:
    """Equal letters meet; one that the result does not have can go where a constant has it, and is summed over."""
    operands, (inputs, arrow, output) = call.operands, call["equation"].replace(" ", "").partition("->")
    terms = inputs.split(",")
    if not arrow or "." in inputs or any(len(set(term)) < len(term) for term in terms):
        return call.whole()
    held: dict[str, list[Axis]] = {}
    for term, operand in zip(terms, operands, strict=True):
        for letter, axis in zip(term, operand.axes, strict=True):
            held.setdefault(letter, []).append(axis)
    for term, operand in zip(terms, operands):
        if len(operands) > 1 and call.channels.add_weight(operand.node):
            for letter, axis in zip(term, operand.axes):
                if letter not in output and len(held[letter]) == len(operands):
                    call.tie(*held[letter])
                elif letter in output and len(held[letter]) == 1:
                    call.channels.add_layer(call.node, operand.node, axis.ids)
    return [call.meet(*held[letter]) for letter in output]


@rule("scaled_dot_product_attention")
def _attention(call: Call) -> Axes:
    """Heads can go. What is inside a head stays, unless it is counted and the scale, which depends on its size, is written."""
    query, key, value, mask = call["query"], call["key"], call["value"], call["attn_mask"]
    operands = [query, key, value, *([mask] if mask is not None else [])]
    counted = call["scale"] is not None and call.is_counted(query, query.rank - 1)
    if counted:
        call.tie(query.axes[-1], key.axes[-1])
    for operand in operands:
        inside = operand.axes[-2:-1] if counted and operand is not mask else operand.axes[-2:]
        call.pin(inside, "they are inside a head")
    if call["enable_gqa"]:
        for operand in operands:
            call.pin(operand.axes, "query heads share keys")
    leading = call.broadcast(*(operand.axes[:-2] for operand in operands))
    return [*leading, query.axes[-2], value.axes[-1]]


@rule("embedding")
def _embedding(call: Call) -> Axes:
    table, indices = call["weight"], call["indices"]
    call.pin(table.axes[:1], "they are looked up by index")
    return [*indices.axes, table.axes[1]]


@rule("lstm gru rnn_tanh rnn_relu")
def _recurrent(call: Call) -> tuple[Axes, ...]:
    """The features of the input meet the columns of the first layer's weights, of each direction."""
    x, weights = call["input"], call["params"]
    if x is not None:
        directions = 1 + call["bidirectional"]
        step = len(weights) // (call["num_layers"] * directions)
        reading = [weights[step * direction] for direction in range(directions)]
        constant = [call.channels.add_weight(weight.node) for weight in reading]
        if all(constant):
            call.tie(x.axes[-1], *(weight.axes[1] for weight in reading))
    return call.whole()
