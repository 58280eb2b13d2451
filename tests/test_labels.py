"""Models that compute a loss in forward: compiled and trained with labels, called and written without."""

import warnings

import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from frameworks import framework
from torch import nn

import fxcompress
from fxcompress import passes
from fxcompress.errors import EmitError, InputError
from fxcompress.training import Polynomial


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 3)

    def logits(self, x):
        return self.last(torch.relu(self.first(x)))

    def forward(self, x, labels=None):
        logits = self.logits(x)
        return (None if labels is None else F.cross_entropy(logits, labels)), logits


class SizesOfLabels(Net):
    def forward(self, labels, x):
        logits = self.logits(x.reshape(labels.shape[0], -1))
        return F.cross_entropy(logits, labels), logits.reshape(labels.shape[0], 3, 1)


class Several(Net):
    def forward(self, x, targets, scale):
        logits = self.logits(x) * scale
        loss = F.cross_entropy(logits, targets["classes"]) + F.mse_loss(logits, targets["values"])
        return {"all": [loss, {"logits": logits}], "classes": targets["classes"], "doubled": loss * 2}


def batches(count=3):
    generator = torch.Generator().manual_seed(0)
    rows = range(count)
    return [{"x": torch.randn(8, 6, generator=generator), "labels": torch.randint(3, (8,), generator=generator)} for _ in rows]


def interface(path):
    graph = onnx.load(path).graph
    return [one.name for one in graph.input], [one.name for one in graph.output]


def run(path, **inputs):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {name: value.numpy() for name, value in inputs.items()})


@pytest.fixture
def compiled():
    torch.manual_seed(0)
    return fxcompress.compile(Net().eval(), fxcompress.defaults.training(), data=batches())


def test_trained_with_labels_and_called_and_written_without(compiled, tmp_path):
    unlabelled, before = compiled.without("labels"), batches()[0]
    optimizer = torch.optim.SGD(compiled.parameters(), lr=0.1)
    untrained = unlabelled(before["x"])[1]
    compiled.train()
    for batch in batches():
        compiled(**batch)[0].backward()
        optimizer.step()
    compiled.eval()
    x = torch.randn(5, 6)
    loss, logits = unlabelled(x)
    assert loss is None
    assert not torch.equal(unlabelled(before["x"])[1], untrained)  # the tensors are those that were trained
    assert torch.equal(logits, compiled(x, torch.zeros(5, dtype=torch.long))[1])
    path = unlabelled.to_onnx(tmp_path / "m.onnx", output_names=["logits"], verify="strict")
    assert interface(path) == (["x"], ["logits"])
    assert abs(run(path, x=x)[0] - logits.detach().numpy()).max() < 0.05 * logits.abs().max()
    unlabelled.to_openvino(tmp_path / "m.xml", verify="strict")
    assert interface(compiled.to_onnx(tmp_path / "whole.onnx"))[0] == ["x", "labels"]  # left as it was


def test_the_view_trains_the_same_tensors(compiled):
    unlabelled, batch = compiled.without("labels"), batches()[0]
    F.cross_entropy(unlabelled.train()(batch["x"])[1], batch["labels"]).backward()
    theirs = {name: parameter.grad for name, parameter in compiled.named_parameters()}
    assert all(theirs[name] is parameter.grad for name, parameter in unlabelled.named_parameters())
    assert any(grad is not None and grad.any() for grad in theirs.values())


def test_a_call_that_leaves_labels_out_says_what_to_do(compiled):
    for call in (lambda: compiled(torch.randn(2, 6)), lambda: compiled(x=torch.randn(2, 6))):
        with pytest.raises(InputError, match=r"calls with labels, which this call leaves out.*without\('labels'\)"):
            call()
    with pytest.raises(InputError, match="calls with x, which"):
        compiled(labels=torch.zeros(2, dtype=torch.long))
    with pytest.raises(TypeError, match="wrong"):
        compiled(torch.randn(2, 6), wrong=1)


def test_inputs_that_cannot_be_left_out(compiled):
    for names, message in [
        (["label"], "no input 'label'; the inputs are x, labels"),
        ([], "the inputs are x, labels"),
        (["x"], "every output needs x"),
        (["labels", "x"], "every output needs labels, x"),
    ]:
        with pytest.raises(InputError, match=message):
            compiled.without(*names)
    with pytest.raises(InputError, match="the inputs are x$"):
        compiled.without("labels").without("labels")


def test_sizes_of_labels_are_read_off_what_is_left(tmp_path):
    data = [(batch["labels"], batch["x"]) for batch in batches()]
    compiled = fxcompress.compile(SizesOfLabels().eval(), data=data, example_inputs=data[0])
    unlabelled, x = compiled.without("labels"), torch.randn(5, 6)
    assert torch.equal(unlabelled(x)[1], compiled(torch.zeros(5, dtype=torch.long), x)[1])
    path = unlabelled.to_onnx(tmp_path / "m.onnx", verify="strict")
    assert interface(path)[0] == ["x"]
    assert run(path, x=x)[0].shape == (5, 3, 1)


