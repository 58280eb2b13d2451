"""Weights alone in few bits: which layers get how many, what the file holds, and that both runtimes compute it."""

import copy
import warnings

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from torch import nn

import fxcompress
from fxcompress import QuantizationOptions, QuantizationSpec, passes
from fxcompress.conformance.counting import integer_kernels
from fxcompress.driver.sizes import weight_bytes
from fxcompress.errors import InputError, ScopeError
from fxcompress.quantizers.ops import INTEGER_RANGES, STORAGE, pack, unpack


class Decoder(nn.Module):
    """Tokens to logits, by the table that it reads them from if `tied`."""

    def __init__(self, tied=False, width=64, words=50):
        super().__init__()
        self.table = nn.Embedding(words, width)
        self.up, self.down = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, words, bias=False)
        if tied:
            self.head.weight = self.table.weight

    def forward(self, tokens):
        x = self.table(tokens)
        return torch.tanh(self.head(self.norm(x + self.down(torch.relu(self.up(x))))))


TOKENS = torch.randint(0, 50, (16, 9), generator=torch.Generator().manual_seed(0))


def compressed(model=None, *, data=None, **options):
    return fxcompress.compile(model or Decoder(), [passes.CompressWeights(**options)], example_inputs=TOKENS, data=data)


def grids(compiled):
    """Of each quantizer: type and group size."""
    found = [module for module in compiled.modules() if isinstance(module, fxcompress.quantizers.quantizer.Quantizer)]
    return sorted((module.dtype, module.spec.group_size) for module in found)


def test_linear_layers_get_groups_of_few_bits_and_tables_and_heads_rows_of_eight():
    assert grids(compressed(group_size=32)) == [("int8", None)] * 2 + [("uint4", 32)] * 2


def test_a_tied_table_has_one_grid():
    assert grids(compressed(Decoder(tied=True), group_size=32)) == [("int8", None)] + [("uint4", 32)] * 2


def test_a_tied_table_is_once_in_the_files_of_openvino(tmp_path):
    model = Decoder(tied=True, words=4000)
    compiled = fxcompress.compile(model, [passes.CompressWeights(group_size=32)], example_inputs=TOKENS)
    path = compiled.to_openvino(tmp_path / "m.xml", verify="strict")
    table, sizes = 64 * 4000, [path.with_suffix(".bin").stat().st_size]
    sizes.append(compiled.to_onnx(tmp_path / "m.onnx", verify="strict").stat().st_size)
    assert table < sizes[0] < 1.5 * table and 2 * table < sizes[1]
    nodes = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}).get_runtime_model().get_ops()
    (head,) = [node for node in nodes if node.get_friendly_name() == "head"]
    assert head.get_rt_info()["layerType"].astype(str) == "FullyConnected"
    assert head.get_input_element_type(1).get_type_name() == "i8"


@pytest.mark.parametrize("bits, openvino", [(8, "once"), (4, "twice")])
def test_the_report_says_where_a_tied_table_is_in_a_file_twice(tmp_path, bits, openvino):
    compiled = compressed(Decoder(tied=True), group_size=32, embeddings=bits, head=bits)

    def told():
        return [note.partition(",")[0] for note in compiled.report.rows[-1].notes if "twice" in note]

    compiled.to_onnx(tmp_path / "m.onnx")
    assert told() == ["the table of table is in the file twice"]
    compiled.to_openvino(tmp_path / "m.xml")
    assert told() == (["the table of table is in the file twice"] if openvino == "twice" else [])


