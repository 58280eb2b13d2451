"""Tables in a terminal: names break between their words, and rows fit."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxcompress.report.rows import Report, Row
from fxcompress.report.tables import printed, titled

WORDS = st.lists(st.sampled_from(["Canonicalize", "Activations", "Fold", "Batch", "Norm", "Smooth"]), min_size=1, max_size=3)
PATHS = st.lists(st.sampled_from(["encoder", "layer", "11", "attention", "query"]), min_size=1, max_size=8)
ROW = {"effect": "rounding", "nodes_before": 118, "nodes_after": 139, "rewrites": 11, "bytes": 710_200, "milliseconds": 4321.0}


def cells(text, width):
    """The parts that the first column was broken into, of a table printed so wide."""
    lines = text.split("\n")[2:]
    assert all(len(line) <= width for line in lines)
    return [line[: line.find("  ") if "  " in line else None].strip() for line in lines if line.strip()]


@given(WORDS, st.integers(80, 130))
def test_a_pass_breaks_between_words_and_no_figure_is_cut(words, width):
    name = "".join(words)
    shown = printed(Report([Row(name=f"{name}()", decibels=float("inf"), **ROW)]).table(), width)
    parts = cells(shown, width)
    assert "".join(parts) == name and all(part in "".join(words) and part[0].isupper() for part in parts)
    assert all(re.fullmatch(r"([A-Z][a-z]+)+", part) for part in parts)
    assert "118 → 139" in shown and "same bits" in shown and "4321" in shown


@given(PATHS, st.sampled_from([".", "_"]), st.integers(40, 100))
def test_a_path_breaks_behind_its_separators(names, separator, width):
    table = titled("Layers", "layer", "filters", numbers=["filters"])
    table.add_row(separator.join(names), "192")
    shown = printed(table, width)
    parts = [line.partition("  ")[0].split(" ")[0] for line in shown.split("\n")[3:] if line.strip()]
    assert "".join(parts) == separator.join(names)
    assert all(set(filter(None, part.split(separator))) <= set(names) for part in parts)


@pytest.mark.parametrize("width", [40, 80, 120])
def test_what_is_shown_at_usual_widths(width):
    rows = [Row(name="Quantize(exact_sums=True, reduce_range=True)", decibels=52.3, **ROW)]
    shown = printed(Report(rows).table(), width)
    assert all(len(line) <= width for line in shown.split("\n"))
    if width >= 80:
        assert "exact_sums=True" in shown and "reduce_range=True" in shown
