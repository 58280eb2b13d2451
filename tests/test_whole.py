"""A model compressed in parts is written as one file, through its parts, and what is compiled once keeps its quantizers."""

import copy
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from detector import scenes
from levels import images, network
from test_default_parts import Labelled, detector, tokens
from torch import nn

import fxcompress
from fxcompress import passes
from fxcompress.errors import CaptureError, FileWarning, InputError
from fxcompress.execution.agreement import sqnr

STACK = [passes.Sparsify(level=0.5), *fxcompress.defaults.training()]


def run(file, *inputs):
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    return session.run(None, dict(zip(names, (one.numpy() for one in inputs), strict=True)))


def names(values):
    return [(one.name, [d.dim_param or d.dim_value for d in one.type.tensor_type.shape.dim]) for one in values]


def operations(file):
    return [node.op_type for node in onnx.load(file).graph.node]


def test_a_model_with_labels_is_one_file_without_them(tmp_path):
    torch.manual_seed(0)
    model = Labelled()
    compression = fxcompress.compress(model, STACK, data=[tokens(7), tokens(5)])
    file = compression.to_onnx(tmp_path / "whole.onnx", verify="strict")
    graph = onnx.load(file).graph
    assert names(graph.input) == [("input_ids", ["batch", "sequence"]), ("attention_mask", ["batch", "sequence"])]
    assert names(graph.output) == [("logits", ["batch", 3])]
    assert operations(file).count("QuantizeLinear") == 2
    given = tokens(11, count=3)
    expected = model.eval()(**given)["logits"]
    (logits,) = run(file, given["input_ids"], given["attention_mask"])
    np.testing.assert_allclose(logits, expected.detach(), atol=1e-5)
    assert "whole: whole.onnx in OpenVINO" in str(compression.report)


def test_a_copy_that_was_compiled_in_parts_is_one_file_too(tmp_path):
    model = nn.Sequential(network(), nn.Tanh(), nn.Linear(5, 2))
    compiled = fxcompress.compile(model, data=[images(8, seed=1)], submodules=["0", "2"])
    file = compiled.to_onnx(tmp_path / "whole.onnx", verify="strict")
    assert names(onnx.load(file).graph.input) == [("input_1", ["batch", 1, 6, 6])]
    assert sqnr(compiled(images(3)), torch.from_numpy(run(file, images(3))[0])) > 40
    assert compiled.to_openvino(tmp_path / "whole.xml", verify="strict").exists()


@pytest.mark.parametrize("normed", [nn.utils.parametrizations.spectral_norm, nn.utils.parametrizations.weight_norm])
def test_weights_that_parts_compute_are_integers_in_the_whole_file(tmp_path, normed):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), normed(nn.Linear(4, 2))).eval(), torch.randn(5, 3)
    compiled = fxcompress.compile(model, [passes.Quantize(), passes.Calibrate()], data=[(x,)], submodules=["0", "2"])
    file = compiled.to_onnx(tmp_path / "whole.onnx", verify="strict")
    assert sum(one.data_type == onnx.TensorProto.INT8 and len(one.dims) == 2 for one in onnx.load(file).graph.initializer) == 2


class Viewed(nn.Module):
    """As heads of detectors: what is contiguous is read by `view`."""

    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.boxes = nn.Conv2d(4, 6, 3, padding=1)

        def forward(self, x):
            return self.boxes(x).permute(0, 2, 3, 1).contiguous()

    def __init__(self):
        super().__init__()
        self.base, self.head = nn.Conv2d(1, 4, 3), self.Head()

    def forward(self, x):
        return self.head(self.base(x).relu()).view(x.shape[0], -1)