def test_a_file_larger_than_was_asked_for_is_told(tmp_path):
    stack = [passes.CompressWeights(group_size=32, max_size=0.3)]
    compiled = fxcompress.compile(Decoder(tied=True, words=4000), stack, data=[TOKENS])
    with pytest.warns(
        fxcompress.errors.FileWarning,
        match=r"0\.5\d+ of the original model's size.*max_size=0.3: the table of table is in the file",
    ):
        compiled.to_onnx(tmp_path / "m.onnx", verify=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compiled.to_openvino(tmp_path / "m.xml", verify=False)


def test_the_report_says_in_which_types_openvino_multiplies(tmp_path):
    compiled = compressed(Decoder(width=128, words=400), ignored=["up"])
    path = compiled.to_onnx(tmp_path / "m.onnx")
    (told,) = compiled.report.rows[-1].notes
    version = openvino.__version__.partition("-")[0]
    assert told == f"in OpenVINO {version} layers multiply floats by i8 (1), u4 (1), floats (up)"
    assert integer_kernels(path) == "0 of 3 in OpenVINO read integers; layers multiply floats by i8 (1), u4 (1), floats (up)"


def test_none_leaves_tables_and_heads_in_float():
    assert grids(compressed(group_size=32, embeddings=None, head=None, symmetric=True)) == [("int4", 32)] * 2


def test_scopes_have_options_of_their_own():
    eight = QuantizationOptions(weights=QuantizationSpec(bits=8, signed=True, narrow=True))
    compiled = compressed(group_size=32, ignored=["up"], overrides={"down": eight, "head": eight})
    assert grids(compiled) == [("int8", None)] * 3
    with pytest.raises(ScopeError, match="'middle' matches nothing"):
        compressed(ignored=["middle"])


def test_convolutions_get_eight_bits():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 40), nn.ReLU(), nn.Linear(40, 5))
    compiled = fxcompress.compile(model, [passes.CompressWeights()], example_inputs=torch.randn(2, 3, 8, 8))
    assert grids(compiled) == [("int8", None)] * 2 + [("uint4", 128)]


def test_integers_chosen_by_the_outputs_are_nearer_than_the_nearest():
    torch.manual_seed(1)
    model, data = Decoder(width=32), list(torch.randint(0, 50, (64, 9)).split(8))
    with torch.no_grad():
        model.table.weight.mul_(torch.logspace(0, -2, 32))
        wanted = model(TOKENS)
        nearest, chosen = ((compressed(model, data=given)(TOKENS) - wanted).square().mean() for given in (None, data))
    assert chosen < 0.8 * nearest


def test_a_size_is_filled_with_layers_of_eight_bits():
    model, data = Decoder(), list(TOKENS.split(4))
    smallest = compressed(model, data=data, group_size=32)
    before = sum(parameter.nbytes for parameter in model.parameters())
    share = 1.3 * weight_bytes(smallest) / before
    filled = compressed(model, data=data, group_size=32, max_size=share)
    assert weight_bytes(smallest) < weight_bytes(filled) <= share * before
    assert grids(filled) == [("int8", None)] * 3 + [("uint4", 32)]


def test_layers_are_fitted_behind_those_that_got_more_bits():
    """What a layer makes up for is what is left of the errors before it once all have their bits."""
    torch.manual_seed(0)
    model = Decoder()
    data = list(torch.randint(0, 50, (64, 9)).split(8))
    share = weight_bytes(compressed(model, group_size=32)) / sum(parameter.nbytes for parameter in model.parameters())
    filled = compressed(model, data=data, group_size=32, max_size=1.3 * share)
    assert grids(filled) == [("int8", None)] * 3 + [("uint4", 32)]
    biases = dict(filled.named_parameters())
    assert not any(torch.equal(biases[f"{name}.bias"], model.get_parameter(f"{name}.bias")) for name in ("up", "down"))


def test_a_size_needs_data_and_room():
    with pytest.raises(InputError, match="CompressWeights needs data"):
        compressed(max_size=0.3)
    with pytest.raises(InputError, match="more than max_size"):
        compressed(max_size=0.1, data=[TOKENS])


