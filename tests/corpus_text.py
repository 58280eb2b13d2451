"""What a compilation made, as text that is the same on every CPU but for the last digits of numbers, and how to compare it.

Sums depend on the order that a CPU adds in, so floats are compared by `differences` with a tolerance; names, operations,
shapes, attributes and integers as they are.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

_FEW = 6
"""So many values of a tensor are written out; of more, what they weigh together."""
_NOISE = 1e-6
"""Gradients of this size are what rounding leaves of nothing."""
_FLOAT = re.compile(r"[~@]?-?\b\d+(?:\.\d+(?:e[-+]?\d+)?|e[-+]?\d+)\b")
_ROUGH = {"~": 1.0, "@": 0.02}
"""What numbers behind these signs may be off by: decibels, and sums of both signs in parts of the sum of magnitudes."""


def number(value: float) -> str:
    """A float with four digits, and a point by which it is told from an integer."""
    text = f"{value:.4g}"
    return text if re.search(r"[.einf]", text) else f"{text}.0"


def summary(held: Tensor | np.ndarray) -> str:
    """Type, shape, and values: all of a few, else the mean magnitude, and two sums that tell where the values lie.

    The second sum weighs each value by its place, so that another order of the same values is seen.
    """
    array = np.asarray(held.detach()) if isinstance(held, Tensor) else held
    kind = f"{array.dtype}[{','.join(map(str, array.shape))}]"
    whole = array.dtype.kind != "f"
    flat = torch.from_numpy(np.abs(array) if array.dtype.kind == "c" else array.astype(np.float64)).flatten().double()
    if flat.numel() <= _FEW:
        return f"{kind}({', '.join(str(int(v)) if whole else number(v) for v in flat.tolist())})"
    flat = flat.clamp(-1e30, 1e30)
    size = flat.abs().mean().item()
    if 0 < size < _NOISE:
        return f"{kind}(next to nothing)"
    weights = torch.cos(torch.arange(flat.numel(), dtype=torch.float64))
    shares = [(flat * one).mean().item() / size if size else 0.0 for one in (1.0, weights)]
    return f"{kind}({number(size)} @{shares[0]:.3f} @{shares[1]:.3f})"


def tensors(held: Iterable[tuple[str, Tensor]]) -> Iterator[str]:
    """A line a tensor."""
    for name, tensor in held:
        yield f"  {name} {summary(tensor)}"


def plain(held: Any) -> str:
    """Numbers, texts, dicts and dataclasses of statistics as text."""
    if isinstance(held, Tensor):
        return summary(held)
    if isinstance(held, float):
        return number(held)
    if isinstance(held, Mapping):
        return "{" + ", ".join(f"{key}: {plain(value)}" for key, value in held.items()) + "}"
    if isinstance(held, (list, tuple)):
        return "[" + ", ".join(map(plain, held)) + "]"
    return re.sub(r" at 0x[0-9a-f]+", "", str(held))


def report_lines(report: Any) -> Iterator[str]:
    """A line a pass, its notes below it."""
    for row in report.rows:
        agreement = "" if row.decibels is None else " exact" if row.decibels > 90 else f" ~{row.decibels:.1f} dB"
        counts = f"{row.nodes_before} to {row.nodes_after} nodes, {row.rewrites} rewrites, {row.bytes} bytes"
        yield f"  {row.name}: {row.effect}, {counts}{agreement}"
        yield from (f"    {_everywhere(note)}" for note in row.notes)
        yield from (f"    {plain(vars(choice))}" for choice in row.ranges)


def _everywhere(note: str) -> str:
    """A note without the place of the checkout and the numbers of lines, its decibels rough."""
    note = re.sub(r"\(/[^()]*?/(\w+\.py):\d+: ", r"(\1: ", note)
    return re.sub(r"(-?\d+\.\d+) dB", r"~\1 dB", note)


class OnnxText:
    """A line a node of an ONNX model; constants, and what is computed from one constant alone, stand where they are read."""

    def __init__(self, model: ir.Model):
        self.inline: dict[str, str] = {}
        self.model = model

    def lines(self) -> Iterator[str]:
        graph = self.model.graph
        yield f"  opset {dict(self.model.opset_imports)}, inputs {self._values(graph.inputs)}"
        yield from self._graph(graph, "  ")
        for node_function in self.model.functions.values():
            yield f"  function {node_function.name}"
            yield from self._graph(node_function, "    ")
        yield f"  outputs {self._values(graph.outputs)}"

    def _values(self, values: Iterable[ir.Value]) -> str:
        return ", ".join(f"{v.name} {v.dtype}{v.shape}" for v in values)

    def _graph(self, graph: Any, indent: str) -> Iterator[str]:
        for name, value in getattr(graph, "initializers", {}).items():
            self.inline[name] = summary(value.const_value.numpy())
        for node in graph:
            expression, inner = self._expression(node)
            constant = node.inputs and all(v is None or v.name in self.inline for v in node.inputs)
            if (constant or node.op_type == "Constant") and len(node.outputs) == 1 and not inner:
                self.inline[node.outputs[0].name] = expression
                continue
            yield f"{indent}{', '.join(v.name for v in node.outputs)} = {expression}"
            for part in inner:
                yield from self._graph(part, indent + "  ")

    def _expression(self, node: ir.Node) -> tuple[str, list[Any]]:
        read = ", ".join("" if v is None else self.inline.get(v.name, v.name) for v in node.inputs)
        given, inner = [], []
        for name, one in sorted(node.attributes.items()):
            if one.type == ir.AttributeType.GRAPH:
                inner.append(one.value)
            elif one.type == ir.AttributeType.TENSOR:
                given.append(f"{name}={summary(one.value.numpy())}")
            else:
                given.append(f"{name}={plain(one.value)}")
        domain = f"{node.domain}." if node.domain else ""
        return f"{domain}{node.op_type}({read})" + (f"{{{', '.join(given)}}}" if given else ""), inner


def differences(told: str, golden: str) -> str:
    """What differs, line by line, by more than the last digits of floats; empty where nothing does."""
    new, old = told.splitlines(), golden.splitlines()
    known = {}
    for line in old:
        known.setdefault(_FLOAT.sub("#", line), []).append(line)
    matched = [next((one for one in known.get(_FLOAT.sub("#", line), ()) if _alike(line, one)), line) for line in new]
    return "\n".join(difflib.unified_diff(old, matched, "golden", "now", n=1, lineterm=""))


def _alike(line: str, other: str) -> bool:
    return all(_near(a, b) for a, b in zip(_FLOAT.findall(line), _FLOAT.findall(other)))


def _near(a: str, b: str) -> bool:
    allowed = _ROUGH.get(a[0], 0.0)
    return math.isclose(float(a.lstrip("~@")), float(b.lstrip("~@")), rel_tol=2e-3, abs_tol=allowed or 1e-7)