def test_a_program_that_reads_sizes_off_labels_themselves():
    """As torch makes them in strict mode."""

    class OfEachPlace(Net):
        def forward(self, labels, x):
            samples, places = labels.shape
            logits = self.logits(x).reshape(samples * places, 3) / places
            return F.cross_entropy(logits, labels.flatten()), logits

    free, example = (
        {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")},
        (torch.zeros(2, 4).long(), torch.randn(2, 4, 6)),
    )
    program = torch.export.export(OfEachPlace().eval(), example, dynamic_shapes=(free, free), strict=True)
    compiled = fxcompress.compile(program, [], example_inputs=example)
    assert any("sym_size" in str(user.target) for user in next(iter(compiled.graph.nodes)).users)
    labels, x = torch.zeros(3, 5).long(), torch.randn(3, 5, 6)
    assert torch.equal(compiled.without("labels")(x)[1], compiled(labels, x)[1])


def test_nested_inputs_between_others_and_nested_outputs(tmp_path):
    targets = {"classes": torch.tensor([0, 1, 2, 0]), "values": torch.randn(4, 3)}
    x, scale = torch.randn(4, 6), torch.rand(4, 1) + 1
    for example in ((x, targets, scale), {"x": x, "targets": targets, "scale": scale}):
        compiled = fxcompress.compile(Several().eval(), [], example_inputs=example)
        got = compiled.without("targets")(x, scale=scale)
        assert got["all"][0] is got["classes"] is got["doubled"] is None
        assert torch.equal(got["all"][1]["logits"], compiled(x, targets, scale)["all"][1]["logits"])
        path = compiled.without("targets").to_onnx(tmp_path / "m.onnx", verify="strict")
        assert interface(path) == (["x", "scale"], ["all_1_logits"])


@pytest.mark.filterwarnings("ignore::fxcompress.errors.FileWarning")
@pytest.mark.parametrize("loss", [F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss, F.binary_cross_entropy_with_logits])
def test_losses_of_values(loss, tmp_path):
    """Some broadcast the logits and the labels together; the logits that are returned need none for that."""

    class Regression(Net):
        def forward(self, x, values=None):
            logits = self.logits(x).squeeze(1)
            return loss(logits, values), logits

    compiled = fxcompress.compile(Regression().eval(), [], example_inputs=(torch.randn(4, 6), torch.rand(4, 3)))
    path = compiled.without("values").to_onnx(tmp_path / "m.onnx", verify="strict")
    assert interface(path)[0] == ["x"]


def test_a_loss_that_no_file_can_hold(tmp_path):
    class Digamma(Net):
        def forward(self, x, labels):
            logits = self.logits(x)
            return torch.digamma(logits.exp()).gather(1, labels[:, None]).sum(), logits

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = fxcompress.compile(Digamma().eval(), [], example_inputs=(torch.randn(4, 6), torch.tensor([0, 1, 2, 0])))
    with pytest.raises(EmitError, match="digamma"):
        compiled.to_onnx(tmp_path / "m.onnx")
    assert interface(compiled.without("labels").to_onnx(tmp_path / "m.onnx", verify="strict"))[0] == ["x"]


def test_the_schedule_is_that_of_the_model(tmp_path):
    stack = [passes.Sparsify(level=0.5, schedule=Polynomial(epochs=2))]
    compiled = fxcompress.compile(Net().eval(), stack, data=batches())
    for _ in range(3):
        compiled.controller.scheduler.epoch_step()
    unlabelled = compiled.without("labels")
    assert unlabelled.controller is compiled.controller
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path = unlabelled.to_onnx(tmp_path / "m.onnx")
    weights = [onnx.numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer]
    assert any(one.size >= 48 and (one == 0).mean() > 0.4 for one in weights)


def test_in_place(tmp_path):
    model = Net().eval()
    compression = fxcompress.compress(model, data=batches())
    with pytest.raises(InputError, match=r"compression\.compiled\.without\('labels'\)"):
        model(torch.randn(2, 6))
    batch = batches()[0]
    model.train()(**batch)
    assert compression.compiled.without("labels").training
    model.eval()
    unlabelled = compression.compiled.without("labels")
    assert not unlabelled.training
    with torch.no_grad():
        model.last.bias += 1
    assert torch.equal(unlabelled(batch["x"])[1], model.eval()(**batch)[1])
    assert interface(unlabelled.to_onnx(tmp_path / "m.onnx", verify="strict"))[0] == ["x"]


def test_a_hugging_face_model(tmp_path):
    transformers = framework("transformers")
    sizes = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    model = transformers.BertForSequenceClassification(transformers.BertConfig(**sizes, num_labels=3)).eval()
    inputs = {"input_ids": torch.randint(1, 64, (4, 7)), "attention_mask": torch.ones(4, 7, dtype=torch.long)}
    labelled = inputs | {"labels": torch.tensor([0, 1, 2, 0])}
    compiled = fxcompress.compile(model, fxcompress.defaults.training(), data=[labelled])
    compiled.train()(**labelled).loss.backward()
    unlabelled = compiled.eval().without("labels")
    got = unlabelled(**inputs)
    assert type(got) is type(model(**inputs))
    assert got.loss is None
    assert got.keys() == model(**inputs).keys()
    assert torch.equal(got.logits, compiled(**labelled).logits)
    path = unlabelled.to_onnx(tmp_path / "m.onnx", verify="strict")
    assert interface(path) == (["input_ids", "attention_mask"], ["logits"])
