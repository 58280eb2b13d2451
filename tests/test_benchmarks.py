"""What the benchmarks compute from timings and graphs, and what they write. Measures nothing, needs no peer."""

import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from rich.console import Console

from benchmarks import (
    binary,
    compile_time,
    latency,
    machine,
    openvino_runner,
    peers,
    photographs,
    placement,
    post_training,
    requirements,
    scoreboard,
    sentence_embeddings,
)
from benchmarks.medians import Estimate, median, orders, paired_ratio
from benchmarks.mutations.__main__ import ROOT
from benchmarks.placement import Layer
from benchmarks.scoreboard import MET, MISSED, UNDECIDED, Bar, Figure, Section
from fxcompress import passes

SECONDS = st.floats(1e-4, 10, allow_nan=False)
TIMINGS = arrays.arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 9)), elements=SECONDS)


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    """The bootstrap's laws hold for any number of resamples."""
    monkeypatch.setattr("benchmarks.medians.RESAMPLES", 100)


@given(TIMINGS, st.floats(0.1, 10))
def test_median_lies_in_its_interval_and_scales(samples, factor):
    estimate = median(samples)
    assert samples.min() <= estimate.low <= estimate.value <= estimate.high <= samples.max()
    assert estimate.value == np.median(samples)
    scaled = median(samples * factor)
    expected = estimate.scaled(factor)
    assert [scaled.low, scaled.value, scaled.high] == pytest.approx([expected.low, expected.value, expected.high])


@given(TIMINGS, st.floats(0.1, 10))
def test_ratio_of_proportional_timings_is_exact(samples, factor):
    estimate = paired_ratio(samples * factor, samples)
    assert [estimate.low, estimate.value, estimate.high] == pytest.approx([factor] * 3)


def test_pairing_sees_through_the_drift_of_the_machine():
    """Two per cent between two files, on a machine whose speed wanders by a factor of three."""
    random = np.random.default_rng(3)
    drift = np.exp(np.cumsum(random.normal(0, 0.1, 240)).reshape(6, 40) % 1.1)
    theirs = drift * (1 + random.normal(0, 0.01, drift.shape))
    ours = 0.98 * drift * (1 + random.normal(0, 0.01, drift.shape))
    estimate = paired_ratio(ours, theirs)
    assert estimate.low < 0.98 < estimate.high < 1
    assert estimate.high - estimate.low < 0.01 < median(ours).high - median(ours).low


def test_interval_is_wider_where_loads_differ():
    """Forty rounds of each of four loads are four samples, not a hundred and sixty, of what a load shifts."""
    random = np.random.default_rng(0)
    rounds = 1 + random.normal(0, 0.01, (4, 40))
    shifted = rounds + np.array([[-0.05], [-0.02], [0.02], [0.05]])
    alike, apart = median(rounds), median(shifted)
    assert apart.high - apart.low > 5 * (alike.high - alike.low)


@pytest.mark.parametrize("samples", [[], [1.0, np.nan], [np.inf]])
def test_median_refuses_what_is_no_timing(samples):
    with pytest.raises(ValueError, match="finite samples"):
        median(np.array(samples))


def test_ratio_refuses_unpaired_timings():
    with pytest.raises(ValueError, match="one shape"):
        paired_ratio(np.ones((2, 3)), np.ones((3, 2)))