def dequantized_inputs(path):
    """Of each dequantize of a constant in the file: the type of its integers, and whether it has a zero point."""
    graph = onnx.load(path).graph
    types = {tensor.name: onnx.TensorProto.DataType.Name(tensor.data_type) for tensor in graph.initializer}
    nodes = [node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in types]
    return [(types[node.input[0]], len(node.input) == 3) for node in nodes]


@pytest.mark.parametrize("group_size", [None, 32])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [3, 4, 6, 8])
def test_the_file_has_what_runtimes_unpack_quickly(bits, symmetric, signed, group_size, tmp_path):
    """No zeros beside INT4, no signed integers with a zero point: each is an order slower in OpenVINO with many rows."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(96, 40), nn.ReLU(), nn.Linear(40, 8))
    weights = QuantizationSpec(bits=bits, symmetric=symmetric, signed=signed, group_size=group_size)
    x = torch.randn(3, 96)
    compiled = fxcompress.compile(model, [passes.Quantize(weights=weights, activations=None)], example_inputs=x)
    path = compiled.to_onnx(tmp_path / "m.onnx", verify=False)
    held = dequantized_inputs(path)
    assert len(held) == 2 and {zeros for kind, zeros in held if kind == "INT4"} <= {False}
    assert symmetric or all(kind.startswith("U") and zeros for kind, zeros in held)
    wanted = compiled(x).detach().numpy()
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")  # else it rounds activations to 8 bits
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (given,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(given, wanted, atol=1e-5)
    core = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0})
    np.testing.assert_allclose(core(x.numpy())[0], wanted, atol=1e-5)


# ------------------------------------------------------------------------------------------------------- integers alone


class Whole(nn.Module):
    """A table that is the head too, a convolution, and a linear layer with odd sizes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.conv = nn.Embedding(31, 45), nn.Conv1d(45, 33, 3, padding=1)
        self.odd, self.head = nn.Linear(33, 45, bias=False), nn.Linear(45, 31, bias=False)
        self.head.weight = self.table.weight

    def forward(self, tokens):
        x = self.conv(self.table(tokens).transpose(1, 2)).transpose(1, 2)
        return self.head(torch.relu(self.odd(x)))


INTEGERS = {
    "4 bits in groups": [passes.CompressWeights(group_size=32)],
    "4 bits a row, signed": [passes.CompressWeights(group_size=None, symmetric=True)],
    "3 bits, tables too": [passes.CompressWeights(bits=3, embeddings=4, head=4, group_size=16)],
    "8 bits": [passes.CompressWeights(bits=8, group_size=None)],
    "with data": [passes.Quantize(weights=QuantizationSpec(bits=4)), passes.Calibrate()],
    "the default": fxcompress.defaults.post_training(),
}


@pytest.mark.parametrize("kind", INTEGERS)
def test_integers_alone_are_the_same_model_and_the_same_file(kind, tmp_path):
    data = [torch.randint(0, 31, (8, 9), generator=torch.Generator().manual_seed(0))]
    model = Whole().eval()
    held = [fxcompress.compile(model, [*INTEGERS[kind], *more], data=data) for more in ([], [passes.StoreIntegers()])]
    floats, integers = held
    assert torch.equal(floats(data[0]), integers(data[0])) and "dequantize" in integers.text()
    paths = [one.to_onnx(tmp_path / f"{name}.onnx", verify=False) for name, one in zip("fi", held)]
    graphs = [onnx.load(path).graph.SerializeToString() for path in paths]
    assert graphs[0] == graphs[1]
    kept = sum(tensor.nbytes for tensor in integers.state_dict().values() if isinstance(tensor, torch.Tensor))
    assert kept < 0.6 * sum(tensor.nbytes for tensor in floats.state_dict().values() if isinstance(tensor, torch.Tensor))
    again = fxcompress.compile(model, [*INTEGERS[kind], passes.StoreIntegers()], data=data)
    again.load_state_dict(integers.state_dict())
    assert torch.equal(again(data[0]), integers(data[0]))
    assert integers.dump(tmp_path / "graphs")


