"""`compile` end to end: what is simulated is what is emitted, and the emitted file runs in both runtimes."""

import copy
import pickle
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from levels import Undecided
from recipes import recipes
from torch import nn

import fxcompress
from fxcompress import passes
from fxcompress.data.inputs import ExampleInputs
from fxcompress.errors import (
    CalibrationError,
    CaptureError,
    FileWarning,
    InputError,
    PartialCaptureWarning,
    PlanError,
    ScopeError,
)
from fxcompress.execution.agreement import agreement, outputs, sqnr
from fxcompress.parts import SubmoduleData

CORE = openvino.Core()


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.dropout, self.head = nn.Dropout(0.5), nn.Linear(8, 4)

    def forward(self, x):
        x = self.stem(x)
        x = F.relu(self.body(x) + x)
        return self.head(self.dropout(x.mean((2, 3))))


def images(batch=4, seed=0):
    return torch.randn(batch, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def residual():
    torch.manual_seed(0)
    return Residual()


def run_onnx(path, x, optimized=True):
    options = onnxruntime.SessionOptions()
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options)
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


def run_openvino(path, x):
    model = CORE.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return torch.from_numpy(np.array(model([x.numpy()])[0]))


def quantized_values(path, x):
    """Every QuantizeLinear of the file at `path`: (name, its float input, scale, zero point, its integers)."""
    model = onnx.load(path)
    nodes = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    known = {value.name for value in model.graph.output}
    for node in nodes:
        for name in {node.input[0], node.output[0]} - known - {value.name for value in model.graph.input}:
            model.graph.output.append(onnx.ValueInfoProto(name=name))
            known.add(name)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    found = dict(zip([o.name for o in session.get_outputs()], session.run(None, {session.get_inputs()[0].name: x.numpy()})))
    return {node.name: found[node.output[0]] for node in nodes}


@settings(max_examples=25)
@given(recipes(), st.sampled_from(["openvino", "onnxruntime"]))
def test_the_file_computes_what_the_simulation_does(tmp_path_factory, recipe, target):
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    compiled = fxcompress.compile(recipe.build(), data=[recipe.inputs(4)], target=target)
    compiled.to_onnx(path)
    onnx.checker.check_model(path, full_check=True)
    for batch in (1, 2, 5):
        x = recipe.inputs(batch)
        expected = compiled(x)
        theirs = run_openvino(path, x) if target == "openvino" else run_onnx(path, x)
        for found in (theirs, run_onnx(path, x, optimized=False)):
            assert found.shape == expected.shape
            assert sqnr(expected, found) > 25  # a few values may round to the neighbouring step, and shift others


def test_every_quantizer_agrees_to_one_step_with_onnxruntime(tmp_path):
    compiled = fxcompress.compile(residual(), data=[images()], target="onnxruntime")
    path = compiled.to_onnx(tmp_path / "model.onnx")
    lowered, x = compiled.lower(), images(8, seed=1)

    class Recorder(torch.fx.Interpreter):
        def run_node(self, n):
            value = super().run_node(n)
            seen[n.name] = value
            return value

    seen = {}
    Recorder(lowered).run(x)
    theirs = quantized_values(path, x)
    assert len(theirs) >= 5
    for name, integers in theirs.items():
        difference = seen[name].int().numpy() - integers.astype(np.int32)
        assert np.abs(difference).max() <= 1 and (difference != 0).mean() < 1e-2, name


def test_the_report_and_the_file_say_what_was_done(tmp_path):
    compiled = fxcompress.compile(residual(), data=[images()])
    assert [row.effect for row in compiled.report.rows] == [*["exact"] * 2, *["rounding"] * 5, *["lossy"] * 3]
    model = onnx.load(compiled.to_onnx(tmp_path / "model.onnx"))
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert "Quantize()" in metadata["fxcompress.passes"] and metadata["fxcompress.target"] == "openvino"
    weights = [i for i in model.graph.initializer if i.data_type == onnx.TensorProto.INT8 and len(i.dims) == 4]
    assert len(weights) == 2
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_the_users_model_is_left_as_it_was():
    model = residual().train()
    before = copy.deepcopy(model.state_dict())
    fxcompress.compile(model, data=[images()])
    assert model.training and all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_compiled_model_copies_and_switches_modes():
    compiled = fxcompress.compile(residual(), data=[images()])
    twin = copy.deepcopy(compiled)
    assert twin.state_dict().keys() == compiled.state_dict().keys()
    assert agreement([compiled(images())], [twin(images())]) == float("inf")
    assert not compiled.training
    compiled.train()
    assert "training=True" not in compiled.text() or compiled.training
    assert not torch.equal(compiled(images()), compiled(images()))  # dropout is alive
    compiled.eval()
    assert agreement([compiled(images())], [twin(images())]) == float("inf")


