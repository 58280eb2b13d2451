"""OpenVINO IR: the same answers as the simulation, with binary kernels where there are binarized convolutions."""

import sys
from dataclasses import dataclass

import numpy as np
import openvino
import pytest
import torch
from emission import Layer
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

import fxcompress
from fxcompress import passes
from fxcompress.errors import InputError
from fxcompress.ir.dialect import resolve

OPTIONS = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}


@dataclass(frozen=True)
class Block:
    """A convolution, of so many filters, and a batch norm; `around` is what is added: nothing, the input, a convolution."""

    filters: int
    stride: int = 1
    around: str = "nothing"


class Chain(nn.Module):
    """Blocks behind one another."""

    def __init__(self, channels, blocks):
        super().__init__()
        self.blocks, self.first = blocks, nn.Conv2d(3, channels, 3, padding=1)
        self.convs, self.norms, self.around = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for block in blocks:
            self.convs.append(nn.Conv2d(channels, block.filters, 3, block.stride, 1))
            self.norms.append(nn.BatchNorm2d(block.filters))
            self.around.append(nn.Conv2d(channels, block.filters, 1, block.stride))
            channels = block.filters

    def forward(self, x):
        x = self.first(x).relu()
        for block, conv, norm, around in zip(self.blocks, self.convs, self.norms, self.around):
            y = norm(conv(x))
            if block.around == "convolution":
                y = y + around(x)
            elif block.around == "input" and y.shape[1:] == x.shape[1:]:
                y = y + x
            x = y.relu()
        return x


def loaded(path):
    return openvino.Core().compile_model(path, "CPU", OPTIONS)


def binary_kernels(path):
    """How many convolutions run on bits."""
    told = [node.get_rt_info() for node in loaded(path).get_runtime_model().get_ops()]
    kinds = [(info["layerType"].astype(str), info["runtimePrecision"].astype(str)) for info in told]
    assert all(precision == "u1" for kind, precision in kinds if kind == "BinaryConvolution")
    return sum(kind == "BinaryConvolution" for kind, _ in kinds)


def assert_equal(module, path, x, tolerance=1e-5):
    wanted = module(x).detach().numpy()
    found = loaded(path)(x.numpy())[0]
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance * np.abs(wanted).max())


def images(count=3, seed=0):
    return torch.randn(count, 3, 9, 9, generator=torch.Generator().manual_seed(seed))


def chain(*listed, blocks=(Block(16), Block(24, 2), Block(24, 1, "input")), **options):
    torch.manual_seed(0)
    model = Chain(16, blocks)
    with torch.no_grad():
        model.convs[0].weight[0] = 0
        for norm in model.norms:
            norm.weight.normal_()
            norm.bias.normal_()
    model(images(8))  # gives the batch norms their statistics
    return fxcompress.compile(model.eval(), listed or [passes.Binarize()], data=[images()], **options)


