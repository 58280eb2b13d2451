"""Kernels and latencies: how they are told apart, and what passes make of them. No speed is tested."""

import sys
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_sensitivity import Net
from torch import nn

import fxcompress
from fxcompress import defaults, passes
from fxcompress.emit.lowering import lower
from fxcompress.errors import InputError, PlanError
from fxcompress.measure import latency
from fxcompress.measure.latency import Executed, Kernel, charge, is_faster, measure_kernels, measure_latencies, seconds_of
from fxcompress.quantization.quantized import quantized_layers, quantizer_calls
from fxcompress.targets import OPENVINO_CPU


@pytest.fixture(scope="module")
def data():
    return list(torch.randn(12, 2, 6, 6, generator=torch.Generator().manual_seed(0)).split(5))


def node(name, integer, *inputs, kind="Convolution", originals=None):
    return Executed(name, kind, integer, (name,) if originals is None else originals, inputs)


def charged(*graph, **seconds):
    return {kernel.names[0]: kernel.seconds for kernel in charge(graph, seconds)}


def test_a_conversion_is_charged_to_the_float_side():
    graph = [node("x", False, kind="Input"), node("a", True, "x"), node("r", False, "a", kind="Reorder", originals=())]
    graph += [node("b", False, "r"), node("b_quantize", False, "b", kind="Subgraph"), node("c", True, "b_quantize")]
    assert charged(*graph, a=1.0, r=10.0, b=2.0, b_quantize=100.0, c=4.0) == {"a": 1.0, "b": 112.0, "c": 4.0}


def test_what_converts_the_input_is_charged_to_its_reader():
    graph = [node("x", False, kind="Input"), node("x_quantize", False, "x"), node("r", True, "x_quantize", kind="Reorder")]
    assert charged(*graph, node("a", True, "r"), x_quantize=1.0, r=2.0, a=4.0) == {"a": 7.0}


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 9)), min_size=1, max_size=8))
def test_charging_loses_no_time(chain):
    """Along a chain of kernels and conversions, where there is a kernel to charge."""
    names = [f"n{i}" for i in range(len(chain))]
    graph = [
        node(name, integer, *names[max(i - 1, 0) : i], kind="Reorder" if converts else "Convolution")
        for i, (name, (converts, integer, _)) in enumerate(zip(names, chain))
    ]
    total = sum(kernel.seconds for kernel in charge(graph, {name: float(c[2]) for name, c in zip(names, chain)}))
    assert total == (0 if all(converts for converts, _, _ in chain) else sum(taken for _, _, taken in chain))


@given(st.floats(0, 0.9), st.floats(0, 0.9))
def test_faster_is_told_by_the_margin(gain, really):
    old = np.linspace(1.0, 3.0, 20)  # the machine drifts, which pairs cancel
    assert is_faster(old * (1 - really), old, gain) == (really >= gain and really > 0) or abs(really - gain) < 1e-6


def test_one_lucky_run_is_not_faster():
    old, new = np.ones(30), np.ones(30)
    new[:5] = 0.01
    assert not is_faster(new, old, 0.01)


def to_file(module):
    return partial(lower, passes=defaults.lowering(), example=module.compilation.example, target=OPENVINO_CPU)


def test_the_plugin_names_every_layer(data):
    """Kernels are found for each layer of the integer file, those of the outputs included, or it is fused to another."""
    module = fxcompress.compile(Net(), data=data)
    plain = fxcompress.compile(Net(), defaults.post_training()[:2], data=data)
    kernels = measure_kernels({"i": module, "f": plain}, module.compilation.example, to_file(module))
    layers = [layer.node for layer in quantized_layers(module, OPENVINO_CPU)]
    seen = {name.partition("/")[0] for kernel in kernels["i"] for name in kernel.names}
    assert {layer.name for layer in layers} <= seen
    assert {"a", "head"} <= {kernel.names[0] for kernel in kernels["i"]}
    assert seconds_of(kernels["i"], layers[0], OPENVINO_CPU) > 0  # counters tell microseconds; the smallest layers take none
    assert any(kernel.integer for kernel in kernels["i"]) and not any(kernel.integer for kernel in kernels["f"])


def test_rounds_are_paired(data):
    module = fxcompress.compile(Net(), data=data)
    taken = measure_latencies({"a": module, "b": module}, module.compilation.example, to_file(module))
    assert taken["a"].shape == taken["b"].shape and (taken["a"] > 0).all()