@pytest.mark.parametrize("entry", ["module", "graph module", "exported program"])
def test_all_entries_give_the_same_result(entry):
    model = residual().eval()
    given_model = {
        "module": lambda: model,
        "graph module": lambda: torch.fx.symbolic_trace(model),
        "exported program": lambda: torch.export.export(model, (images(),), dynamic_shapes=({0: torch.export.Dim("n")},)),
    }[entry]()
    compiled = fxcompress.compile(given_model, example_inputs=images(), data=[images()])
    expected = fxcompress.compile(model, example_inputs=images(), data=[images()])
    assert sqnr(expected(images(2)), compiled(images(2))) > 60


def test_data_may_come_in_any_form():
    expected = fxcompress.compile(residual(), data=[images(4)])(images(2))
    for data in ([(images(4), torch.zeros(4))], iter([images(4)]), [images(4)[:1], images(4)[1:]]):
        assert torch.equal(fxcompress.compile(residual(), data=data, example_inputs=images(2))(images(2)), expected)


def test_onnx_is_not_written_under_the_name_of_another_format(tmp_path):
    compiled = fxcompress.compile(residual(), [], example_inputs=images())
    with pytest.raises(InputError, match=r"call to_openvino\(.*m.xml"):
        compiled.to_onnx(tmp_path / "m.xml")
    assert not list(tmp_path.iterdir())


def test_running_the_pipeline_twice_changes_nothing_more():
    twice = [passes.FoldBatchNorm(), passes.FoldBatchNorm(), passes.CanonicalizeActivations(), passes.CanonicalizeActivations()]
    compiled = fxcompress.compile(residual(), twice, example_inputs=images())
    assert [row.rewrites for row in compiled.report.rows[2::2]] == [0, 0]


@pytest.mark.parametrize("submodules", [None, ["backbone"]])
def test_a_model_that_does_not_trace_is_compiled_in_part(tmp_path, submodules):
    model = Undecided(residual()).eval()
    compiled = fxcompress.compile(model, data=[images()], submodules=submodules)
    assert isinstance(compiled, fxcompress.PartlyCompiled) and list(compiled.parts) == ["backbone"]
    assert sqnr(model(images()), compiled(images())) > 20
    assert [path.name for path in compiled.to_onnx(tmp_path / "parts")] == ["backbone.onnx"]
    assert [path.name for path in compiled.to_openvino(tmp_path / "parts")] == ["backbone.xml"]
    with pytest.warns(
        FileWarning, match="ends with what backbone returned, since Undecided cannot be traced: .*To have more in it, say what"
    ):
        assert compiled.to_openvino(tmp_path / "model.xml") == tmp_path / "model.xml"
    assert "backbone: Quantize" in str(compiled.report)
    if submodules is None:
        assert "was not compiled" in str(compiled.report)


# ------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"passes": []}, InputError, "example_inputs"),
        ({"data": []}, InputError, "empty"),
        ({"data": [images()[:, :2]], "example_inputs": images()}, InputError, "expected the shape"),
        ({"data": [images().double()], "example_inputs": images()}, InputError, "expected torch.float32"),
        ({"data": [torch.full_like(images(), torch.nan)], "example_inputs": images()}, CalibrationError, "nan.*'?x"),
        ({"data": [torch.full_like(images(), torch.nan)]}, CalibrationError, r"x \(an input of the model\)"),
        ({"data": [images().double()]}, CaptureError, r"does not run on the example inputs ExampleInputs\(float64"),
        ({"data": [images().numpy()]}, InputError, "a batch of data is a ndarray, .* convert it with torch.as_tensor"),
        ({"data": [{"image": images()}]}, InputError, r"takes \(x\), not ExampleInputs\(image=float32.*with these names"),
        ({"example_inputs": (images(), images()), "passes": []}, InputError, "too many positional arguments"),
        ({"data": [images() * torch.inf], "example_inputs": images()}, CalibrationError, "x"),
        ({"example_inputs": images()}, InputError, "needs data"),
        ({"data": [images()], "target": "openvin"}, InputError, "did you mean 'openvino'"),
        ({"data": [images()], "submodules": ["stam"]}, ScopeError, "did you mean 'stem'"),
        ({"data": [images()], "submodules": []}, ScopeError, "at least one submodule"),
        ({"data": [images()], "submodules": ["stem", "stem.0"]}, ScopeError, "'stem.0' is a part of 'stem'"),
        ({"data": [images()], "passes": [passes.Quantize(ignored=["stemm"])]}, ScopeError, "did you mean .*'stem'"),
        ({"data": [images()], "passes": [passes.Calibrate()]}, PlanError, "Quantize"),
    ],
)
def test_bad_input_is_explained(arguments, error, message):
    with pytest.raises(error, match=message):
        fxcompress.compile(residual(), **arguments)


