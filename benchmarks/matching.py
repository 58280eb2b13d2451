"""How long matching takes: a match in graphs of 600 to 10,000 nodes, and patterns over a 12-layer BERT.

    python benchmarks/matching.py

Times are processor time of the one thread that works, so they hold on a busy machine as well. The BERT needs
`transformers` (random weights, no download); without it, its tables are left out.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import fx

from benchmarks.models import import_torchvision
from fxcompress.capture import capture
from fxcompress.data.inputs import ExampleInputs
from fxcompress.pattern import Pattern, op, var
from fxcompress.pattern.matcher import find
from fxcompress.patterns.activation import gelu, tanh_gelu
from fxcompress.patterns.attention import attention
from fxcompress.patterns.conv import conv_bn_activation
from fxcompress.patterns.norm import layer_norm, normed
from fxcompress.patterns.residual import residual_sum

aten = torch.ops.aten
REPEATS = 21

conv_bn_relu = op.relu(normed(op.conv2d(*var("x w b"), ...).named("conv")).named("bn"))


def median_seconds(work: Callable[[], object]) -> float:
    """The median processor time of `work`, after one run that is not counted."""
    work()
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return statistics.median(times)


def chain(nodes: int) -> fx.Graph:
    """A chain of convolution, batch norm and ReLU with about so many calls."""
    graph = fx.Graph()
    value, weight = graph.placeholder("x"), graph.get_attr("weight")
    for _ in range(nodes // 3):
        conv = graph.call_function(aten.conv2d.default, (value, weight, None, [1, 1], [1, 1]))
        norm = graph.call_function(aten.batch_norm.default, (conv, *[weight] * 4, False, 0.1, 1e-5, False))
        value = graph.call_function(aten.relu.default, (norm,))
    graph.output(value)
    return graph


def bert(attention_implementation: str) -> fx.Graph:
    """BERT base, 12 layers, captured from random weights."""
    with contextlib.suppress(ImportError, SystemExit):
        import_torchvision()  # transformers imports it where it is installed
    from transformers import BertConfig, BertModel

    model = BertModel(BertConfig(attn_implementation=attention_implementation)).eval()
    return capture(model, ExampleInputs((), {"input_ids": torch.ones(2, 16, dtype=torch.long)})).graph


def table_of_sizes() -> Table:
    table = Table("calls", "matches", "conv_bn_relu", "conv_bn_activation", title="us a match")
    for size in (600, 2_500, 10_000):
        graph = chain(size)
        matches = len(find(conv_bn_relu, graph))
        row = [f"{3 * matches:,}", f"{matches:,}"]
        for pattern in (conv_bn_relu, conv_bn_activation):
            seconds = median_seconds(lambda pattern=pattern, graph=graph: find(pattern, graph))  # type: ignore[misc]
            row.append(f"{1e6 * seconds / matches:.1f}")
        table.add_row(*row)
    return table


def table_of_bert(implementation: str) -> Table:
    graph = bert(implementation)
    table = Table("pattern", "matches", "ms", title=f"BERT base, {implementation} attention, {len(graph.nodes)} nodes")
    rows: dict[str, tuple[Pattern, ...]] = {
        "attention + gelu": (attention, gelu),
        "attention": (attention,),
        "gelu": (gelu,),
        "tanh_gelu": (tanh_gelu,),
        "layer_norm": (layer_norm,),
        "residual_sum": (residual_sum,),
    }
    for label, patterns in rows.items():
        matches = sum(len(find(pattern, graph)) for pattern in patterns)
        seconds = median_seconds(lambda patterns=patterns: [find(p, graph) for p in patterns])  # type: ignore[misc]
        table.add_row(label, str(matches), f"{1e3 * seconds:.2f}")
    return table


def main() -> None:
    torch.set_num_threads(1)
    console = Console()
    console.print(table_of_sizes())
    try:
        import transformers  # noqa: F401
    except ImportError:
        console.print("transformers is not installed: no BERT")
        return
    for implementation in ("eager", "sdpa"):
        console.print(table_of_bert(implementation))


if __name__ == "__main__":
    main()
