"""Tables of integers that are also the matrix of a product, such as the embedding and the head of a language model."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import fx

from fxcompress.emit.forms import Form
from fxcompress.ir.signature import argument
from fxcompress.quantizers.ops import DEQUANTIZE

_EMBEDDING = torch.ops.aten.embedding.default


def in_a_file_twice(graph: fx.Graph, forms: Collection[Form]) -> list[str]:
    """A line for each table of a lowered `graph` that a file of `forms` has twice, once for each way of reading it."""
    lines = []
    for node in graph.find_nodes(op="call_function", target=DEQUANTIZE):
        looked_up = [user for user in node.users if user.target is _EMBEDDING and user.args[0] is node]
        in_bytes = "4" not in str(argument(node, "dtype"))
        if looked_up and len(looked_up) < len(node.users) and not (in_bytes and Form.TIED_ONCE in forms):
            once = "OpenVINO alone multiplies by its integers as they are looked up: to_openvino(path) has them once"
            why = once if in_bytes else "runtimes multiply by 4-bit integers, and look up bytes"
            name = looked_up[0].meta.get("scope") or looked_up[0].name
            lines.append(f"the table of {name} is in the file twice, to be looked up and to be multiplied by: {why}")
    return lines