def test_floats_that_are_still_trained_stay():
    compiled = fxcompress.compile(
        Whole().eval(), [*fxcompress.defaults.training(), passes.StoreIntegers()], data=[TOKENS[:, :] % 31]
    )
    assert "odd.weight" in dict(compiled.named_parameters())


@pytest.mark.parametrize("dtype", ["int4", "uint4"])
@pytest.mark.parametrize("shape", [(3, 5), (4,), (1, 1), (2, 3, 7)])
def test_integers_are_packed_as_the_file_packs_them(dtype, shape):
    low, high = INTEGER_RANGES[dtype]
    values = torch.randint(low, high + 1, shape, generator=torch.Generator().manual_seed(0)).to(STORAGE[dtype])
    packed = pack(values)
    assert torch.equal(unpack(packed, list(shape), dtype), values) and packed.numel() == (values.numel() + 1) // 2
    kind = getattr(onnx.TensorProto, dtype.upper())
    written = onnx.helper.make_tensor("x", kind, shape, packed.numpy().tobytes(), raw=True)
    assert (onnx.numpy_helper.to_array(written).astype(int) == values.numpy()).all()


class Wide(nn.Module):
    """Layers large enough to stay in half precision; the table is also the head."""

    def __init__(self):
        super().__init__()
        self.table, self.norm = nn.Embedding(1030, 1024), nn.LayerNorm(1024)
        self.first, self.second = nn.Linear(1024, 1024), nn.Linear(1024, 1024, bias=False)
        self.head = nn.Linear(1024, 1030, bias=False)
        self.head.weight = self.table.weight

    def forward(self, tokens):
        x = self.table(tokens) / 8
        return self.head(x + self.second(self.norm(self.first(x)).relu()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("with_data", [False, True])
def test_weights_of_half_precision_become_float32_one_at_a_time(dtype, with_data, tmp_path):
    torch.manual_seed(0)
    half, tokens = Wide().to(dtype), torch.randint(0, 1030, (2, 8))
    single, stages = copy.deepcopy(half).float(), fxcompress.defaults.weights_only()
    stages[-2] = passes.CompressWeights(ignored=["second"])
    data = [tokens] if with_data else None
    seen = []
    before = fxcompress.passes.CompressWeights.run

    def watched(self, graph_module, context):
        seen.append({name: one.dtype for name, one in graph_module.named_parameters() if one.dim() > 1})
        return before(self, graph_module, context)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fxcompress.passes.CompressWeights, "run", watched)
        compiled, expected = (fxcompress.compile(one, stages, example_inputs=tokens, data=data) for one in (half, single))
    assert set(seen[0].values()) == {dtype} and set(seen[1].values()) == {torch.float32}
    state, wanted = compiled.state_dict(), expected.state_dict()
    assert state.keys() == wanted.keys() and state["second.weight"].dtype == dtype
    assert all(torch.equal(state[name], one) for name, one in wanted.items() if one.dtype != torch.float32)
    torch.testing.assert_close(compiled(tokens).float(), expected(tokens), rtol=0.02, atol=0.02)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")  # activations stay floats
    session = onnxruntime.InferenceSession(compiled.to_onnx(tmp_path / "m.onnx"), options)
    (found,) = session.run(None, {session.get_inputs()[0].name: tokens.numpy()})
    torch.testing.assert_close(torch.as_tensor(found.astype("float32")), expected(tokens), rtol=0.02, atol=0.02)


def test_weights_of_half_precision_are_float32_where_floats_are_kept():
    compiled = fxcompress.compile(Wide().bfloat16(), [passes.CompressWeights()], example_inputs=torch.zeros(1, 2).long())
    assert {one.dtype for one in compiled.parameters()} == {torch.float32}
    assert "first_weight_half" not in compiled.text() and compiled.get_parameter("head.weight").is_floating_point()
