"""Models whose forward computes a loss are compressed in parts, in every size, through whatever calls them."""

import copy
import sys

import onnx
import pytest
import torch
from detector import Detector, scenes
from torch import nn

import fxcompress
from fxcompress import passes
from fxcompress.data.inputs import ExampleInputs
from fxcompress.errors import InputError, PartialCaptureWarning
from fxcompress.inplace.default_parts import default_parts


def detector():
    torch.manual_seed(0)
    model = Detector()
    model.eval()
    return model


def test_a_detector_is_compressed_in_its_parts_and_trains_in_sizes_that_calibration_has_not_seen(tmp_path):
    model, data = detector(), scenes((24, 32), (20, 20), (33, 18))
    own = copy.deepcopy(model)
    compression = fxcompress.compress(model, [passes.Sparsify(level=0.5), *fxcompress.defaults.training()], data=data)
    assert list(compression.compiled.parts) == ["backbone", "neck", "head"]
    assert "compressed are backbone, neck, head" in str(compression.report)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    for images, targets in scenes((40, 27), (24, 32), (19, 21), seed=6):
        losses = model(images, targets)
        (sum(losses.values()) + compression.controller.loss()).backward()
        optimizer.step()
        optimizer.zero_grad()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {"backbone.stem.1.running_mean", "neck.top.weight", "head.scores.bias"} <= moved
    model.eval()
    (images, _), (bare, _) = scenes((24, 32), (24, 32), seed=7)
    assert model(images)["scores"][0].shape == own(bare)["scores"][0].shape
    files = compression.to_onnx(tmp_path)
    names = [[d.dim_param or d.dim_value for d in one.type.tensor_type.shape.dim] for one in onnx.load(files[0]).graph.input]
    assert names == [["batch", 3, "height", "width"]]


def test_calibration_sees_the_calls_of_all_sizes():
    counted = []
    model = detector()
    model.neck.register_forward_pre_hook(lambda module, args: None)
    compression = fxcompress.compress(
        model,
        [passes.Quantize(), passes.Calibrate(), Watch(counted)],
        data=scenes((24, 32), (20, 20), (33, 18)),
    )
    assert set(counted) == {(24, 32), (20, 20), (33, 18)} and compression.report


class Watch(fxcompress.Pass):
    """Notes the sizes of the images that a part is given."""

    effect = fxcompress.Effect.EXACT
    reads_data = True

    def __init__(self, sizes):
        self.sizes = sizes

    def run(self, graph_module, context):
        for inputs in context.data or ():
            leaf = next(leaf for _, leaf in inputs.leaves())
            if leaf.shape[1] == 3:
                self.sizes.append(tuple(leaf.shape[2:]))
        return []


class Labelled(nn.Module):
    """What Hugging Face's models look like: a base model by a prefix, a head, a loss in forward, unused keywords."""

    base_model_prefix = "encoder"

    def __init__(self):
        super().__init__()
        self.encoder = Encoder()
        self.classifier = nn.Linear(8, 3)
        self.unused = nn.Linear(8, 3)

    def forward(self, input_ids=None, attention_mask=None, labels=None, **kwargs):
        logits = self.classifier(
            self.encoder(input_ids, attention_mask=attention_mask, weights=None, return_dict=True, **kwargs)
        )
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return {"logits": logits} | ({} if loss is None else {"loss": loss})


class Encoder(nn.Module):
    """Takes a keyword by ``**kwargs``, a constant, and None."""

    def __init__(self):
        super().__init__()
        self.table, self.mix = nn.Embedding(20, 8), nn.Linear(8, 8)

    def forward(self, input_ids, attention_mask=None, weights=None, **kwargs):
        if not kwargs.get("return_dict"):
            raise ValueError("it was not handed on")
        x = self.mix(self.table(input_ids)).relu()
        if attention_mask is None:
            return x.mean(1)
        mask = attention_mask.unsqueeze(-1).float()
        return (x * mask).sum(1) / mask.sum(1)


def tokens(length, count=4):
    ids = torch.randint(1, 20, (count, length), generator=torch.Generator().manual_seed(length))
    return {
        "input_ids": ids,
        "attention_mask": torch.ones(count, length, dtype=torch.long),
        "labels": torch.zeros(count).long(),
    }


def test_a_base_model_and_its_head_are_the_parts_and_labels_stay_outside(tmp_path):
    torch.manual_seed(0)
    model = Labelled()
    compression = fxcompress.compress(model, data=[tokens(7), tokens(5), tokens(9)])
    assert list(compression.compiled.parts) == ["encoder", "classifier"]  # the unused one is not called
    for length in (3, 7, 20):
        loss = model(**tokens(length), num_items_in_batch=torch.tensor(4))["loss"]
        loss.backward()
    assert model.encoder.mix.weight.grad.abs().sum() > 0
    (encoder, _) = compression.to_onnx(tmp_path)
    shapes = [[d.dim_param for d in one.type.tensor_type.shape.dim] for one in onnx.load(encoder).graph.input]
    assert shapes == [["batch", "sequence"], ["batch", "sequence"]]


