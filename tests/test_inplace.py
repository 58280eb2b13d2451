"""Compression of the user's own instance: it stays the same object in everything but what its forward computes."""

import copy
import inspect
import pickle

import pytest
import torch
from torch import nn

import fxcompress
from fxcompress import passes
from fxcompress.errors import InputError
from fxcompress.inplace.graft import graft

STACKS = {
    "quantizers": [passes.CanonicalizeActivations(), passes.Quantize(), passes.Calibrate()],
    "training": fxcompress.defaults.training(),
    "masks and training": [passes.PruneFilters(amount=0.5, multiple=1), *fxcompress.defaults.training()],
    "after training": fxcompress.defaults.post_training(),
}
stacks = pytest.mark.parametrize("stack", STACKS.values(), ids=STACKS.keys())


class Classifier(nn.Module):
    """A network with what user's modules have: methods, attributes, a loss in forward, tied weights, names that collide."""

    def __init__(self):
        super().__init__()
        self.config = {"classes": 5}
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 5)
        self.images_quantizer = "mine"  # what a quantizer of the input would be called

    def forward(self, images, labels=None, scale=1.0, **extra):
        features = self.norm(self.conv(images)).relu().mean((2, 3))
        logits = self.head(self.drop(features)) * scale
        return {"logits": logits} if labels is None else {"logits": logits, "loss": self.loss(logits, labels)}

    def loss(self, logits, labels):
        return nn.functional.cross_entropy(logits, labels)


def images(count=4):
    return torch.randn(count, 3, 9, 9, generator=torch.Generator().manual_seed(1))


def compressed(stack):
    """A model, the same compressed in place, and what was compiled from it."""
    torch.manual_seed(0)
    model = Classifier().eval()
    original = copy.deepcopy(model)
    twin = graft(model, fxcompress.compile(model, stack, data=[{"images": images()}]))
    return original, model, twin


@stacks
def test_the_instance_computes_what_the_compiled_model_does_and_stays_what_it_was(stack):
    torch.manual_seed(0)
    model = Classifier().eval()
    kind, held = type(model), dict(model.named_parameters())
    compiled = fxcompress.compile(model, stack, data=[{"images": images()}])
    expected = compiled(images=images())["logits"]
    twin = graft(model, compiled)
    assert torch.equal(model(images())["logits"], expected) and torch.equal(twin(images())["logits"], expected)
    assert isinstance(model, kind) and type(model).__name__ == "Classifier"
    assert model.images_quantizer == "mine" and model.config == {"classes": 5}
    assert all(dict(model.named_parameters())[name] is parameter for name, parameter in held.items())
    assert torch.isfinite(model.loss(expected, torch.zeros(4, dtype=torch.long)))
    assert list(inspect.signature(model.forward).parameters) == ["images", "labels", "scale", "extra"]


@stacks
def test_training_the_instance_trains_what_is_written(stack, tmp_path):
    original, model, twin = compressed(stack)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    before = model(images())["logits"]
    outputs = model.train()(images())["logits"]
    assert not torch.equal(outputs, before)  # batch statistics, dropout
    model.loss(outputs, torch.tensor([0, 1, 2, 3])).backward()
    optimizer.step()
    model.eval()
    assert not torch.equal(model(images())["logits"], before)
    assert torch.equal(twin.eval()(images())["logits"], model(images())["logits"])
    twin.to_onnx(tmp_path / "model.onnx")
    assert original.conv.weight.grad is None


@stacks
def test_a_copy_has_tensors_of_its_own(stack):
    _, model, _ = compressed(stack)
    twin = copy.deepcopy(model)
    expected = model(images())["logits"]
    assert torch.equal(twin(images())["logits"], expected)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(twin(images())["logits"], expected)


def test_state_goes_from_one_instance_to_another():
    _, model, _ = compressed(STACKS["training"])
    _, other, _ = compressed(STACKS["training"])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(images())["logits"], model(images())["logits"])


@pytest.mark.parametrize(
    ("arguments", "works"),
    [
        ({"labels": None}, True),
        ({"labels": None, "scale": 1.0, "num_items_in_batch": 3}, True),
        ({"labels": torch.zeros(4, dtype=torch.long)}, False),
        ({"scale": 2.0}, False),
    ],
)
def test_arguments_that_say_nothing_pass_and_others_are_named(arguments, works):
    _, model, _ = compressed(STACKS["quantizers"])
    if works:
        assert torch.equal(model(images(), **arguments)["logits"], model(images())["logits"])
    else:
        with pytest.raises(InputError, match=f"Classifier was compressed for calls without '{next(iter(arguments))}'"):
            model(images(), **arguments)


