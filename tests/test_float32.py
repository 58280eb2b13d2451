"""Models of half and double precision: compiled in float32, with their own types at the interface; and what is no model."""

import itertools
import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime
import openvino
import pytest
import torch
from torch import nn

import fxcompress
from fxcompress import passes
from fxcompress.capture.autocasts import without_autocast
from fxcompress.errors import InputError, PartialCaptureWarning
from fxcompress.execution.agreement import sqnr

CORE = openvino.Core()


def network():
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)]
    return nn.Sequential(*body).eval()


class Mixed(nn.Module):
    """A backbone in half precision, a head in float32, and a cast of its own."""

    def __init__(self):
        super().__init__()
        self.backbone, self.head = nn.Linear(8, 8).half(), nn.Linear(8, 4)

    def forward(self, x):
        features = self.backbone(x.to(torch.float16))
        return self.head(features.float()), features


class Bounded(nn.Module):
    """A model that asks what its type can hold, and makes tensors of it."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x):
        scores = self.linear(x).masked_fill(x < 0, torch.finfo(x.dtype).min)
        return scores.softmax(-1) + torch.zeros(6, dtype=x.dtype) + x.new_ones(6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_type_stays_at_the_interface_and_the_file_runs(dtype, tmp_path):
    x = torch.randn(4, 3, 8, 8).to(dtype)
    model = network().to(dtype)
    compiled = fxcompress.compile(model, data=[x])
    assert "compiled in float32" in str(compiled.report.notes)
    assert {p.dtype for p in compiled.parameters()} == {torch.float32}
    assert compiled(x).dtype == model(x).dtype == dtype
    assert sqnr(model(x), compiled(x)) > 25
    path = compiled.to_onnx(tmp_path / "model.onnx")
    given = x.numpy() if dtype is torch.float16 else x.float().numpy()
    session = onnxruntime.InferenceSession(path)
    (by_onnxruntime,) = session.run(None, {session.get_inputs()[0].name: given})
    by_openvino = CORE.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([given])[0]
    for found in (by_onnxruntime, np.array(by_openvino)):
        assert sqnr(compiled(x).detach().float(), torch.from_numpy(found).float()) > 30


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_that_asks_for_its_type(dtype):
    x = torch.randn(4, 6).to(dtype)
    assert fxcompress.compile(Bounded().to(dtype), data=[x]).report.rows[-1].decibels > 25


def test_mixed_types():
    x = torch.randn(4, 8)
    compiled = fxcompress.compile(Mixed(), data=[x])
    assert [value.dtype for value in compiled(x)] == [torch.float32, torch.float16]
    assert compiled.text().count("= _to_copy(") == 1  # of the second output


def test_inputs_in_float32_of_a_model_in_half_precision():
    x = torch.randn(4, 3, 8, 8)
    compiled = fxcompress.compile(network().half(), data=[x])
    assert compiled(x).dtype == torch.float32


def test_tied_parameters_stay_tied():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)).double()
    model[2].weight = model[0].weight
    compiled = fxcompress.compile(model, [], data=[torch.randn(2, 4).double()])
    assert compiled.get_parameter("0.weight") is compiled.get_parameter("2.weight")


def test_a_model_in_half_precision_trains():
    compiled = fxcompress.compile(network().half(), fxcompress.defaults.training(), data=[torch.randn(4, 3, 8, 8).half()])
    compiled.train()
    compiled(torch.randn(4, 3, 8, 8).half()).float().sum().backward()
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in compiled.parameters())


def empty():
    return nn.Linear(4, 0)


def broken(name, value):
    model = nn.Linear(4, 3)
    getattr(model, name).data.view(-1)[0] = value
    return model


def negative():
    norm = nn.BatchNorm1d(3)
    norm.running_var[1] = -0.1
    return norm


NO_MODELS = {
    "a class": (nn.Linear, "class Linear; give a model of it"),
    "a function": (lambda x: x, "a function; make it the forward"),
    "a path": ("model.pt", "'model.pt', a path; load the model first"),
    "a state_dict": (nn.Linear(4, 3).state_dict(), "a state_dict, which holds weights"),
    "nothing": (None, "a NoneType; give a torch.nn.Module"),
    "without weights": (nn.Linear(4, 3, device="meta"), "'weight' is on the meta device"),
    "lazy": (nn.LazyLinear(3), "'weight' has no shape yet; run the model once"),
    "empty": (empty(), "'weight' is empty, of the shape"),
    "NaN": (broken("weight", float("nan")), "'weight' holds NaN or infinity"),
    "a variance below zero": (nn.Sequential(nn.Linear(4, 3), negative()), "running variance '_?1.running_var' is below zero"),
    "infinity": (broken("bias", float("inf")), "'bias' holds NaN or infinity"),
}


@pytest.mark.parametrize("name", NO_MODELS)
def test_what_cannot_be_compiled_is_told_what_to_give(name):
    model, message = NO_MODELS[name]
    with pytest.raises(InputError, match=message):
        fxcompress.compile(model, data=[torch.randn(2, 4)])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *itertools.product(["0.weight", "0.bias", "input_extent"], [float("nan"), float("inf"), -float("inf")]),
        ("running_mean", float("nan")),  # a buffer may be infinite, as masks of attention are
    ],
)
def test_what_training_made_of_weights_and_is_no_number_is_not_written(name, value, tmp_path):
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2))
    compiled = fxcompress.compile(model, fxcompress.defaults.training(), data=[torch.randn(9, 4)])
    state = {**dict(compiled.named_parameters()), **dict(compiled.named_buffers())}
    found = next(key for key in state if name in key)
    state[found].data.view(-1)[0] = value
    with pytest.raises(InputError, match=f"'{found}' holds NaN or infinity"):
        compiled.to_onnx(tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


class Registers(nn.Module):
    """Tokens of its own beside those of the input, of which it was built with none."""

    def __init__(self):
        super().__init__()
        self.registers, self.layer = nn.Parameter(torch.empty(1, 0, 4)), nn.Linear(4, 4)

    def forward(self, x):
        joined = torch.cat([x[:, :1], self.registers.expand(len(x), -1, -1), x], 1)
        return self.layer(joined) + torch.cat([self.registers[0], joined[0]])


def test_a_parameter_of_no_values_that_is_joined_with_others_is_left_out():
    model, x = Registers().eval(), torch.randn(3, 5, 4)
    compiled = fxcompress.compile(model, [], data=[x])
    torch.testing.assert_close(compiled(x), model(x))
    assert not any("registers" in str(node.target) for node in compiled.graph.nodes)


def test_a_torchscript_model_and_a_compiled_one():
    scripted = torch.jit.trace(nn.Linear(4, 3), torch.randn(2, 4))
    with pytest.raises(InputError, match="TorchScript.*give the torch.nn.Module"):
        fxcompress.compile(scripted, data=[torch.randn(2, 4)])
    with pytest.raises(InputError, match="compiled already; give the original"):
        fxcompress.compile(fxcompress.compile(nn.Linear(4, 3), [], data=[torch.randn(2, 4)]), data=[torch.randn(2, 4)])


class Branching(nn.Module):
    def __init__(self, parts=20):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(parts))

    def forward(self, x):
        for layer in self.layers:
            if x.sum() > 1e9:
                return x
            x = layer(x)
        return x


def test_a_model_in_parts_says_why_and_fits_a_screen():
    with pytest.warns(PartialCaptureWarning, match="Branching cannot be captured as a whole.*data-dependent"):
        compiled = fxcompress.compile(Branching(), [], data=[torch.randn(4, 8)])
    assert len(str(compiled).splitlines()) < 30
    assert "Branching was not compiled: Could not guard" in str(compiled)
    assert "layers.3:" in compiled.text()
    assert compiled.lower().keys() == compiled.parts.keys()


class Cache:
    """What a generating model returns beside its values, of a kind that no graph knows."""


class Caching(nn.Module):
    def __init__(self):
        super().__init__()
        self.config, self.layer = types.SimpleNamespace(use_cache=True), nn.Linear(8, 4)

    def forward(self, x):
        x = self.layer(x)
        return (x, Cache()) if self.config.use_cache else x


def test_a_cache_that_no_graph_can_return_is_told_with_what_to_do():
    model, x = Caching(), torch.randn(4, 8)
    with pytest.warns(PartialCaptureWarning, match="set model.config.use_cache = False to compile it as a whole"):
        assert isinstance(fxcompress.compile(model, [], data=[x]), fxcompress.PartlyCompiled)
    model.config.use_cache = False
    assert isinstance(fxcompress.compile(model, [], data=[x]), fxcompress.Compiled)


def test_rejected_dynamic_shapes_give_the_message_of_torch():
    with pytest.raises(fxcompress.errors.CaptureError, match="top-level keys must be the arg names"):
        fxcompress.compile(nn.Linear(4, 3), data=[torch.randn(2, 4)], dynamic_shapes={"nothing": {0: torch.export.Dim("b")}})


def test_padded_tokens_of_an_encoder():
    """The fast path of torch's own encoder gives zeros for them, which is no randomness."""
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 1).eval()
    padding = torch.zeros(4, 10, dtype=torch.bool)
    padding[1, 6:] = True
    data = [{"src": torch.randn(4, 10, 16), "src_key_padding_mask": padding}]
    assert fxcompress.compile(encoder, data=data).report.rows[-1].decibels > 25