@pytest.mark.parametrize(
    ("call", "told"),
    [
        ({"return_dict": False}, "return_dict=True, not False"),
        ({"return_dict": True, "weights": torch.ones(3)}, "without 'weights'"),
        ({"return_dict": True, "input_ids": torch.ones(4, 7, 2, dtype=torch.long)}, r"input_ids=int64\[any, any\]"),
        ({}, "return_dict, which this call leaves out"),
    ],
)
def test_calls_that_the_graph_is_not_made_for_are_told(call, told):
    model = Labelled()
    fxcompress.compress(model, [passes.Quantize(), passes.Calibrate()], data=[tokens(7)])
    given = {key: value for key, value in tokens(7).items() if key != "labels"} | call
    with pytest.raises(InputError, match=told):
        model.encoder(**given)


def test_sizes_are_fixed_where_that_is_asked_for_and_others_are_refused():
    model = Labelled()
    fxcompress.compress(model, [passes.Quantize(), passes.Calibrate()], data=[tokens(7)], dynamic_shapes="batch")
    assert model(**tokens(7, count=2))["logits"].shape == (2, 3)
    with pytest.raises(InputError, match=r"input_ids=int64\[any, 7\], not int64\[4, 9\]"):
        model(**tokens(9))


def test_a_size_that_a_weight_fixes_is_refused_by_name():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    fxcompress.compress(model, [passes.Quantize(), passes.Calibrate()], data=[torch.randn(5, 4)])
    assert model(torch.randn(7, 4)).shape == (7, 3)
    with pytest.raises(InputError, match=r"input=float32\[any, 4\], not float32\[7, 5\]"):
        model(torch.randn(7, 5))


class Parity(nn.Module):
    """Does something else with an odd width than with an even one, and nothing with the height."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, x):
        x = self.conv(x)
        return x * 3 if x.shape[3] % 2 else x


def test_a_size_that_the_code_looks_at_is_not_called_free():
    model = Parity()
    images = torch.randn(2, 1, 8, 10)
    compression = fxcompress.compress(model, [passes.Quantize(), passes.Calibrate()], data=[images])
    (node,) = compression.compiled.graph.find_nodes(op="placeholder")
    assert [isinstance(size, torch.SymInt) for size in node.meta["val"].shape] == [True, False, True, False]
    with pytest.raises(InputError, match=r"float32\[any, 1, any, 10\]"):
        model(torch.randn(2, 1, 8, 11))
    assert model(torch.randn(3, 1, 5, 10)).shape == (3, 2, 5, 10)
    assert "x: forward needs sizes of float32[any, 1, any, 10] as numbers" in compression.report.rows[0].notes[0]


class Twice(nn.Module):
    """Doubles the sides of its features, by way of whole numbers of them; tokens of the features are of any number."""

    def __init__(self, whole):
        super().__init__()
        self.conv, self.whole = nn.Conv2d(3, 4, 1), whole

    def forward(self, features):
        size = [int(side * 2.0) if self.whole else side * 2 for side in features[0].shape[2:]]
        return nn.functional.interpolate(self.conv(features[0]), size=size).flatten(2).mT.contiguous()[..., None, None]


@pytest.mark.parametrize("whole", [True, False])
def test_sides_that_forward_makes_whole_numbers_of_are_told_in_the_report(whole):
    model = Twice(whole)
    example = ([torch.randn(2, 3, 6, 8)],)
    compression = fxcompress.compress(model, [passes.Quantize(), passes.Calibrate()], example_inputs=example, data=[example])
    notes = [note for note in compression.report.rows[0].notes if "as numbers" in note]
    assert len(notes) == whole and all("float32[any, 3, 6, 8]" in note for note in notes)


def test_sizes_that_the_model_does_not_take_do_not_count():
    """A U-Net takes even sizes only; they are free all the same."""
    model = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.ConvTranspose2d(4, 1, 2, 2))
    whole = Skip(model)
    compression = fxcompress.compress(whole, [passes.Quantize(), passes.Calibrate()], data=[torch.randn(2, 1, 8, 12)])
    assert whole(torch.randn(1, 1, 6, 20)).shape == (1, 1, 6, 20)
    assert compression.report


class Skip(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return x + self.inner(x)


def test_models_without_a_loss_are_tried_whole():
    assert default_parts(Parity(), ExampleInputs((torch.randn(2, 1, 8, 10),))) == []


@pytest.mark.parametrize("name", ["transformers", "lightning", "mmengine", "accelerate"])
def test_a_framework_that_is_missing_is_named(name, monkeypatch):
    for module in [
        one for one in sys.modules if one.partition(".")[0] == name or one.startswith("fxcompress.integrations.for_")
    ]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    controller = fxcompress.compress(Parity(), data=[torch.randn(2, 1, 8, 10)])
    with pytest.raises(InputError, match=f"pip install {name}"):
        controller.callback(name)


def test_a_framework_that_is_unknown_is_named():
    compression = fxcompress.compress(Parity(), data=[torch.randn(2, 1, 8, 10)])
    with pytest.raises(InputError, match="'transformer'.*did you mean 'transformers'"):
        compression.callback("transformer")


class Decoded(nn.Module):
    """A head in the way of YOLO's: raw maps in training, boxes elsewhere; its forward takes the whole batch for the loss."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.heads = nn.ModuleList([nn.Conv2d(8, 5, 1), nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 5, 1))])

    def forward(self, x):
        if isinstance(x, dict):
            return sum(one.square().mean() for one in self(x["images"]))
        x = self.stem(x)
        maps = [head(x) for head in self.heads]
        return maps if self.training else torch.cat([one.flatten(2).sigmoid() for one in maps], 2)