@given(st.integers(1, 6), st.integers(1, 30))
def test_every_thing_takes_every_place_equally_often(count, rounds):
    taken = list(orders(count, rounds))
    assert len(taken) == rounds
    assert all(sorted(order) == list(range(count)) for order in taken)
    whole_blocks = taken[: rounds - rounds % count]
    for place in range(count):
        assert sorted(order[place] for order in whole_blocks) == sorted(list(range(count)) * (rounds // count))


def test_neighbours_change():
    followers = {order[order.index(0) + 1] for order in orders(4, 80) if order[-1] != 0}
    assert followers == {1, 2, 3}


@pytest.mark.parametrize(
    ("bar", "value", "interval", "verdict"),
    [
        (Bar("at most", 1.0), 0.99, (0.95, 1.03), MET),
        (Bar("at most", 1.0), 1.0, (None, None), MET),
        (Bar("at most", 1.0), 1.01, (0.99, 1.03), UNDECIDED),
        (Bar("at most", 1.0), 1.05, (1.01, 1.09), MISSED),
        (Bar("at most", 1.0), 1.05, (None, None), MISSED),
        (Bar("at least", 5.0), 5.1, (4.0, 6.0), MET),
        (Bar("at least", 5.0), 4.9, (4.5, 5.2), UNDECIDED),
        (Bar("at least", 5.0), 4.9, (4.5, 4.95), MISSED),
        (None, 1.0, (None, None), None),
    ],
)
def test_verdict(bar, value, interval, verdict):
    low, high = interval
    assert Figure("model", "what", value, "ratio", low, high, bar).verdict == verdict


def test_bar_knows_two_kinds():
    with pytest.raises(ValueError, match="at least"):
        Bar("about", 1.0)


MACHINE = {
    "cpu": "A CPU",
    "cores": 2,
    "flags": ["avx512_vnni"],
    "python": "3.11.7",
    "packages": {"torch": "2.13.0"},
    "load average before": 0.1,
}

SECTIONS = [
    Section(
        "Speed",
        "Batch 1.",
        [
            Figure.of("small", "time", Estimate(4.8, 4.7, 4.95), "ms"),
            Figure.of("small", "ratio", Estimate(1.01, 0.99, 1.02), "ratio", Bar("at most", 1.0)),
            Figure.of("large", "time", Estimate(11, 10, 12), "ms"),
        ],
        ["A note | with a bar."],
    ),
    Section("Broken", "did not run: ImportError: no module named [this]"),
    Section("Noise", "Of logits.", [Figure("small", "SQNR", float("inf"), "dB", bar=Bar("at least", 20.0))]),
]

MARKDOWN = """\
# Benchmarks

A CPU, 2 cores (avx512_vnni); Python 3.11.7, torch 2.13.0. Load average before: 0.1.

## Speed

Batch 1.

|  | time | ratio |
| --- | --- | --- |
| small | 4.80 ms [4.70, 4.95] | 1.010 [0.990, 1.020] ≈ |
| large | 11.00 ms [10.00, 12.00] |  |

* A note | with a bar.

## Broken

did not run: ImportError: no module named [this]

## Noise

Of logits.

|  | SQNR |
| --- | --- |
| small | ∞ ✓ |

## Bars

| benchmark | figure | measured | bar | verdict |
| --- | --- | --- | --- | --- |
| Speed | small: ratio | 1.010 [0.990, 1.020] | at most 1.000 | within noise |
| Noise | small: SQNR | ∞ | at least 20.0 dB | met |
"""


def test_markdown_table():
    assert scoreboard.to_markdown(SECTIONS, MACHINE) == MARKDOWN


def test_longer_side_runs_downwards():
    figures = [Figure("one model", quantity, 1.0, "s") for quantity in ("a", "b", "c")]
    columns, rows = Section("", "", figures).grid()
    assert columns == ["one model"]
    assert [name for name, _ in rows] == ["a", "b", "c"]


def test_results_are_written_whole_and_as_valid_json(tmp_path):
    folder = tmp_path / "new" / "results"
    written = scoreboard.write(SECTIONS, MACHINE, folder, "run")
    assert sorted(folder.iterdir()) == sorted(written) == [folder / "run.json", folder / "run.md"]
    document = json.loads((folder / "run.json").read_text())
    assert document["machine"] == MACHINE
    first = document["sections"][0]["figures"][1]
    assert (first["value"], first["verdict"], first["bar"]) == (1.01, UNDECIDED, {"kind": "at most", "limit": 1.0})
    assert document["sections"][2]["figures"][0]["value"] == "inf"


def test_terminal_shows_every_figure_bar_and_note():
    shown = io.StringIO()
    scoreboard.show(SECTIONS, MACHINE, Console(file=shown, width=140))
    for text in (
        "4.80 ms [4.70, 4.95]",
        "1.010 [0.990, 1.020] ≈",
        "A note | with a bar.",
        "[this]",
        "within noise",
        "A CPU",
    ):
        assert text in shown.getvalue()


def layer(name, precision, *inputs, type="Convolution", shape=(1, 8, 4, 4)):
    return Layer(name, type, precision, shape, inputs)


CHAIN = [
    layer("x", "f32", type="Input"),
    layer("quantize", "f32", "x", type="Subgraph"),
    layer("a", "u8", "quantize"),
    layer("move", "f32", "a", type="Reorder"),
    layer("b", "f32", "move", type="Pooling"),
    layer("c", "u8", "b"),
    layer("d", "f32", "c"),
    layer("y", "f32", "d", type="Output"),
]


def test_float_island_lies_between_integer_layers():
    """The quantizer at the entrance and the float tail are none."""
    assert [[inner.name for inner in island] for island in placement.float_islands(CHAIN)] == [["move", "b"]]
    assert placement.float_islands(CHAIN[:4]) == []


def test_integer_share_counts_computing_layers():
    assert placement.integer_share(CHAIN) == 2 / 5
    assert placement.integer_share([]) == 0


def test_layers_lost_to_a_peer_are_found_by_role():
    peer = [
        layer("p", "i8", type="Reduce", shape=(1, 8, 4, 4)),
        layer("q", "u8"),
        layer("r", "u8"),
        layer("s", "u8", shape=(1, 16, 4, 4)),
    ]
    assert [lost.name for lost in placement.float_where_peer_is_not(CHAIN, peer)] == ["b"]
    assert [lost.name for lost in placement.float_where_peer_is_not(CHAIN, [*peer, layer("t", "u8")])] == ["b", "d"]
    assert placement.float_where_peer_is_not(CHAIN, CHAIN) == []


def test_placement_bars_are_the_best_of_the_peers():
    perfect = [layer("a", "u8"), layer("b", "u8", "a")]
    figures = placement.figures("net", {"fxcompress": CHAIN, "peer": perfect})
    verdicts = {(figure.subject, figure.quantity): figure.verdict for figure in figures if figure.bar}
    assert verdicts == {
        ("net, fxcompress", "integer"): MISSED,
        ("net, fxcompress", "islands"): MISSED,
        ("net, peer", "lost"): MET,
    }


def test_latency_figures_from_timings():
    base = np.full((2, 3), 0.010)
    tools = {"FP32": 4 * base, "fxcompress": base, "NNCF torch": 0.9 * base, "onnxruntime": 1.1 * base}
    figures = latency.figures("resnet18", tools | {latency.CONTROL: base})
    verdicts = {figure.quantity: figure.verdict for figure in figures if figure.bar}
    assert verdicts == {
        "fxcompress / NNCF torch": MISSED,
        "fxcompress / onnxruntime": MET,
        "FP32 / fxcompress": MET,
    }
    values = {figure.quantity: figure.value for figure in figures}
    assert values["FP32"] == pytest.approx(40) and values[f"fxcompress / {latency.CONTROL}"] == 1


def test_compile_time_figures_from_timings():
    one = np.ones(3)
    taken = {"fxcompress": 5 * one, "NNCF torch": 30 * one, "NNCF torch, batches": 20 * one}
    taken |= {"calibration": 3.3 * one, "forward": 3 * one, "rest": 1.7 * one, "export": one}
    figures = compile_time.figures("net", taken)
    verdicts = {figure.quantity: (round(figure.value, 2), figure.verdict) for figure in figures if figure.bar}
    assert verdicts == {
        "NNCF torch / fxcompress": (6.0, MET),
        "calibration / forward": (1.1, MET),
        "rest / export": (1.7, MISSED),
    }


def test_agreement_measures():
    reference = np.array([[0.0, 2.0], [3.0, 1.0]])
    assert openvino_runner.top1_agreement(reference[:, ::-1], reference) == 0
    assert openvino_runner.top1_agreement(reference * 2, reference) == 1
    assert openvino_runner.decibels(reference, reference) == float("inf")
    assert openvino_runner.decibels(reference * 1.1, reference) == pytest.approx(20)


def test_machine_is_described():
    described = machine.describe_machine()
    assert described["cores"] >= 1 and "torch" in described["packages"]
    assert described["cpu"] in machine.one_line(described)


def test_photographs_serve_one_purpose_each():
    pytest.importorskip("skimage")
    pytest.importorskip("sklearn")
    for photograph in photographs.photographs():
        calibration, scoring = (photographs._part(photograph, purpose) for purpose in photographs.SEEDS)
        assert calibration.numel() + scoring.numel() == photograph.numel()
        ends = [part.data_ptr() for part in (calibration, scoring)]
        assert photograph.data_ptr() == ends[0] < ends[1]
        assert not np.array_equal(calibration[0, 0, :9], scoring[0, 0, :9])


def test_crops_are_the_same_in_every_run_and_normalised():
    pytest.importorskip("skimage")
    pytest.importorskip("sklearn")
    first = photographs.scoring_images(14)
    photographs.crops.cache_clear()
    assert first.shape == (14, 3, 224, 224) and first.dtype == torch.float32
    assert torch.equal(first, photographs.scoring_images(14))
    assert torch.equal(first[:5], photographs.scoring_images(5))
    assert abs(first.mean()) < 1 and 0.5 < first.std() < 1.5
    assert not torch.equal(first, photographs.calibration_images(14))


def test_missing_peer_says_what_to_install():
    with pytest.raises(SystemExit, match=r"need no_such_peer.*\n.*pip install"):
        requirements.need("no_such_peer.quantization")


def test_every_tool_has_a_file_of_its_own(tmp_path):
    paths = [peers.file_of(tool, "net", tmp_path) for tool in post_training.TOOLS]
    assert len(set(paths)) == len(paths)


def test_quick_run_keeps_clear_of_the_results_and_of_what_was_asked_for():
    quick = post_training._parse(["--quick", "--images", "7"])
    assert (quick.images, quick.scoring, quick.networks) == (7, 10, ["resnet18"])
    assert quick.output.parts[-2:] == ("out", "benchmarks")
    assert post_training._parse([]).output.parts[-2:] == ("benchmarks", "results")


def test_a_benchmark_that_fails_loses_no_other(tmp_path, monkeypatch, capsys):
    def section(benchmark, options, folder):
        if benchmark == "latency":
            raise RuntimeError("no such device")
        return SECTIONS[0]

    monkeypatch.setattr(post_training, "_section", section)
    monkeypatch.setattr(post_training.scoreboard, "show", lambda *_: None)
    arguments = ["--output", str(tmp_path), "--files", str(tmp_path / "files"), "--only", "latency", "placement"]
    assert post_training.main(arguments) == 1
    titles = [section["title"] for section in json.loads((tmp_path / "post_training.json").read_text())["sections"]]
    assert titles == ["latency", "Speed"]
    assert "no such device" in (tmp_path / "post_training.md").read_text()


def test_a_binary_file_is_measured_against_the_others():
    seconds = {binary.FLOAT: 5.0, binary.INT8: 1.4, binary.BINARY: 1.0, binary.BINARY_ONNX: 2.0}
    found = binary.figures("net", {kind: np.full((2, 3), value) for kind, value in seconds.items()})
    told = {figure.quantity: (figure.value, figure.verdict) for figure in found}
    assert told["FP32 / binary"] == (5.0, MET)
    assert told["INT8 / binary"] == (1.4, MISSED)
    assert told["binary, ONNX / binary"] == (2.0, None)
    assert told["binary"] == (1000.0, None)


def test_the_files_of_a_binary_network_and_its_twins(tmp_path):
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3), torch.nn.ReLU())
    files = binary.build_files(binary.Subject(lambda: network, (3, 9, 9), passes.Binarize()), tmp_path / "net")
    types = {kind: {layer.type for layer in placement.execution_graph(path, (1, 3, 9, 9))} for kind, path in files.items()}
    assert [kind for kind, found in types.items() if "BinaryConvolution" in found] == [binary.BINARY]