class Cast(nn.Module):
    """Autocast as forwards have it: around a part of it, off within that, and around all of it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            x = self.first(x).relu()
            with torch.autocast("cpu", enabled=False):
                x = self.second(x.float())
            return self.third(x)


class Decorated(Cast):
    forward = torch.autocast("cpu", dtype=torch.bfloat16)(Cast.forward)


@pytest.mark.parametrize("kind", [Cast, Decorated])
def test_autocast_in_forward_is_left_out_and_told(kind):
    torch.manual_seed(0)
    model, x = kind().eval(), torch.randn(4, 8)
    compiled = fxcompress.compile(model, [], example_inputs=x)
    assert torch.equal(compiled(x), model.third(model.second(model.first(x).relu())))
    assert any("autocast to bfloat16 in forward is left out" in note for note in compiled.report.rows[0].notes)
    assert model(x).dtype == torch.bfloat16  # the user's model goes on as it was


def test_autocast_of_other_threads_goes_on():
    def other() -> torch.dtype:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return nn.Linear(2, 2)(torch.ones(1, 2)).dtype

    with without_autocast(), ThreadPoolExecutor(1) as threads:
        assert threads.submit(other).result() == torch.bfloat16
        assert other() == torch.float32
    assert other() == torch.bfloat16


class Handed(nn.Module):
    """Values that are no tensors on the way: as forward takes them, hands them on between parts, and gives them out."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 6)

    def part(self, x, cache=None, causal=False, scale=None):
        x = self.first(x) if cache is None else self.first(x) + cache[0]
        return x.relu() if causal else x, (None, causal, x), scale

    def forward(self, x, cache=None, use_cache=True, names=("a",)):
        y, kept, _ = self.part(x, None if cache is None else (cache, None), causal=bool(use_cache))
        out = {"last": self.second(y), "flag": use_cache, "none": None}
        return out | ({"kept": kept} if use_cache else {})


@pytest.mark.parametrize("options", [{}, {"use_cache": False}, {"cache": None, "names": None}, {"cache": torch.ones(4, 8)}])
def test_nones_and_booleans_on_the_way_meet_no_pass_unprepared(options):
    example = {"x": torch.randn(4, 6), **options}
    stack = [passes.PruneFilters(amount=0.25), passes.Sparsify(level=0.5), *fxcompress.defaults.post_training()]
    for chosen in (None, stack, fxcompress.defaults.training()):
        compiled = fxcompress.compile(Handed(), chosen, example_inputs=example, data=[example])
        assert isinstance(compiled, fxcompress.Compiled)
        assert compiled(**example)["flag"] is options.get("use_cache", True) and compiled(**example)["none"] is None
        assert compiled.eval().lower() is not None
