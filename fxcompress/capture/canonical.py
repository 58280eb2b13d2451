"""One spelling for each operation: `canonicalize` rewrites a captured graph so that a pattern needs one name."""

from __future__ import annotations

from torch import fx

from fxcompress.capture import spellings, spellings_layers, spellings_recurrent, spellings_shapes  # noqa: F401  (their rows)
from fxcompress.capture.loops import STEP_ENDS
from fxcompress.capture.respelling import canonical_call


def canonicalize(graph: fx.Graph) -> None:
    """Rewrite `graph`, which is functional and has ``meta["val"]`` on every node, to the dialect's spellings."""
    remove_unused(graph)
    for node in list(graph.nodes):
        if node.op == "call_function" and node.users:
            canonical_call(node)
    remove_unused(graph)


def remove_unused(graph: fx.Graph) -> None:
    """Erase every node but inputs and output whose value nobody reads: assertions, guards, sizes, parameters."""
    for node in reversed(graph.nodes):
        if node.op not in ("placeholder", "output") and not node.users and node.target is not STEP_ENDS:
            graph.erase_node(node)
