"""What is computed element by element, again and again: a kernel of a runtime takes so many operations and no more."""

from __future__ import annotations

import onnx_ir as ir

from fxcompress.emit.rewiring import POINTWISE, shield

LONGEST = 16
"""Operations of a file in one kernel of OpenVINO's, which takes 32 of its own: some of a file's are two or three of those."""


def chains_cut(graph: ir.Graph) -> int:
    """Have a maximum with minus infinity stand behind every so many operations on elements that follow one another."""
    lengths: dict[ir.Node | None, int] = {}
    cuts = []
    for node in graph:
        if node.op_type in POINTWISE | {"DequantizeLinear", "QuantizeLinear"}:
            before = [lengths.get(source.producer(), 0) if source is not None else 0 for source in node.inputs]
            lengths[node] = max(before) % LONGEST + 1
            if lengths[node] <= max(before) and node.op_type in POINTWISE:
                cuts.append((node, before.index(max(before))))
    return shield(graph, cuts)