def test_a_quick_run_of_the_binary_benchmark_is_short():
    quick = binary._parse(["--quick", "--rounds", "7"])
    assert (quick.loads, quick.rounds, quick.output.parts[-2:]) == (2, 7, ("out", "benchmarks"))
    assert (binary._parse([]).loads, binary._parse([]).output.parts[-2:]) == (6, ("benchmarks", "results"))


def test_one_ratio_is_held_against_both_bars():
    """Twice as fast as the peer is not slower, and not five times as fast."""
    taken = {peers.OURS.name: np.array([2.0, 3.0, 2.5]), sentence_embeddings.NNCF_TRANSFORMER: np.array([4.0, 6.0, 5.0])}
    figures = sentence_embeddings.compile_figures(taken)
    assert [(figure.value, figure.verdict) for figure in figures] == [(2.5, None), (5.0, None), (2.0, MET), (2.0, MISSED)]


def test_a_change_is_tried_on_the_tests_that_execute_its_line(tmp_path):
    room, tests = tmp_path / "room", tmp_path / "tests"
    for folder in (room, tests, tmp_path / "package"):
        folder.mkdir()
    (tmp_path / "package" / "room").symlink_to(room)  # as passes lie beside the package
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (room / "thing.py").write_text(THING)
    (tests / "test_thing.py").write_text(TESTS_OF_THING)
    command = [sys.executable, "-c", TRY_THING, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    printed = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    assert {what: (verdict, of) for what, verdict, of in json.loads(printed.splitlines()[-1])} == {
        "3  ->  4": ("seen", 3),
        "0  ->  1": ("seen", 3),
        "if x > LIMIT:  ->  if not x > LIMIT:": ("seen", 3),
        "x > LIMIT  ->  x >= LIMIT": ("survived", 3),  # both are the limit there
        "max  ->  min": ("seen", 2),
        "x + 1  ->  x - 1": ("no test", 0),
        "1  ->  2": ("no test", 0),
    }


THING = """
LIMIT = 3


def clipped(x, low=0):
    if x > LIMIT:
        return LIMIT
    return max(x, low)


def unused(x):
    return x + 1
"""

TESTS_OF_THING = """
from package.room.thing import clipped


def test_high():
    assert clipped(9) == 3


def test_low():
    assert clipped(-1) == 0


def test_between():
    assert clipped(2) == 2
"""

TRY_THING = """
import json, sys
from pathlib import Path
from benchmarks.mutations.changes import mutants
from benchmarks.mutations.choosing import Executed, Texts
from benchmarks.mutations.judging import Judge, Source
from benchmarks.mutations.recording import record

root = Path(sys.argv[1])
record(root / "tests" / "test_thing.py", [root / "room", root / "package"], root, 5, root)
source = Source("room", "package.room.thing", root / "room" / "thing.py")
texts = Texts({"room/thing.py": source.text})
judge = Judge(root, Executed(root), texts, 60.0, "tests/test_thing.py::test_high", root / "log")
verdicts = [(mutant.what, judge.judge(source, mutant)) for mutant in mutants(source.module, source.text)]
print(json.dumps([(what, found.verdict, found.of) for what, found in verdicts]))
"""