def test_an_unknown_estimator_is_explained_where_it_is_named():
    with pytest.raises(InputError, match="min_max"):
        passes.Calibrate(estimator="mean")


def test_a_device_mismatch_is_explained():
    with pytest.raises(InputError, match="meta"):
        fxcompress.compile(residual(), data=[images().to("meta")], example_inputs=images())


def test_a_model_that_cannot_be_traced_at_all_is_explained():
    class Hopeless(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(CaptureError, match="x if x.sum"):
        fxcompress.compile(Hopeless(), [], example_inputs=images())


def test_nan_in_a_weight_is_explained():
    model = residual()
    model.head.weight.data[0, 0] = torch.nan
    with pytest.raises(InputError, match="head.weight.*repair the weights"):
        fxcompress.compile(model, data=[images()])


def test_lowering_needs_ranges(tmp_path):
    compiled = fxcompress.compile(residual(), [passes.Quantize()], example_inputs=images())
    with pytest.raises(PlanError, match=r"list Calibrate\(\) after Quantize\(\)"):
        compiled.to_onnx(tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_an_unwritable_path_is_explained(tmp_path):
    compiled = fxcompress.compile(residual(), [passes.FoldBatchNorm()], example_inputs=images())
    with pytest.raises(InputError, match="nowhere"):
        compiled.to_onnx(tmp_path / "nowhere" / "model.onnx")


def test_other_grids_can_be_lowered(tmp_path):
    grid = fxcompress.QuantizationSpec(bits=6, symmetric=False)
    chosen = [passes.FoldBatchNorm(), passes.Quantize(activations=grid, per_channel=False), passes.Calibrate()]
    compiled = fxcompress.compile(residual(), chosen, data=[images()])
    path = compiled.to_onnx(tmp_path / "model.onnx")
    assert sqnr(compiled(images()), run_onnx(path, images())) > 25


def test_two_passes_read_all_of_a_generator():
    chosen = [passes.FoldBatchNorm(), passes.Quantize(), passes.Calibrate(), passes.Calibrate(samples=None)]
    compiled = fxcompress.compile(residual(), chosen, data=(images(seed=seed) for seed in range(3)))
    assert [note.split(" samples")[0] for row in compiled.report.rows[-2:] for note in row.notes] == ["12", "12"]


class Overwrites(nn.Module):
    """Writes to its inputs in place, and so does its block."""

    def __init__(self, traceable=True):
        super().__init__()
        self.block, self.traceable = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 4)), traceable

    def forward(self, x):
        x = self.block(x.mul_(2).sub_(1))
        return x if self.traceable or x.sum() > 0 else -x


@pytest.mark.parametrize("traceable", [True, False])
def test_a_model_that_writes_to_its_inputs_is_compiled_and_the_data_stay(traceable):
    model, data = Overwrites(traceable).eval(), [torch.randn(3, 4), torch.randn(5, 4)]
    kept = copy.deepcopy(data)
    compiled = fxcompress.compile(model, data=data)
    assert all(map(torch.equal, data, kept))
    assert not traceable or "writes to 'x' while it runs" in compiled.report.notes[0]
    assert sqnr(model(kept[1].clone()), compiled(kept[1].clone())) > 25


def test_a_part_is_calibrated_on_what_it_is_given_not_on_what_it_makes_of_it():
    x = torch.randn(3, 4)
    (given,) = SubmoduleData(Overwrites(), "block", [x], ExampleInputs((x,)))
    assert torch.equal(given.args[0], 2 * x - 1)


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        scores = self.first(x).masked_fill(x < 0, torch.finfo(torch.float32).min)
        return self.second(scores.softmax(-1))


