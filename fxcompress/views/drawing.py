"""Pictures of a graph: an SVG to look at, printed on one page or fitted to a screen."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from torch import fx

from fxcompress.storage.atomic import write_text
from fxcompress.views.layout.shapes import Rect
from fxcompress.views.notation import attribute
from fxcompress.views.picture import GREY, INK, LEGEND_HEIGHT, MARGIN, REGION, WIRE, Picture, Scheme
from fxcompress.views.repeats import fold_repeats
from fxcompress.views.summarize import summarize
from fxcompress.views.svg import Svg, cut, text_width

HEADER, NARROWEST = 46.0, 520.0


def draw(
    graph_module: fx.GraphModule,
    path: str | Path,
    *,
    highlight: str | None = None,
    title: str | None = None,
    collapse: bool = True,
) -> Path:
    """Draw the graph into the SVG file `path`, and return that path.

    Args:
        highlight: the name of a pass; only what it created is coloured. None, or one of which nothing is drawn (it set
            ranges, or exchanged constants), colours what any pass created.
        title: written above; the name of the graph module's class unless given.
        collapse: stack what belongs together (a convolution, its normalisation and activation) in one box, draw
            quantizers as pills on the wires, and show a block that is repeated three times or more once. With False,
            each operation on data has a box of its own.

    Raises:
        InputError: the file cannot be written.
    """
    summary = summarize(graph_module, collapse)
    drawn = summary.makers
    made = Counter(maker for node in graph_module.graph.nodes if (maker := node.meta.get("created_by")) in drawn)
    scheme = Scheme(list(made), highlight if highlight in made else None)
    name = title or type(graph_module).__name__
    picture = Picture(fold_repeats(summary) if collapse else summary, scheme)
    svg = Svg(name)
    width = max(picture.width, NARROWEST)
    svg.text(MARGIN, MARGIN + 14, cut(name, 17, width, bold=True), 17, INK, bold=True)
    svg.text(MARGIN, MARGIN + 32, cut(_counts(graph_module), 11, width), 11, GREY)
    swatches = [
        (scheme.colour(maker)[0], f"{maker} · {count} node{'s' * (count > 1)}")
        for maker, count in made.items()
        if scheme.shown(maker)
    ]
    swatches += [("", "one kernel at run time")] if any(box.region for box in summary.boxes.values()) else []
    bottom = _legend(svg, swatches, width)
    picture.paint(svg, MARGIN, bottom)
    return write_text(path, svg.render(width + 2 * MARGIN, bottom + picture.height + MARGIN, WIRE))


def _legend(svg: Svg, swatches: list[tuple[str, str]], width: float) -> float:
    """Write colours (an outline for none) and what they mean; gives the y below."""
    x, y = MARGIN, MARGIN + HEADER
    for colour, text in swatches:
        needed = 18 + text_width(text, 11) + 14
        if x > MARGIN and x + needed > width + MARGIN:
            x, y = MARGIN, y + LEGEND_HEIGHT
        svg.rect(Rect(x, y, 13, 11), colour or "#ffffff", "none" if colour else REGION, 3, 1.6)
        svg.text(x + 19, y + 9.5, text, 11, INK)
        x += needed
    return y + LEGEND_HEIGHT if swatches else y


def _counts(graph_module: fx.GraphModule) -> str:
    """How large the graph is, such as "69 nodes · 62 constants (11.7 M numbers)"."""
    targets = {str(node.target) for node in graph_module.graph.find_nodes(op="get_attr")}
    tensors = [value for target in targets if hasattr(value := attribute(graph_module, target), "numel")]
    numbers = sum(tensor.numel() for tensor in tensors)
    unit, letter = next((u, s) for u, s in ((1e9, " G"), (1e6, " M"), (1e3, " k"), (1, "")) if numbers >= u or u == 1)
    operations = sum(node.op in ("call_function", "call_module") for node in graph_module.graph.nodes)
    return f"{operations} operations · {len(tensors)} constants holding {numbers / unit:.3g}{letter} numbers"