def pretend(monkeypatch, integer, real, cost):
    """A machine on which kernels take these milliseconds, and a file what `cost` says of its layers in integers."""

    def kernels(variants, example, lower):
        times = {"integer": integer, "float": real}
        return {which: [Kernel((name,), False, ms / 1e3) for name, ms in times[which].items()] for which in variants}

    def whole(variants, example, lower):
        layers = {
            which: {one.node.name for one in quantized_layers(module, OPENVINO_CPU)} for which, module in variants.items()
        }
        return {which: np.full(9, cost(found)) for which, found in layers.items()}

    monkeypatch.setattr(latency, "measure_kernels", kernels)
    monkeypatch.setattr(latency, "measure_latencies", whole)


def compiled(data, *options, **more):
    torch.manual_seed(0)
    return fxcompress.compile(Net(), [*defaults.post_training(), passes.RestoreSlowLayers(*options, **more)], data=data)


def in_integers(module):
    return {layer.node.name for layer in quantized_layers(module, OPENVINO_CPU)}


def test_a_layer_that_is_slower_in_integers_returns_to_float(data, monkeypatch):
    pretend(monkeypatch, {"a": 3, "b": 1}, {"a": 1, "b": 2}, lambda layers: 10 + 2 * ("a" in layers))
    module = compiled(data)
    assert "a" not in in_integers(module) and "b" in in_integers(module)
    assert "a (3.000 ms in integers, 1.000 ms in float); the whole file: 12000.00 → 10000.00 ms" in module.report.notes[-1]
    module.lower()


def test_it_stays_where_the_whole_file_is_not_faster(data, monkeypatch):
    pretend(monkeypatch, {"a": 3, "b": 3}, {"a": 1, "b": 1}, lambda layers: 10)
    module = compiled(data)
    assert {"a", "b"} <= in_integers(module) and module.report.rows[-1].rewrites == 0
    assert "the file is not faster with them in float" in module.report.notes[-1]


def test_of_several_only_those_stay_in_float_that_help(data, monkeypatch):
    cost = lambda layers: 10 + 2 * ("a" in layers) - 5 * ("b" in layers)  # noqa: E731
    pretend(monkeypatch, {"a": 3, "b": 4}, {"a": 1, "b": 1}, cost)
    found = in_integers(compiled(data))
    assert "a" not in found and "b" in found


def test_the_margins_are_kept(data, monkeypatch):
    pretend(monkeypatch, {"a": 1.2}, {"a": 1.0}, lambda layers: 100 + 2 * ("a" in layers))
    assert "a" not in in_integers(compiled(data, margin=0.1, gain=0.01))
    assert "a" in in_integers(compiled(data, margin=0.3, gain=0.01))
    assert "a" in in_integers(compiled(data, margin=0.1, gain=0.05))


def test_at_most_so_many_layers(data, monkeypatch):
    pretend(monkeypatch, {"a": 3, "b": 4}, {"a": 1, "b": 1}, lambda layers: 10 + len(layers))
    found = in_integers(compiled(data, max_layers=1))
    assert "b" not in found and "a" in found  # b promises more


def test_no_slow_layer_is_told(data, monkeypatch):
    pretend(monkeypatch, {"a": 1}, {"a": 3}, lambda layers: 10)
    assert "no layer is slower in integers" in compiled(data).report.notes[-1]


def test_the_price_of_restored_layers_is_noted(data):
    module = fxcompress.compile(
        Net(), [*defaults.post_training(), passes.RestorePrecision(min_decibels=300, max_layers=1, latency=True)], data=data
    )
    assert sum(" ms" in note for note in module.report.notes) >= 2
    assert "the whole file: " in module.report.notes[-1] and quantizer_calls(module)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"margin": -0.1}, "margin of 0 or more, got -0.1"),
        ({"margin": float("nan")}, "margin of 0 or more, got nan"),
        ({"gain": 1}, "gain from 0 to below 1, got 1"),
        ({"max_layers": 0}, "max_layers of 1 or more, or None, got 0"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        passes.RestoreSlowLayers(**options)


def test_other_targets_are_refused(data):
    with pytest.raises(InputError, match="measures in OpenVINO, but the target is 'onnxruntime'"):
        fxcompress.compile(Net(), [*defaults.post_training(), passes.RestoreSlowLayers()], data=data, target="onnxruntime")


def test_it_comes_after_calibration(data):
    with pytest.raises(PlanError, match="RestoreSlowLayers needs 'calibrated'"):
        fxcompress.compile(nn.Linear(2, 2), [passes.Quantize(), passes.RestoreSlowLayers()], data=[torch.ones(1, 2)])


def test_without_openvino_it_is_said_what_to_install(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    message = r"measuring latency needs OpenVINO: pip install 'fxcompress\[openvino\]'"
    with pytest.raises(InputError, match=message):
        passes.RestorePrecision(min_decibels=1.0, latency=True)
    with pytest.raises(InputError, match=message):
        compiled(data)