def test_a_call_that_leaves_out_what_the_graph_reads_is_told():
    _, model, _ = compressed(STACKS["quantizers"])
    with pytest.raises(TypeError, match="images"):
        model()


def test_what_cannot_be_done_is_told():
    _, model, twin = compressed(STACKS["quantizers"])
    with pytest.raises(InputError, match="compressed already"):
        graft(model, twin)
    with pytest.raises(TypeError, match=r"compression.checkpoint"):
        pickle.dumps(model)
    wrapped = Classifier()
    wrapped.forward = lambda *args: None
    with pytest.raises(InputError, match="before it is wrapped"):
        graft(wrapped, twin)


class Branches(nn.Module):
    """A detector in small: parts called through `forward`, a method of its own for training, `train` that returns nothing."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, images):
        if images.mean() > 100:  # of the values: the whole cannot be traced
            return images
        return self.head.forward(self.backbone(images))

    def training_loss(self, images):
        return self.head.forward(self.backbone(images)).square().mean()

    def train(self, mode=True):
        super().train(mode)


def test_parts_of_a_model_are_compressed_in_place(tmp_path):
    torch.manual_seed(0)
    model = Branches()
    model.eval()
    held = dict(model.named_parameters())
    compression = fxcompress.compress(model, data=[images()], submodules=["backbone", "head"])
    assert all(dict(model.named_parameters())[name] is parameter for name, parameter in held.items())
    before = model(images())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()
    model.training_loss(images()).backward()
    optimizer.step()
    model.eval()
    assert not torch.equal(model(images()), before)
    saved = compression.checkpoint()
    assert len(compression.to_onnx(tmp_path)) == 2
    after = model(images())
    torch.manual_seed(0)
    other = Branches()
    other.eval()
    resumed = fxcompress.compress(other, data=[images()], submodules=["backbone", "head"])
    resumed.load_checkpoint(saved)
    assert torch.equal(other(images()), after)


def test_a_whole_model_is_compressed_in_place(tmp_path):
    torch.manual_seed(0)
    model = Classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)  # made before
    compression = fxcompress.compress(
        model, [passes.Sparsify(level=0.5), *fxcompress.defaults.training()], data=[{"images": images()}]
    )
    assert model.training and compression.controller["Sparsify"] is not None
    before = model.conv.weight.clone()
    (model(images())["logits"].square().mean() + compression.controller.loss()).backward()
    optimizer.step()
    assert not torch.equal(model.conv.weight, before)
    model.eval()
    assert compression.to_onnx(tmp_path / "model.onnx").exists()
    assert "Sparsify" in str(compression.report)
    with pytest.raises(InputError, match="compressed already"):
        fxcompress.compress(model, data=[{"images": images()}])


def test_a_failed_compression_leaves_the_model_as_it_was():
    model = Classifier().eval()
    kind, names, expected = type(model), set(model.state_dict()), model(images())["logits"]
    with pytest.raises(InputError):
        fxcompress.compress(model, [passes.Quantize(), passes.Calibrate()], example_inputs={"images": images()})
    assert type(model) is kind and set(model.state_dict()) == names and torch.equal(model(images())["logits"], expected)


@pytest.mark.parametrize("name", ["text", "a b", 'x"), print("', "class"])
def test_a_name_that_cannot_stay_is_told_and_nothing_is_changed(name):
    model = Holder(name)
    kind, keys = type(model), list(model.state_dict())
    with pytest.raises(InputError, match="rename it"):
        fxcompress.compress(model, [], example_inputs=torch.randn(2, 4))
    assert type(model) is kind and list(model.state_dict()) == keys


class Holder(nn.Module):
    """A layer of any name."""

    def __init__(self, name):
        super().__init__()
        self.name = name
        self.add_module(name, nn.Linear(4, 4))

    def forward(self, x):
        return self._modules[self.name](x).relu()


def test_a_model_of_another_precision_is_told_and_left_alone():
    model = Classifier().eval().to(torch.bfloat16)
    kind = type(model)
    with pytest.raises(InputError, match=r"conv.weight is torch.bfloat16.*model.float\(\)"):
        fxcompress.compress(model, data=[{"images": images().bfloat16()}])
    assert type(model) is kind and model.conv.weight.dtype == torch.bfloat16


def test_where_one_part_cannot_be_changed_none_is():
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), Holder("text")).eval()
    kinds, keys = [type(part) for part in model], list(model.state_dict())
    with pytest.raises(InputError, match="'text'.*rename it"):
        fxcompress.compress(model, [], example_inputs=torch.randn(2, 4), submodules=["0", "1"])
    assert [type(part) for part in model] == kinds and list(model.state_dict()) == keys