@pytest.mark.parametrize("compress", [fxcompress.compile, fxcompress.compress])
def test_what_a_part_returns_contiguous_can_be_viewed_in_the_file(tmp_path, compress):
    torch.manual_seed(0)
    model = Viewed().eval()
    compressed = compress(model, data=[images(8, seed=1)], submodules=["base", "head"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        file = compressed.to_onnx(tmp_path / "whole.onnx", verify="strict")
    expected = compressed(images(3)) if compress is fxcompress.compile else model(images(3))
    assert run(file, images(3))[0].shape == expected.shape == (3, 96)


def test_the_file_is_of_the_weights_as_they_are_when_it_is_written(tmp_path):
    torch.manual_seed(0)
    model = Labelled()
    compression = fxcompress.compress(model, data=[tokens(7)])
    whole = compression.compiled.whole()
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    before = model.classifier.weight.detach().clone()
    model(**tokens(7))["loss"].backward()
    optimizer.step()
    after = compression.compiled.whole()
    assert torch.equal(dict(whole.named_parameters())["classifier.weight"], before)
    assert torch.equal(dict(after.named_parameters())["classifier.weight"], model.classifier.weight)
    assert model.training


def test_what_a_trainer_wraps_forward_with_is_not_in_the_file(tmp_path):
    model = Labelled()
    compression = fxcompress.compress(model, data=[tokens(7)])
    model.forward = torch.autocast("cpu", torch.bfloat16)(model.forward)  # as Accelerate does
    assert compression.to_onnx(tmp_path / "whole.onnx", verify="strict").exists()


def test_labels_are_left_out_by_name():
    model = Labelled()
    compression = fxcompress.compress(model, data=[tokens(7)])
    given = tokens(7)
    expected = model.eval()(**given)["logits"]
    del given["labels"]
    assert torch.equal(compression.compiled.without("labels")(**given)["logits"], expected)
    with pytest.raises(InputError, match="the inputs are input_ids, attention_mask, labels"):
        compression.compiled.without("targets")


def test_of_a_detector_the_file_has_what_post_processing_reads(tmp_path):
    model = detector()
    compression = fxcompress.compress(model, STACK, data=scenes((24, 32), (20, 20)))
    images, _ = scenes((24, 32))[0]
    with pytest.warns(FileWarning, match="ends with what head returned"):
        file = compression.to_onnx(tmp_path / "raw.onnx", verify="strict", example_inputs=(images,))
    expected = model.head.forward(model.neck.forward(model.backbone(model.padded(images))))
    found = run(file, *images)
    assert all(sqnr(one, torch.from_numpy(other)) > 40 for one, other in zip((*expected[0], *expected[1]), found, strict=True))


def test_the_user_says_what_the_file_computes(tmp_path):
    model = detector()
    compression = fxcompress.compress(model, STACK, data=scenes((24, 32), (20, 20)))

    def raw(model, images):
        scores, _ = model.head.forward(model.neck(model.backbone(images)))
        return [one.sigmoid() for one in scores]

    batch = torch.randn(2, 3, 24, 32)
    options = {"forward": raw, "example_inputs": batch, "verify": "strict"}
    file = compression.to_onnx(tmp_path / "raw.onnx", output_names=["fine", "coarse"], **options)
    graph = onnx.load(file).graph
    assert names(graph.input) == [("images", ["batch", 3, "height", "width"])]
    assert [one.name for one in graph.output] == ["fine", "coarse"]
    bigger = torch.randn(3, 3, 40, 28)
    found = run(file, bigger)
    assert all(sqnr(one, torch.from_numpy(other)) > 40 for one, other in zip(raw(model, bigger), found, strict=True))
    assert compression.to_openvino(tmp_path / "raw.xml", **options).exists()


class TwoStages(nn.Module):
    """Its second part reads what the values of the first choose, so that no one graph holds both."""

    def __init__(self):
        super().__init__()
        self.backbone, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x, targets=None):
        found = self.backbone(x)
        return self.head(found if found.sum() > 0 else -found)


def test_what_cannot_be_one_graph_is_told_with_both_ways_out(tmp_path):
    compression = fxcompress.compress(TwoStages(), STACK, data=[torch.randn(9, 4)])
    with pytest.raises(CaptureError, match="forward=lambda model.*or name a folder"):
        compression.to_onnx(tmp_path / "whole.onnx")
    assert not (tmp_path / "whole.onnx").exists()
    assert [file.name for file in compression.to_onnx(tmp_path / "parts")] == ["backbone.onnx", "head.onnx"]


@pytest.mark.parametrize(
    ("path", "options", "told"),
    [
        ("folder", {"forward": len}, "name a file that ends in .onnx.*forward is for one file"),
        ("folder", {"input_names": ["a"]}, "input_names is for one file"),
        ("model.xml", {}, "the other format"),
    ],
)
def test_a_path_is_a_file_or_a_folder(tmp_path, path, options, told):
    compression = fxcompress.compress(TwoStages(), STACK, data=[torch.randn(9, 4)])
    with pytest.raises(InputError, match=told):
        compression.to_onnx(tmp_path / path, **options)
    assert not list(tmp_path.iterdir())


STACKS = {
    "post-training": fxcompress.defaults.post_training(),
    "masks and ranges": STACK,
    "filters, four bits": [
        passes.PruneFilters(amount=0.25, multiple=1),
        passes.Quantize(weights=fxcompress.QuantizationSpec(bits=4, group_size=4)),
        passes.Calibrate(),
    ],
    "binary": [passes.Binarize(scopes=["0"]), passes.Quantize(), passes.Calibrate()],
    "learned masks": [passes.LearnSparsity(), *fxcompress.defaults.training()],
}


@pytest.mark.parametrize("name", STACKS)
@pytest.mark.parametrize("in_place", [False, True])
def test_what_is_compiled_already_keeps_what_passes_inserted(tmp_path, name, in_place):
    model, data = network(), [images(8, seed=1)]
    compiled = fxcompress.compile(model, STACKS[name], data=data)
    file = compiled.to_onnx(tmp_path / "once.onnx", verify=False)
    if in_place:
        fxcompress.compress(model, STACKS[name], data=data, dynamic_shapes=None)
    again = fxcompress.compile(model.eval() if in_place else compiled, [], example_inputs=images(8, seed=1))
    assert torch.equal(again(images(3, seed=2)), compiled(images(3, seed=2)))
    twice = again.to_onnx(tmp_path / "twice.onnx", verify="strict")
    assert operations(twice) == operations(file)
    np.testing.assert_array_equal(run(twice, images(3, seed=2))[0], run(file, images(3, seed=2))[0])
    kinds = {
        str(node.target): type(compiled.get_submodule(str(node.target))) for node in compiled.graph.find_nodes(op="call_module")
    }
    assert kinds == {str(n.target): type(again.get_submodule(str(n.target))) for n in again.graph.find_nodes(op="call_module")}
    computed = [{node.name for node in one.graph.nodes if node.op != "get_attr"} for one in (again, compiled)]
    assert computed[0] == computed[1]


def test_what_is_compiled_again_has_tensors_of_its_own():
    compiled = fxcompress.compile(network(), STACK, data=[images(8, seed=1)])
    again = fxcompress.compile(compiled, [], example_inputs=images(8, seed=1))
    theirs = {id(one) for one in (*compiled.parameters(), *compiled.buffers())}
    assert theirs.isdisjoint(map(id, (*again.parameters(), *again.buffers())))
    assert set(again.state_dict()) == set(compiled.state_dict())
    again.train()
    before = copy.deepcopy(compiled.state_dict())
    optimizer = torch.optim.SGD(again.parameters(), lr=0.5)
    again(images(8, seed=3)).square().mean().backward()
    optimizer.step()
    assert any(not torch.equal(value, before[name]) for name, value in again.state_dict().items() if "extent" in name)
    assert all(torch.equal(value, before[name]) for name, value in compiled.state_dict().items() if value.is_floating_point())


def test_no_pass_runs_on_what_is_compiled_already():
    model = nn.Sequential(network(), nn.Flatten())
    fxcompress.compress(model[0], STACK, data=[images(8, seed=1)])
    with pytest.raises(InputError, match="holds modules that are compiled already; give the original, with all passes"):
        fxcompress.compile(model, data=[images(8, seed=1)])
    outer = fxcompress.compile(model, [], example_inputs=images(8, seed=1))
    assert any("quantizer" in str(node.target) for node in outer.graph.find_nodes(op="call_module"))
    assert next(node.name for node in outer.graph.nodes if node.op == "call_function").startswith("_0_0")