def test_a_mask_of_the_lowest_float_is_observed_where_the_cpu_has_bfloat16(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    compiled = fxcompress.compile(Masked(), data=[torch.randn(4, 8)])
    assert "4 samples, bfloat16 forward" in str(compiled.report.notes)
    assert compiled.report.rows[-1].decibels > 30


def test_a_compiled_model_is_saved_by_its_state():
    compiled = fxcompress.compile(residual(), [passes.FoldBatchNorm()], example_inputs=images())
    with pytest.raises(TypeError, match=r"torch.save\(compiled.checkpoint\(\)"):
        pickle.dumps(compiled)


def test_graphs_written_while_compiling_are_those_written_afterwards(tmp_path):
    chosen = [passes.FoldBatchNorm(), passes.RemoveDropout()]
    compiled = fxcompress.compile(residual(), chosen, example_inputs=images(), dump=tmp_path / "during")
    written = compiled.dump(tmp_path / "after")
    assert len(written) == 12
    for file in written:
        assert (tmp_path / "during" / file.name).read_text() == file.read_text()


def test_outputs_are_compared_in_whole():
    assert agreement(outputs(nn.Identity(), ExampleInputs((images(),))), [images()]) == float("inf")
    assert agreement([images()], [images(), images()]) == float("-inf")


@pytest.mark.parametrize("reader", [torch.exp, torch.abs, F.relu, lambda y: 2 * y, lambda y: y])
def test_openvino_keeps_the_readers_of_a_convolution_apart(tmp_path, reader):
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1, bias=False)

        def forward(self, x):
            y = self.conv(x)
            return y + reader(y)

    compiled = fxcompress.compile(Shared(), data=[images()])
    assert sqnr(compiled(images()), run_openvino(compiled.to_onnx(tmp_path / "model.onnx"), images())) > 60


@pytest.mark.parametrize("activation", [nn.Identity, nn.ReLU, nn.ReLU6, nn.Hardswish, nn.SiLU, nn.PReLU])
@pytest.mark.parametrize("groups", [1, 16])
def test_openvino_rounds_a_residual_sum_as_the_simulation_does(tmp_path, activation, groups):
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 8, 1)
            self.second = nn.Conv2d(16, 16, 3, padding=1, groups=groups)
            self.third, self.activation = nn.Conv2d(16, 16, 1), activation()

        def forward(self, x):
            x = self.first(x).relu()
            return self.last(self.activation(self.second(x)) + self.third(x))

    torch.manual_seed(0)
    exact = [
        replace(one, exact_sums=True) if isinstance(one, passes.Quantize) else one
        for one in fxcompress.defaults.post_training()
    ]
    compiled = fxcompress.compile(Residual(), exact, data=[images()])
    assert sqnr(compiled(images()), run_openvino(compiled.to_onnx(tmp_path / "model.onnx"), images())) > 60


@pytest.mark.parametrize("join", [lambda y, z: torch.cat([y, z], 1), lambda y, z: torch.stack([y, z], 1)], ids=["cat", "stack"])
def test_openvino_compiles_a_linear_layer_behind_joined_rows(tmp_path, join):
    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(16, 4)

        def forward(self, x):
            return self.head(join(torch.tanh(x), torch.sigmoid(x)))

    compiled = fxcompress.compile(Joined(), data=[images()])
    assert sqnr(compiled(images()), run_openvino(compiled.to_onnx(tmp_path / "model.onnx"), images())) > 60


@pytest.mark.parametrize("read", [True, False])
@pytest.mark.parametrize("taken", ["conv_weight_quantizer", "conv_weight_scale", "input_1_quantizer"])
def test_what_passes_add_takes_no_name_that_the_model_has_given(taken, read):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1, bias=False)
            self.register_buffer(taken, torch.full((4, 1, 1), 7.0))

        def forward(self, input_1):
            y = self.conv(input_1)
            return y + torch.exp(y) + (getattr(self, taken) if read else 0)

    compiled = fxcompress.compile(Named(), data=[images()])
    assert (compiled.get_buffer(taken) == 7).all()
    assert agreement([compiled(images())], [compiled.lower()(images())]) > 80


class _Says(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x, scale=None, shift=None, twice=False):
        y = self.layer(x) * (1.0 if scale is None else scale)
        return y * 2 if twice else y


class _SaysNothing(nn.Module):
    """Calls its part with arguments that say nothing, and cannot be traced itself."""

    def __init__(self):
        super().__init__()
        self.part = _Says()

    def forward(self, x):
        y = self.part(x=x, shift=None, scale=x, twice=False)
        return y * 2 if y.sum() > 0 else y - 1


def test_arguments_that_are_none_say_nothing():
    model, x = _SaysNothing(), torch.randn(2, 4)
    with pytest.warns(PartialCaptureWarning):
        whole = fxcompress.compile(model, [], example_inputs=x)
    torch.testing.assert_close(whole(x), model(x))
    compiled = fxcompress.compile(model.part, [], example_inputs={"x": x, "scale": None, "twice": True})
    torch.testing.assert_close(compiled(x=x, scale=None, shift=None, twice=True), model.part(x, twice=True))
    alone = fxcompress.compile(model.part, [], example_inputs=x)
    torch.testing.assert_close(alone(x, scale=None), model.part(x))
    with pytest.raises(InputError, match="scale"):
        alone(x, scale=x)