def test_what_returns_something_else_in_training_is_compressed_in_parts_that_do_not(tmp_path, recwarn):
    torch.manual_seed(0)
    model, x = Decoded(), torch.randn(4, 3, 16, 16)
    compression = fxcompress.compress(model, fxcompress.defaults.training(), data=[x])
    assert list(compression.compiled.parts) == ["stem", "heads.0", "heads.1"]
    assert not [one for one in recwarn if "does not train" in str(one.message)]
    model.train()({"images": x}).backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)
    file = compression.to_onnx(tmp_path / "whole.onnx", verify="strict")
    assert len(onnx.load(file).graph.output) == 1


class Matched(nn.Module):
    """A model with a head that calls what is in its base model, and a loss by values of labels, which no trace can follow."""

    base_model_prefix = "base"

    def __init__(self):
        super().__init__()
        self.base = nn.Module()
        self.base.decoder = nn.Sequential(nn.Linear(6, 8), nn.ReLU())
        self.head = nn.Linear(8, 3)

    def forward(self, pixels, scale=None, labels=None):
        outputs = {"logits": self.head(self.base.decoder(pixels)) * (1 if scale is None else scale)}
        if labels is None:
            return outputs
        if max(label.max() for label in labels) >= 3:
            raise ValueError("labels are below 3")
        loss = nn.functional.cross_entropy(outputs["logits"], torch.cat(labels))
        return {"loss": loss, "parts": {"matched": loss.detach()}} | outputs


def test_a_loss_that_cannot_be_traced_is_not_in_the_file(tmp_path):
    model, labels = Matched(), [torch.tensor([0]), torch.tensor([2, 1])]
    data = [{"pixels": torch.randn(3, 6), "scale": torch.ones(3, 1), "labels": labels}]
    compression = fxcompress.compress(model, data=data)
    assert list(compression.compiled.parts) == ["base.decoder", "head"]  # the base itself is not called
    model(**data[0])["loss"].backward()
    graph = onnx.load(compression.to_onnx(tmp_path / "model.onnx", verify="strict")).graph
    assert [one.name for one in graph.input] == ["pixels", "scale"] and [one.name for one in graph.output] == ["logits"]


def test_a_model_without_a_base_that_computes_a_loss_is_compressed_in_its_children():
    model = Matched()
    model.base_model_prefix = "transformer"  # T5's, which has none
    fxcompress.compress(model, data=[{"pixels": torch.randn(3, 6), "labels": [torch.tensor([0, 1, 2])]}])
    assert model(torch.randn(5, 6))["logits"].shape == (5, 3)  # called without labels


class Masked(nn.Module):
    """A layer whose mask has to be given, if only as None."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x, mask, scale=None):
        x = self.linear(x) if mask is None else self.linear(x) * mask
        return x if scale is None else x * scale


class Asking(nn.Module):
    """What no graph can be of, around a layer."""

    def __init__(self):
        super().__init__()
        self.masked = Masked()

    def forward(self, x):
        return self.masked(x.relu(), None, None) if x.sum() > 0 else self.masked(x, None)


def test_arguments_that_have_to_be_given_are_recorded_though_none():
    with pytest.warns(PartialCaptureWarning):
        compiled = fxcompress.compile(Asking().eval(), [], example_inputs=torch.rand(2, 4))
    assert list(compiled.parts) == ["masked"]


class ByMode(nn.Module):
    """A classifier that keeps MMEngine's contract, as its own example does."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))

    def forward(self, imgs, labels=None, mode="tensor"):
        scores = self.net(imgs)
        return {"loss": nn.functional.cross_entropy(scores, labels)} if mode == "loss" else scores

    def train_step(self, data, optim_wrapper):
        return self(**data, mode="loss")


def test_a_model_that_a_mode_tells_what_to_return_is_compressed_in_its_children():
    model, images = ByMode(), torch.randn(4, 3, 2, 2)
    compression = fxcompress.compress(model, [], data=[{"imgs": images}])
    assert list(compression.compiled.parts) == ["net"]
    model.train_step({"imgs": images, "labels": torch.tensor([0, 1, 2, 0])}, None)["loss"].backward()
    assert model.net[1].weight.grad is not None