@settings(max_examples=20)
@given(
    channels=st.integers(1, 3).map(lambda count: 8 * count) | st.integers(1, 40),
    filters=st.integers(1, 40),
    kernel=st.tuples(st.integers(2, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    bias=st.booleans(),
    weights=st.sampled_from(["xnor", "dorefa"]),
    size=st.tuples(st.integers(7, 9), st.integers(7, 9)),
)
def test_every_geometry_is_emitted_as_it_is_simulated(tmp_path_factory, channels, filters, kernel, size, weights, **options):
    torch.manual_seed(0)
    x = torch.randn(2, channels, *size)
    listed = [passes.Binarize(scopes=["conv"], weights=weights)]
    module = fxcompress.compile(Layer(channels, filters, kernel, **options), listed, data=[x])
    path = module.to_openvino(tmp_path_factory.mktemp("ir") / "model.xml", batch_size=2)
    assert_equal(module, path, x)
    assert binary_kernels(path) == (channels % 8 == 0 and options["padding"][1] <= 2)


BLOCKS = st.builds(Block, st.sampled_from([8, 16]), st.integers(1, 2), st.sampled_from(["nothing", "input", "convolution"]))
ENDS = (passes.Quantize(), passes.Calibrate())


@settings(max_examples=8)
@given(
    blocks=st.lists(BLOCKS, min_size=2, max_size=4).map(tuple),
    scopes=st.sampled_from([None, ["convs.*"]]),
    ends=st.sampled_from([(), ENDS]),
)
@example(blocks=(Block(16, 1, "input"), Block(24, 2)), scopes=None, ends=ENDS)
@example(blocks=(Block(16, 1, "input"), Block(24, 2, "convolution")), scopes=["convs.*", "around.*"], ends=ENDS)
def test_binarized_convolutions_behind_one_another(tmp_path_factory, blocks, scopes, ends):
    module = chain(passes.Binarize(scopes=scopes), *ends, blocks=blocks)
    x = images(8, seed=1)
    path = module.to_openvino(tmp_path_factory.mktemp("ir") / "model.xml", batch_size=len(x))
    found, wanted = loaded(path)(x.numpy())[0], module(x).detach().numpy()
    close = np.isclose(found, wanted, rtol=1e-3, atol=1e-3 * np.abs(wanted).max())
    assert close.mean() > 0.9  # where something is rounded the other way, a bit can be another
    assert binary_kernels(path) > 0


def test_the_report_names_what_stays_in_8_bits(tmp_path):
    module = chain(blocks=(Block(16, 1, "input"), Block(12), Block(8)))
    report = module.lower(binary_convolutions=True).meta["report"]
    assert [note.removeprefix("UseBinaryConvolutions(): ") for note in report.notes] == [
        "convs_0 computes in 8 bits: only binarizers read the sum that it is part of",
        "convs_2 computes in 8 bits: its 12 input channels are no multiple of 8",
    ]
    assert binary_kernels(module.to_openvino(tmp_path / "model.xml")) == 1
    assert [*module.report.rows[-1].notes][-2:] == report.notes


class Joined(nn.Module):
    """What a binarized layer reads is joined of what two layers compute, one of them in 8 bits."""

    def __init__(self, after):
        super().__init__()
        self.first, self.left, self.right, self.last = (
            nn.Conv2d(*channels, 1) for channels in ((3, 8), (8, 8), (8, 8), (16, 4))
        )
        self.after = after

    def forward(self, x):
        x = self.first(x).relu()
        return self.last(self.after(torch.cat([self.left(x).relu(), self.right(x).relu()], 1)))


@pytest.mark.parametrize("after", [nn.Identity(), nn.ReLU6(), nn.BatchNorm2d(16)], ids=lambda after: type(after).__name__)
def test_what_is_joined_is_binarized(tmp_path, after):
    torch.manual_seed(0)
    module = fxcompress.compile(Joined(after).eval(), [passes.Binarize(scopes=["last"]), *ENDS], data=[images()])
    path = module.to_openvino(tmp_path / "model.xml")
    assert binary_kernels(path) == 1
    assert_equal(module, path, images(1, seed=1), tolerance=1e-4)


class Stepped(nn.Module):
    """Steps of sums whose terms cancel each other, so that their last bits decide."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 4, 1, bias=False)

    def forward(self, x):
        return self.conv(x).floor()


def test_steps_of_what_cancels_are_written(tmp_path):
    torch.manual_seed(0)
    module = fxcompress.compile(Stepped().eval(), [passes.Binarize(scopes=["conv"])], data=[torch.randn(5, 8, 4, 4)])
    assert binary_kernels(module.to_openvino(tmp_path / "model.xml")) == 1


def test_images_of_any_size_have_that_of_the_example_where_convolutions_run_on_bits(tmp_path):
    module = chain(dynamic_shapes="auto")
    path = module.to_openvino(tmp_path / "model.xml")
    assert binary_kernels(path) == 3
    assert any("images of the example's size" in note for note in module.report.rows[-1].notes)
    assert_equal(module, path, images(1, seed=1), tolerance=1e-4)
    assert "?" in str(openvino.Core().read_model(module.to_onnx(tmp_path / "model.onnx")).input(0).partial_shape)


def test_zeros_among_the_weights_stay_in_8_bits(tmp_path):
    module = chain()
    with torch.no_grad():
        module.get_parameter("convs.1.weight")[:, 3] = 0  # convs.0 has a filter of nothing but zeros
    notes = module.lower(binary_convolutions=True).meta["report"].notes
    assert notes == ["UseBinaryConvolutions(): convs_1 computes in 8 bits: some of its weights are zero, and no bit is"]
    path = module.to_openvino(tmp_path / "model.xml")
    assert binary_kernels(path) == 2
    assert_equal(module, path, images(1, seed=1), tolerance=1e-4)


PRUNE = passes.PruneFilters(amount=0.5)


@pytest.mark.parametrize(
    "stack",
    [
        [PRUNE, passes.Binarize()],
        [PRUNE, passes.RemoveFilters(), passes.Binarize(weights="dorefa")],
        [passes.Binarize(weights="dorefa"), PRUNE],
    ],
    ids=lambda stack: "-".join(one.name for one in stack),
)
def test_a_pruned_body_is_smaller_and_runs_on_bits(tmp_path, stack):
    module = chain(*stack, blocks=(Block(16), Block(24, 2), Block(24)))
    convolutions = module.lower().graph.find_nodes(op="call_function", target=resolve("conv2d"))
    assert [node.args[1].meta["val"].shape[:2] for node in convolutions] == [(8, 3), (8, 8), (16, 8), (24, 16)]
    path = module.to_openvino(tmp_path / "model.xml")
    assert binary_kernels(path) == 3
    assert_equal(module, path, images(1, seed=1), tolerance=1e-4)


def test_binary_body_and_integer_ends(tmp_path):
    module = chain(passes.Binarize(), passes.Quantize(), passes.Calibrate())
    path = module.to_openvino(tmp_path / "model.xml")
    assert binary_kernels(path) == 3
    run = [node.get_rt_info() for node in loaded(path).get_runtime_model().get_ops()]
    kinds = {info["primitiveType"].astype(str) for info in run if info["layerType"].astype(str) == "Convolution"}
    assert any(kind.endswith("_I8") for kind in kinds)


def test_a_layer_that_is_not_enabled_yet_is_no_binary_convolution(tmp_path):
    module = chain(passes.Binarize(weights_start_epoch=1))
    path = module.to_openvino(tmp_path / "model.xml")
    assert binary_kernels(path) == 0
    assert_equal(module, path, images(1, seed=1), tolerance=1e-4)
    module.controller.scheduler.epoch_step(1)
    assert binary_kernels(module.to_openvino(path)) == 3


def test_sizes_of_a_file(tmp_path):
    """Binary convolutions need a fixed batch size, which another one can replace later; other models keep theirs free."""
    binary = chain().to_openvino(tmp_path / "binary.xml")
    model = openvino.Core().read_model(binary)
    assert model.input().partial_shape.to_string() == "[1,3,9,9]"
    model.reshape([5, 3, 9, 9])
    assert openvino.Core().compile_model(model, "CPU", OPTIONS)(images(5).numpy())[0].shape == (5, 24, 5, 5)
    plain = chain(passes.Quantize(), passes.Calibrate())
    path = plain.to_openvino(tmp_path / "plain.xml")
    assert openvino.Core().read_model(path).input().partial_shape.to_string() == "[?,3,9,9]"
    onnx = loaded(plain.to_onnx(tmp_path / "plain.onnx"))
    np.testing.assert_array_equal(loaded(path)(images().numpy())[0], onnx(images().numpy())[0])
    assert (tmp_path / "binary.bin").stat().st_size * 3 < sum(value.nbytes for value in plain.state_dict().values())


def test_the_file_tells_where_it_comes_from(tmp_path):
    model = openvino.Core().read_model(chain().to_openvino(tmp_path / "model.xml"))
    assert model.get_rt_info(["framework", "fxcompress.passes"]).astype(str) == "Binarize()"


def test_several_inputs_share_the_batch_size(tmp_path):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(8, 4, 3)

        def forward(self, x, shift):
            return self.conv(x) + shift[:, :, None, None]

    inputs = torch.randn(2, 8, 5, 5), torch.randn(2, 4)
    module = fxcompress.compile(Two(), [passes.Binarize(scopes=["conv"])], data=[inputs])
    model = loaded(module.to_openvino(tmp_path / "model.xml", batch_size=2))
    np.testing.assert_allclose(model([x.numpy() for x in inputs])[0], module(*inputs).detach().numpy(), rtol=1e-4, atol=1e-5)


# --------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("model.onnx", {}, r"name the first, as .*model\.xml"),
        ("missing/model.xml", {}, "does not exist"),
        ("model.xml", {"batch_size": 0}, "a batch size is a number from 1 on, not 0"),
        ("model.xml", {"batch_size": 1.5}, "not 1.5"),
    ],
)
def test_bad_paths_and_sizes(tmp_path, name, options, message):
    with pytest.raises(InputError, match=message):
        chain().to_openvino(tmp_path / name, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_fixed_batch_size_stays(tmp_path):
    torch.manual_seed(0)
    model = Layer(8, 4, 3)
    fixed = fxcompress.compile(model, [passes.Binarize(scopes=["conv"])], data=[torch.randn(3, 8, 5, 5)], dynamic_shapes=({},))
    with pytest.raises(InputError, match="compiled for a batch size of 3; it cannot be written for 2"):
        fixed.to_openvino(tmp_path / "model.xml", batch_size=2)
    x = torch.randn(3, 8, 5, 5)
    assert_equal(fixed, fixed.to_openvino(tmp_path / "model.xml", batch_size=3), x)
    assert_equal(fixed, fixed.to_openvino(tmp_path / "model.xml"), x)


def test_without_openvino_the_error_says_what_to_install(tmp_path, monkeypatch):
    module = chain()
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(InputError, match=r"pip install 'fxcompress\[openvino\]'"):
        module.to_openvino(tmp_path / "model.xml")


def test_a_failed_write_leaves_the_old_files(tmp_path, monkeypatch):
    module = chain()
    path = module.to_openvino(tmp_path / "model.xml")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def fail(model, network, weights):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(openvino, "serialize", fail)
    with pytest.raises(InputError, match="No space left"):
        module.to_openvino(path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
