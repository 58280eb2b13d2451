"""Capture: the graph computes what the model does, keeps its state and its calls, and leaves the model alone."""

from __future__ import annotations

import copy
import functools
import threading
from collections import Counter, OrderedDict
from types import SimpleNamespace

import onnx
import pytest
import torch
import torch.nn.functional as F
from emission import Call, captured
from hypothesis import HealthCheck, given, settings
from recipes import recipes
from torch import nn
from torch._dynamo import trace_rules
from torch.utils import _pytree as pytree

import fxcompress
from fxcompress.capture import capture
from fxcompress.capture.partial import capture_submodules
from fxcompress.capture.tolerated import symbolic_lengths
from fxcompress.data.batch import Batch
from fxcompress.data.inputs import ExampleInputs
from fxcompress.errors import CaptureError, PartialCaptureWarning, ScopeError
from fxcompress.ir import dialect
from fxcompress.ir.modes import set_training
from fxcompress.rewrite.example import Example

aten = torch.ops.aten


def calls(graph_module, *targets):
    return [n for n in graph_module.graph.nodes if n.op == "call_function" and (not targets or n.target in targets)]


class Residual(nn.Module):
    def __init__(self, channels=4):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out += x
        return self.relu(out)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.layer1 = nn.Sequential(Residual(), Residual())
        self.drop = nn.Dropout(0.2)
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(self.drop(self.layer1(self.stem(x)).mean((2, 3))))


IMAGE = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


# ------------------------------------------------------------------------------------------------ the same function


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(recipes())
def test_runs_equal_to_the_original_in_every_spelling_and_batch_size(recipe):
    model = recipe.build()
    graph_module = capture(model, ExampleInputs((recipe.inputs(1),)))
    dialect.check(graph_module)
    graph_module.graph.lint()
    assert list(graph_module.state_dict()) == list(model.state_dict())
    with torch.no_grad():
        for batch in (1, 2, 5):
            torch.testing.assert_close(graph_module(recipe.inputs(batch)), model(recipe.inputs(batch)), rtol=1e-5, atol=1e-5)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(recipes(max_steps=6))
def test_both_entries_give_the_same_text(recipe):
    model, example = recipe.build(), ExampleInputs((recipe.inputs(2),))
    from_module = capture(model, example)
    from_graph = capture(torch.fx.symbolic_trace(model), example)
    assert str(from_graph.graph) == str(from_module.graph)


def test_reads_like_the_model():
    names = [node.name for node in capture(Net(), ExampleInputs((IMAGE,))).graph.nodes if node.op == "call_function"]
    block = ["conv1", "bn1", "relu", "add", "relu_1"]
    assert names == [
        "stem",
        *(f"layer1_0_{name}" for name in block),
        *(f"layer1_1_{name}" for name in block),
        "mean",
        "drop",
        "fc",
    ]


def test_nodes_say_where_they_come_from():
    graph_module = capture(Net(), ExampleInputs((IMAGE,)))
    by_name = {node.name: node for node in graph_module.graph.nodes}
    assert by_name["layer1_0_conv1"].meta["scope"] == "layer1.0.conv1"
    assert by_name["layer1_0_add"].meta["scope"] == "layer1.0"
    assert "out += x" in by_name["layer1_0_add"].meta["stack_trace"]
    assert by_name["layer1_0_conv1_weight"].target == "layer1.0.conv1.weight"
    assert not isinstance(by_name["fc"].meta["val"].shape[0], int), "the batch is symbolic"
    assert by_name["fc"].meta["val"].shape[1] == 2


def test_a_module_that_is_called_twice_does_not_borrow_its_neighbours_name():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Conv2d(3, 3, 1))

        def forward(self, x):
            return self.block(self.block(x))

    names = [node.name for node in calls(capture(Twice(), ExampleInputs((IMAGE,))))]
    assert names == ["block_0", "block_1", "block_2", "block_0_conv2d", "block_1_relu", "block_2_conv2d"]


# ---------------------------------------------------------------------------------------------------- state and calls


def test_the_model_is_left_alone():
    model = Net().train()
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    graph_module = capture(model, ExampleInputs((IMAGE,)))
    assert [m.training for m in model.modules()] == modes
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
    assert not graph_module.training


def test_unused_buffers_and_tied_parameters_keep_their_keys():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.encode, self.decode = nn.Linear(4, 4), nn.Linear(4, 4)
            self.decode.weight = self.encode.weight
            self.norm = nn.BatchNorm1d(4)
            self.register_buffer("spare", torch.arange(3.0))
            self.register_buffer("hidden", torch.ones(4), persistent=False)
            self.unused = nn.Linear(2, 2)

        def forward(self, x):
            return self.decode(self.norm(self.encode(x)) * self.hidden)

    model = Tied()
    graph_module = capture(model, ExampleInputs((torch.randn(2, 4),)))
    assert list(graph_module.state_dict()) == list(model.state_dict())
    assert graph_module.encode.weight is graph_module.decode.weight
    assert graph_module.encode.weight is not model.encode.weight
    graph_module.load_state_dict(model.state_dict())


def test_is_called_as_the_model_is():
    class Named(nn.Module):
        def forward(self, x, *, scale=None, extra=None):
            return OrderedDict(logits=x * scale["by"], both=(x, extra))

    x, y = torch.randn(2, 4), torch.randn(2, 4)
    example = ExampleInputs((x,), {"scale": {"by": y}, "extra": y})
    out = capture(Named(), example)(x, scale={"by": y}, extra=y)
    assert isinstance(out, OrderedDict) and list(out) == ["logits", "both"]
    assert torch.equal(out["logits"], x * y) and torch.equal(out["both"][1], y)


def test_a_model_that_cannot_be_deep_copied():
    class Locked(Net):
        def __init__(self):
            super().__init__()
            self.lock = threading.Lock()

    model = Locked()
    graph_module = capture(model, ExampleInputs((IMAGE,)))
    assert list(graph_module.state_dict()) == list(model.state_dict())
    assert graph_module.fc.weight is not model.fc.weight
    with torch.no_grad():
        assert torch.allclose(graph_module(IMAGE), model.eval()(IMAGE))


def test_a_batch_that_the_model_fixes_falls_back_to_it_and_says_so():
    class Fixed(nn.Module):
        def forward(self, x):
            return x.reshape(3, 4) * 2

    graph_module = capture(Fixed(), ExampleInputs((torch.ones(3, 4),)))
    assert graph_module(torch.ones(3, 4)).shape == (3, 4)
    assert "batch size is fixed" in graph_module.meta["capture_notes"][0]


# ------------------------------------------------------------------------------------------------------ hard models


class Writes(nn.Module):
    """Changes `x` in place while a view of it is still read."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.4)

    def forward(self, x):
        x = self.drop(x * 2)
        first = x[:, 0]
        x[:, 1:] *= 3
        x.add_(1)
        return x + first.unsqueeze(1)


def test_writing_to_a_tensor_that_a_view_still_reads():
    model, x = Writes().eval(), torch.randn(3, 4)
    graph_module = capture(model, ExampleInputs((x,)))
    dialect.check(graph_module)
    assert torch.allclose(graph_module(x), model(x))
    assert len(calls(graph_module, aten.dropout.default)) == 1


class WritesHalf(nn.Module):
    """Changes a part of a split in place, which torch refuses where gradients are recorded: it is traced once more."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x):
        first, second = self.norm(self.conv(x)).chunk(2, 1)
        return F.relu(first, inplace=True) + second


class CallsItself(nn.Module):
    """Goes twice through its layer, by a call of itself."""

    def __init__(self):
        super().__init__()
        self.conv, self.drop = nn.Conv2d(3, 3, 1), nn.Dropout(0.2)

    def forward(self, x, again=True):
        x = self.drop(self.conv(x))
        return self(x, again=False) if again else x


@pytest.mark.parametrize("kind", [WritesHalf, CallsItself])
def test_what_watches_forward_is_there_once_however_often_it_is_called(kind):
    model, x = kind().eval(), torch.randn(2, 3, 4, 4)
    graph_module = capture(model, ExampleInputs((x,)))
    with torch.no_grad():
        assert torch.equal(graph_module(x), model(x))
    assert "training" not in vars(nn.Module)  # as torch has it


def written_input(x):
    y = F.dropout(x, 0.5, False)
    x.add_(1)
    return y * 3


def written_dropout(x):
    y = F.dropout(x, 0.5, False)
    y.add_(1)
    return x * 3


def written_view(x):
    F.dropout(x, 0.5, False).view(-1).add_(1)
    return x * 3


@pytest.mark.parametrize("write", [written_input, written_dropout, written_view])
def test_an_idle_dropout_is_its_own_input(write):
    model, x = Example(lambda x: write(x * 2)).module(), torch.randn(3, 4, 4)
    graph_module = capture(model, ExampleInputs((x,)))
    torch.testing.assert_close(graph_module(x), model(x))
    told = any("dropout is left out" in note for note in graph_module.meta["capture_notes"])
    assert told != bool(calls(graph_module, aten.dropout.default))  # torch 2.14 can keep one whose view is written to


def test_a_dropout_whose_input_is_gone_can_be_changed_in_place():
    model, x = Example(lambda x: F.dropout(x * 2, 0.5, False).relu_().add_(x)).module(), torch.randn(3, 4)
    graph_module = capture(model, ExampleInputs((x,)))
    torch.testing.assert_close(graph_module(x), model(x))
    assert calls(graph_module, aten.dropout.default) and not graph_module.meta["capture_notes"]


def constant_written_between_reads(x):
    c = torch.zeros(4)
    before = x + c
    c.add_(1)
    return before + c * x


def view_of_a_constant_written_between_reads(x):
    c = torch.arange(8.0).view(2, 4)
    before = x + c[0]
    c[0].mul_(2)
    return before * c[0] + c[1]


def part_written_after_the_whole(x):
    y = x + 1
    y.neg_()
    y[:, :1] += 1
    return y * 2


def part_of_a_part_written_after_the_whole(x):
    y = (x + 1).relu_()
    z = y[:, 1:]
    z.mul_(3)
    z[:, 1:].add_(x[:, :2])
    y.sub_(1)
    return y * 2, z * 2


def clamp_of_integers_to_a_real(x):
    return (x * 5).long().clamp(min=0.0)


@pytest.mark.parametrize(
    "program",
    [
        constant_written_between_reads,
        view_of_a_constant_written_between_reads,
        part_written_after_the_whole,
        part_of_a_part_written_after_the_whole,
        clamp_of_integers_to_a_real,
        lambda x: x[:, :-10].sum() + x,
        lambda x: torch.cat([x[:, :-5], x[:, -9:-3]], 1),
        lambda x: x.tile(2),
        lambda x: x.tile((1, 3)),
        lambda x: torch.diag_embed(x, 0, 0, 1),
        lambda x: torch.diag_embed(x, 0, -3, -1),
        lambda x: torch.cat([torch.tensor([]), x[:, None], x[:, None]], dim=-2),
    ],
)
def test_arguments_keep_their_meaning(program):
    graph_module = capture(Example(program).module(), ExampleInputs((torch.randn(2, 4),)))
    for batch in (1, 3):
        x = torch.randn(batch, 4)
        torch.testing.assert_close(graph_module(x), program(x), rtol=1e-6, atol=1e-6)


def test_a_module_may_be_called_by_a_word_of_pythons_own():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.heads = nn.ModuleDict({"box": nn.Linear(4, 4), "class": nn.Linear(4, 4)})

        def forward(self, x):
            return {name: head(x) for name, head in self.heads.items()}

    model, x = Heads(), torch.randn(2, 4)
    outputs = capture(model, ExampleInputs((x,)))(x)
    assert all(torch.equal(outputs[name], value) for name, value in model(x).items())


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_a_model_that_cannot_be_deep_copied_may_hold_a_parametrized_layer():
    layers = nn.utils.weight_norm(nn.Linear(4, 4)), nn.utils.parametrizations.weight_norm(nn.Linear(4, 2))
    model, x = nn.Sequential(*layers).eval(), torch.randn(2, 4)
    expected = model(x)  # leaves a tensor with a history in the first layer
    graph_module = capture(model, ExampleInputs((x,)))
    torch.testing.assert_close(graph_module(x), expected)


def test_an_in_place_operation_keeps_the_dtype():
    class Half(nn.Module):
        def forward(self, x, y):
            z = x * 1
            z += y
            return z

    x, y = torch.randn(2, 4, dtype=torch.float16), torch.randn(2, 4)
    out = capture(Half(), ExampleInputs((x, y)))(x, y)
    assert out.dtype == torch.float16 and torch.equal(out, Half()(x, y))


def test_a_counter_in_a_buffer_is_left_out_with_a_note():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("count", torch.zeros(1))

        def forward(self, x):
            self.count += 1
            return x * self.count

    graph_module = capture(Counts(), ExampleInputs((torch.ones(2, 3),)))
    dialect.check(graph_module)
    assert torch.equal(graph_module(torch.ones(2, 3)), torch.ones(2, 3))
    assert any("'count'" in note for note in graph_module.meta["capture_notes"])


def test_constants_are_computed_at_capture():
    class Masked(nn.Module):
        def forward(self, x):
            mask = torch.zeros(4, 4)
            mask[:2] = 1.0
            return x @ mask.tril() + torch.arange(4)

    x = torch.randn(2, 4)
    graph_module = capture(Masked(), ExampleInputs((x,)))
    assert [n.target for n in calls(graph_module)] == [aten.matmul.default, aten.add.Tensor]
    assert torch.allclose(graph_module(x), Masked()(x)) and not graph_module.state_dict()


def test_no_grad_regions_are_part_of_the_graph_and_stop_gradients():
    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            with torch.no_grad():
                x = self.body(x)
            return self.head(x)

    graph_module = capture(Frozen(), ExampleInputs((torch.randn(2, 4),)))
    assert [node.name for node in calls(graph_module)] == ["body", "stop_gradient", "head"]
    assert not graph_module.meta["capture_notes"]


# ---------------------------------------------------------------------------------------------- training and inference


class Attends(nn.Module):
    def __init__(self):
        super().__init__()
        self.dropout = 0.25

    def forward(self, x):
        return F.scaled_dot_product_attention(x, x, x, dropout_p=self.dropout if self.training else 0.0)


def test_training_mode_flips_literals_and_nothing_else():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=0.1, momentum=0.3), nn.Dropout(0.7))
    graph_module = capture(model, ExampleInputs((IMAGE,)))
    before = str(graph_module.graph)
    set_training(graph_module, True)
    changed = str(graph_module.graph)
    assert "True, 0.3, 0.1, True" in changed and "0.7, True" in changed
    graph_module(torch.randn(4, 3, 8, 8))
    assert not torch.equal(graph_module.get_buffer("1.running_mean"), model[1].running_mean)
    set_training(graph_module, False)
    assert str(graph_module.graph) == before


def test_training_mode_gives_attention_its_dropout_back():
    graph_module = capture(Attends(), ExampleInputs((torch.randn(2, 2, 4, 8),)))
    before = str(graph_module.graph)
    assert "0.25" not in before
    set_training(graph_module, True)
    assert "dropout_p: 0.25" in str(graph_module.graph)
    set_training(graph_module, False)
    assert str(graph_module.graph) == before


def test_torchs_own_encoder_layer_shows_its_operations():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.35, batch_first=True).eval()
    x = torch.randn(2, 6, 8)
    graph_module = capture(layer, ExampleInputs((x,)))
    names = [node.name for node in calls(graph_module, aten.linear.default)]
    assert names == ["self_attn_linear", "self_attn_out_proj", "linear1", "linear2"]
    (attention,) = calls(graph_module, aten.scaled_dot_product_attention.default)
    assert attention.meta["dropout_p"] == 0.35
    with torch.no_grad():
        torch.testing.assert_close(graph_module(x), layer(x))


def test_a_batch_norm_without_statistics_stays_as_it_is():
    graph_module = capture(nn.BatchNorm2d(3, track_running_stats=False), ExampleInputs((IMAGE,)))
    (norm,) = calls(graph_module, aten.batch_norm.default)
    assert norm.args[5] is True
    set_training(graph_module, False)
    assert norm.args[5] is True


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.layer = kind(6, 5, num_layers=2, dropout=0.5)

    def forward(self, x):
        return self.layer(x)[0]


@pytest.mark.parametrize(
    "model",
    [nn.RReLU(), nn.RReLU(0.2, 0.4), nn.InstanceNorm1d(4, track_running_stats=True), nn.InstanceNorm1d(4)]
    + [Recurrent(kind) for kind in (nn.LSTM, nn.GRU, nn.RNN)],
    ids=lambda model: type(getattr(model, "layer", model)).__name__,
)
def test_what_differs_in_training_differs_as_in_the_model(model):
    x = torch.randn(3, 4, 6)
    graph_module = capture(model, ExampleInputs((x,)))
    before = str(graph_module.graph)
    set_training(graph_module, True)
    original, outputs = copy.deepcopy(model).train(), []
    for one in (original, graph_module):
        torch.manual_seed(0)
        outputs.append(one(x))
    torch.testing.assert_close(*outputs)
    for name, buffer in original.named_buffers():
        if "running" in name:
            torch.testing.assert_close(graph_module.get_buffer(name), buffer)
    set_training(graph_module, False)
    assert str(graph_module.graph) == before


@pytest.mark.parametrize(("momentum", "lost"), [(None, [True]), (0.0, []), (0.1, [])])
def test_a_batch_norm_that_averages_over_all_batches_is_told_before_anybody_trains(momentum, lost):
    model = nn.Sequential(nn.BatchNorm2d(3, momentum=momentum), nn.BatchNorm2d(3))
    graph_module = capture(model, ExampleInputs((IMAGE,)))
    for told in (graph_module.meta["capture_notes"], graph_module.meta["lost_in_training"]):
        assert ["momentum=None" in one for one in told] == lost


# -------------------------------------------------------------------------------------------------- what cannot be traced


class Detector(nn.Module):
    """A body and a head that trace, around a decision that does not."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU())
        self.head = nn.Conv2d(16, 2, 1)

    def forward(self, x):
        scores = self.head(self.backbone(x)).flatten(1)
        if scores.max() > 0.1:  # depends on the data
            scores = scores - scores.max()
        return scores[scores > -1]


def test_the_error_names_the_users_line_and_what_to_do():
    with pytest.raises(CaptureError, match=r"test_capture\.py:\d+: if scores\.max\(\) > 0\.1.*submodules=") as caught:
        capture(Detector(), ExampleInputs((IMAGE,)))
    assert caught.value.__cause__ is not None


def test_wrong_inputs_are_a_capture_error():
    with pytest.raises(CaptureError, match=r"ExampleInputs\(float32\[2, 5\]\)"):
        capture(nn.Linear(4, 4), ExampleInputs((torch.randn(2, 5),)))


def test_why_torch_cannot_replace_a_change_in_place_is_told(monkeypatch):
    class WritesToAView(nn.Module):
        def forward(self, x):
            y = x * 2
            y[:, 0].add_(1)
            return y

    def fails(*_):
        raise NotImplementedError("no such kernel\nand a long story")

    monkeypatch.setattr("fxcompress.capture.in_dialect.kept_for_training", fails)
    with pytest.raises(CaptureError, match="torch's own way fails as well, with NotImplem.*: no such kernel$") as caught:
        capture(WritesToAView(), ExampleInputs((torch.randn(2, 5),)))
    assert isinstance(caught.value.__cause__, NotImplementedError)


def test_the_largest_submodules_that_trace():
    model = Detector()
    found = capture_submodules(model, ExampleInputs((IMAGE,)))
    assert sorted(found.graphs) == ["backbone", "head"]
    assert "scores.max()" in found.left_alone[""]
    x = torch.randn(4, 3, 8, 8)
    assert torch.allclose(found.graphs["backbone"](x), model.backbone(x))


def test_named_submodules():
    found = capture_submodules(Detector(), ExampleInputs((IMAGE,)), ["head"])
    assert list(found.graphs) == ["head"] and found.inputs["head"].args[0].shape == (1, 16, 6, 6)


def test_an_unknown_submodule_suggests_the_nearest():
    with pytest.raises(ScopeError, match="did you mean 'backbone'"):
        capture_submodules(Detector(), ExampleInputs((IMAGE,)), ["bakbone"])


def test_a_submodule_that_is_called_with_several_sizes_is_refused():
    class Pyramid(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return self.shared(x), self.shared(x[:, :, ::2])

    with pytest.raises(CaptureError, match="different inputs"):
        capture_submodules(Pyramid(), ExampleInputs((IMAGE,)), ["shared"])


def test_the_backbone_of_a_torchvision_detector():
    try:
        import torchvision
    except (ImportError, RuntimeError):
        pytest.skip("torchvision cannot be imported")
    detection = torchvision.models.detection
    model = detection.fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None)
    try:
        model.eval()([IMAGE[0]])
    except RuntimeError as error:
        pytest.skip(f"torchvision's operators are missing: {error}")
    found = capture_submodules(model, ExampleInputs(([torch.randn(3, 64, 64)],)), ["backbone"])
    images = found.inputs["backbone"].args[0]
    with torch.no_grad():
        expected, got = model.backbone(images), found.graphs["backbone"](images)
    assert list(got) == list(expected)
    for key in expected:
        torch.testing.assert_close(got[key], expected[key])


@pytest.mark.parametrize("spelling", [nn.ReLU6(), nn.ReLU6(inplace=True), nn.Hardtanh(-0.5, 2.0), lambda x: x.clamp(0, 6)])
def test_a_clamp_has_the_gradients_of_its_spelling_in_training(spelling):
    class Clamped(nn.Module):
        def forward(self, x):
            return spelling(x * 1)

    x = torch.tensor([[-1.0, -0.5, 0.0, 1.0, 2.0, 6.0, 7.0]])
    graph_module = capture(Clamped(), ExampleInputs((x,)))
    before = str(graph_module.graph)
    set_training(graph_module, True)
    expected, found = x.clone().requires_grad_(), x.clone().requires_grad_()
    spelling(expected * 1).sum().backward()
    graph_module(found).sum().backward()
    assert torch.equal(found.grad, expected.grad)
    set_training(graph_module, False)
    assert str(graph_module.graph) == before


class RemembersSizes(nn.Module):
    """As heads of detectors do, which make a grid where the size is not that of the call before."""

    def __init__(self):
        super().__init__()
        self.conv, self.shape, self.grid = nn.Conv2d(3, 4, 3), None, None

    def forward(self, x):
        x = self.conv(x)
        if self.shape != x.shape:
            self.grid = torch.stack(torch.meshgrid(torch.arange(x.shape[2]), torch.arange(x.shape[3]), indexing="ij"), -1)
            self.shape = x.shape
        return x.flatten(2).transpose(1, 2) + self.grid.view(-1, 2).repeat(1, 2)


@pytest.mark.parametrize("called", [False, True])
def test_what_a_model_remembers_of_a_call_does_not_fix_the_batch(called):
    model, x = RemembersSizes().eval(), torch.randn(4, 3, 6, 6)
    if called:
        model(x)
    shape = model.shape
    graph_module = capture(model, ExampleInputs((x,)))
    assert Batch.of(graph_module.graph).is_free
    assert model.shape is shape
    assert torch.equal(graph_module(x[:3]), model(x[:3]))


class Watches(nn.Module):
    """Registers hooks on its layers at its first call, as libraries do that record hidden states."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.found = OrderedDict()
        self.count = Counter()

    def forward(self, x):
        if not hasattr(self, "watched"):
            self.watched = True
            self.layer.register_forward_hook(lambda module, args, output: output + 1)
            self.layer.register_forward_pre_hook(lambda module, args: (args[0] * 2,))
        self.count["calls"] += 1
        self.found[len(self.found)] = tuple(x.shape)
        return self.layer(x)


def test_hooks_that_a_call_registers_do_not_stay_on_the_users_model():
    model, x = Watches().eval(), torch.randn(2, 3)
    expected = F.linear(x * 2, model.layer.weight, model.layer.bias) + 1
    compiled = fxcompress.compile(model, [], example_inputs=x)
    assert not model.layer._forward_hooks and not model.layer._forward_pre_hooks and not model.found and not model.count
    torch.testing.assert_close(compiled(x), expected)
    torch.testing.assert_close(model(x), expected)


def test_a_layer_may_hold_options_of_experts_that_it_cannot_change():
    model = nn.Sequential(nn.Linear(3, 3)).eval()
    model[0].config = SimpleNamespace(_experts_implementation="grouped_mm")
    assert Batch.of(capture(model, ExampleInputs((torch.randn(2, 3),))).graph).is_free


class Boxes(nn.Module):
    """Embeds the sizes of boxes, whose second corner is right of and below the first."""

    def __init__(self):
        super().__init__()
        self.width, self.height = nn.Embedding(30, 8), nn.Embedding(30, 8)

    def forward(self, boxes):
        return self.width(boxes[..., 2] - boxes[..., 0]) + self.height(boxes[..., 3] - boxes[..., 1])


@pytest.mark.parametrize("shape", [(4, 5), (1, 5), (4, 1), (4,)])
def test_the_batch_of_numbers_that_belong_together_is_free(shape):
    corner = torch.randint(0, 20, (*shape, 2), generator=torch.Generator().manual_seed(0))
    boxes = torch.cat([corner, corner + torch.tensor([6, 9])], -1)
    graph_module = capture(Boxes().eval(), ExampleInputs((boxes,)))
    assert Batch.of(graph_module.graph).dimensions == (0,)


class Recurrence(nn.Module):
    """A loop over tokens, in which the number of each counts."""

    def __init__(self):
        super().__init__()
        self.table, self.step = nn.Embedding(9, 4), nn.Linear(4, 4)

    def forward(self, tokens):
        x, state = self.table(tokens), torch.zeros(tokens.shape[0], 4)
        for position in range(tokens.shape[1]):
            state = self.step(state + x[:, position]) * position
        return state


def test_a_length_that_cannot_be_free_is_told():
    notes = fxcompress.compile(Recurrence(), [], example_inputs=torch.ones(2, 5, dtype=torch.int64)).report.rows[0].notes
    assert any(note.startswith("tokens: the length is fixed to 5, that of the example inputs") for note in notes)


class RecurrenceOfFrames(nn.Module):
    """The same of frames of features, whose width the weights fix."""

    def __init__(self):
        super().__init__()
        self.step = nn.Linear(5, 5)

    def forward(self, frames):
        state = torch.zeros(frames.shape[0], 5)
        for position in range(frames.shape[1]):
            state = self.step(state + frames[:, position]) * position
        return state


@pytest.mark.parametrize(
    ("model", "shape", "told"), [(RecurrenceOfFrames(), (2, 6, 5), True), (nn.Linear(5, 5), (2, 5), False)]
)
def test_sizes_of_frames_that_cannot_be_free_are_told(model, shape, told):
    notes = fxcompress.compile(model, [], example_inputs=torch.ones(shape)).report.rows[0].notes
    assert any("fixed to those of the example inputs" in note for note in notes) == told


class Counted(nn.Module):
    """Python's own length of a batch, and a part of the model that forward puts where it is."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        self.layer = self.layer.to(x.dtype)
        return self.layer(x) + torch.ones(len(x), 1) * len(x)


def test_the_length_of_a_tensor_is_free():
    model = Counted().eval()
    compiled = fxcompress.compile(model, [], example_inputs=torch.randn(2, 4))
    x = torch.randn(7, 4)
    torch.testing.assert_close(compiled(x), model(x))


def of_the_least(x):
    """As detectors scale pictures into bounds, and in all the ways in which Python's `min` and `max` are asked."""
    height, width = x.shape[2:]
    scale = min(8 / min(height, width), 12 / max(x.shape[2:]))
    ends = max(height, width, 10) + min(2.5, height / 4, width / 4) + max(size / 2 for size in (height, width))
    return F.interpolate(x, scale_factor=scale, recompute_scale_factor=True), x * ends, x[:, :, : min([height, 7])]


def test_a_trace_that_fails_leaves_python_as_it_was():
    own = min, max, len
    with pytest.raises(CaptureError):
        capture(Call(lambda x: x[: max(x.tolist()[0])]), ExampleInputs((torch.randn(2, 3),)))
    assert (min, max, len) == own


def test_the_least_of_sizes_is_that_of_every_size():
    graph = capture(Call(of_the_least), ExampleInputs((torch.randn(2, 1, 9, 12),)), dynamic_shapes="auto")
    for size in (9, 12), (5, 30), (30, 6), (4, 4):
        x = torch.randn(3, 1, *size)
        torch.testing.assert_close(graph(x), of_the_least(x))


def test_a_branch_on_a_size_that_is_free_is_told():
    """And the bounds of layers are not, beyond which the model fails as well."""
    example = ExampleInputs((torch.randn(2, 1, 9, 12),))
    graph = capture(Call(lambda x: x * 2 if x.shape[3] > 7 else x), example, dynamic_shapes="auto")
    (note,) = graph.meta["capture_notes"]
    assert note.startswith("inputs_0: forward does something else where size 3 is 7")
    assert capture(nn.MaxPool2d(5), example, dynamic_shapes="auto").meta["capture_notes"] == []


class Remembering(nn.Module):
    """A table that is made once for all networks of the class."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(x) + self.table(x.shape[-1])

    @staticmethod
    @functools.lru_cache
    def table(width):
        return torch.arange(width) * 0.5


def untouched(function):
    """A decorator around another one, as packages have to look at what they are called with."""

    @functools.wraps(function)
    def called(*args):
        return function(*args)

    return called


class UnderAnother(Remembering):
    table = untouched(functools.lru_cache(lambda self, width: torch.arange(width) * 0.5))


@functools.lru_cache
def known():
    return object()


@pytest.mark.parametrize("kind", [Remembering, UnderAnother])
def test_a_trace_leaves_nothing_in_the_caches_of_functions(kind):
    model, x, before = kind().eval(), torch.randn(2, 4), known()
    expected = nn.functional.linear(x, model.layer.weight, model.layer.bias) + torch.arange(4) * 0.5
    compiled = fxcompress.compile(model, [], example_inputs=x)
    for one in (model, compiled):
        torch.testing.assert_close(one(x), expected)
        assert type(one(x)) is torch.Tensor
    assert known() is before  # nothing of the trace came to it


class Windows(nn.Module):
    """Overlapping windows, as Longformer has them: how many there are is computed in tensors of numbers."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        samples, width = x.shape[0], x.shape[2]
        count = torch.div(x.shape[1], 2, rounding_mode="trunc")
        pairs = self.layer(x).view(samples, count, 2, width)
        size, stride = list(pairs.shape), list(pairs.stride())
        windows = pairs.as_strided([samples, size[1] * 2 - 1, 2, width], [stride[0], stride[1] // 2, stride[2], stride[3]])
        return windows.sum(2) + windows.new_ones(samples, 2 * count - 1, width)


def test_sizes_that_a_model_computes_in_tensors_are_free(tmp_path):
    model = Windows().eval()
    compiled = fxcompress.compile(model, [], example_inputs=torch.randn(2, 8, 4))
    x = torch.randn(3, 10, 4)
    torch.testing.assert_close(compiled(x), model(x))
    compiled.to_onnx(tmp_path / "m.onnx", verify="strict")


class Places(nn.Module):
    """Places in the memory of a view, as Longformer cuts its windows, and of a copy that lies in another order."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        view = self.layer(x).transpose(1, 2)
        samples, outer, inner = view.stride()
        of_view = view.as_strided((x.shape[0], 2, 8), (samples, inner, outer), 8)
        of_copy = view.contiguous().as_strided((x.shape[0], 2, 8), (samples, 1, x.shape[1]))
        with_gaps = view.contiguous()[:, :, 1:].as_strided((x.shape[0], 3), (samples, 1))
        behind_a_view = view.contiguous()[:1].as_strided((x.shape[0], 3), (samples, 1))
        return of_view, of_copy, with_gaps, behind_a_view


def test_places_in_memory_are_those_of_the_model_however_passes_lay_tensors_out(tmp_path):
    model, data = Places().eval(), [torch.randn(4, 6, 8)]
    compiled = fxcompress.compile(model, [], data=data)
    for samples, length in ((1, 3), (2, 9)):
        x = torch.randn(samples, length, 8)
        torch.testing.assert_close(compiled(x), model(x))
    fxcompress.compile(model, data=data).to_onnx(tmp_path / "m.onnx", verify="strict")


def test_memory_that_no_value_of_the_graph_fills_is_refused():
    x = torch.randn(4, 5, 6)[:, ::2]
    with pytest.raises(CaptureError, match=r"call \.contiguous\(\) in front of as_strided .*emission\.py"):
        captured(Call(lambda x: x.as_strided((2, 3), (1, 2))), x)


class Halved(nn.Module):
    """A number that is given, of which a trace does not know whether it is below zero."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x, number):
        return self.layer(x) + torch.div(number.item(), 2, rounding_mode="trunc")


def test_numbers_of_either_sign_are_divided_in_tensors():
    model = Halved().eval()
    compiled = fxcompress.compile(model, [], example_inputs=(torch.randn(2, 4), torch.tensor(-3)))
    for number in (-5, 5):
        given = torch.randn(3, 4), torch.tensor(number)
        torch.testing.assert_close(compiled(*given), model(*given))
    assert isinstance(compiled, fxcompress.Compiled)


class Looped(nn.Module):
    """Pictures one by one, whose features come to the places of the tokens that stand for them."""

    def __init__(self):
        super().__init__()
        self.words, self.layer = nn.Embedding(9, 4), nn.Linear(3, 4)

    def forward(self, tokens, pictures):
        features = [self.layer(picture) for picture in pictures]
        places = (tokens == 0)[..., None]
        return self.words(tokens).masked_scatter(places, torch.cat(features)), features


def test_a_batch_that_is_fixed_by_a_loop_over_one_of_several_inputs_is_fixed_in_all_and_told():
    example = torch.tensor([[0, 0, 1], [2, 0, 0]]), torch.randn(2, 2, 3)
    model = Looped().eval()
    compiled = fxcompress.compile(model, [], example_inputs=example)
    told = "the batch size is fixed to that of the example inputs: forward needs that of pictures as a number"
    assert any(note.startswith(told) for note in compiled.report.rows[0].notes)
    tokens, pictures = compiled.graph.find_nodes(op="placeholder")
    assert tokens.meta["val"].shape[0] == pictures.meta["val"].shape[0] == 2
    torch.testing.assert_close(compiled(*example)[0], model(*example)[0])


def test_torch_compile_knows_the_built_in_functions_after_a_trace(monkeypatch):
    """It lists them when it is first asked, and `len` is another one while a model is traced."""
    monkeypatch.setattr(trace_rules._builtin_function_ids, "function_ids", None)
    with symbolic_lengths():
        trace_rules.is_builtin_callable(print)
    assert trace_rules.is_builtin_callable(len)


class Windowed(nn.Module):
    """Windows of four, the last one filled up, which a length that they divide needs not."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        length = x.shape[1]
        missing = (4 - length % 4) % 4
        y = self.layer(x)
        if missing > 0:
            y = nn.functional.pad(y, (0, 0, 0, missing))
        y = y.reshape(len(x), -1, 4, 3)
        y = (y + y.sum(2, keepdim=True)).flatten(1, 2)
        return y[:, :length] if missing > 0 else y


def test_a_length_that_is_special_does_not_fix_it(tmp_path):
    model = Windowed().eval()
    compiled = fxcompress.compile(model, [], example_inputs=torch.randn(2, 8, 3))
    for length in (5, 8, 12, 14):
        x = torch.randn(3, length, 3)
        torch.testing.assert_close(compiled(x), model(x))
    compiled.to_onnx(tmp_path / "m.onnx", verify="strict")


class EachByItself(nn.Module):
    """A mask and rows that are computed place by place."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        places = torch.arange(x.shape[1])
        mask = torch.vmap(torch.vmap(lambda row, column: row >= column, (None, 0)), (0, None))(places, places)
        rows = torch.vmap(lambda row: self.linear(row).relu() * row.sum())(x)
        return torch.where(mask, x @ x.transpose(1, 2), 0.0) @ rows


def test_what_is_mapped_over_places_is_of_any_number_of_them():
    torch.manual_seed(0)
    model = EachByItself().eval()
    compiled = fxcompress.compile(model, [], example_inputs=torch.randn(3, 5, 4), dynamic_shapes="auto")
    for shape in ((1, 5, 4), (2, 7, 4)):
        x = torch.randn(shape)
        torch.testing.assert_close(compiled(x), model(x))


class Gradient(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        return self.linear(torch.func.grad(lambda one: (one**3).sum())(x))


def test_a_transform_that_no_graph_is_of_is_told():
    with pytest.warns(PartialCaptureWarning, match="within a transform of torch.func"):
        assert list(fxcompress.compile(Gradient().eval(), [], example_inputs=torch.randn(3, 4)).parts) == ["linear"]


class Fields(dict):
    """A result that torch puts together in the order of its names."""


class Filled(nn.Module):
    """Fills its result in another order."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x):
        result = Fields(wide=self.linear(x))
        result["narrow"] = result["wide"].sum(1)
        return result


def test_results_are_compared_in_the_order_that_torch_puts_them_together_in(tmp_path):
    pytree.register_pytree_node(
        Fields, lambda f: (list(f.values()), list(f)), lambda held, names: Fields(sorted(zip(names, held)))
    )
    try:
        x = torch.randn(2, 4)
        compiled = fxcompress.compile(Filled().eval(), [], example_inputs=x)
        path = compiled.to_onnx(tmp_path / "model.onnx", verify="strict")
        assert list(compiled(x)) == ["narrow", "wide"]
    finally:
        pytree._deregister_pytree_node(Fields)
    assert [one.name for one in onnx.load(path).graph.output] == ["narrow", "wide"]


class Seeded(nn.Module):
    """A layer times numbers that are drawn with a generator, the same ones each time."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, x):
        return self.layer(x) * torch.rand(4, generator=torch.Generator().manual_seed(1))


def test_a_generator_in_forward_is_told():
    with pytest.warns(PartialCaptureWarning, match="reads a Generator, which a graph cannot hold; draw random numbers outside"):
        compiled = fxcompress.compile(Seeded(), [], example_inputs=torch.rand(2, 8))
    assert list(compiled.parts) == ["layer"]


@pytest.mark.parametrize("size, channels", [(3, 8), (4, 8), (5, 9), (2, 5), (1, 4), (7, 3), (5, 3)])
def test_cross_map_norms_are_operations(size, channels):
    model = nn.Sequential(nn.Conv2d(3, channels, 1), nn.CrossMapLRN2d(size, alpha=2.0, beta=0.6, k=1.5)).eval()
    graph_module = capture(model, ExampleInputs((torch.randn(2, 3, 5, 6),)))
    x = torch.randn(4, 3, 5, 6)
    torch.testing.assert_close(graph_module(x), model(x))
    assert "apply" not in vars(torch.nn.modules._functions.CrossMapLRN2d)


def compiled_function():
    class Rooted(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.root = nn.Linear(4, 4), torch.compile(lambda x: x.abs().sqrt())

        def forward(self, x):
            return self.root(self.linear(x))

    return Rooted()


def compiled_inside():
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 3))
    model[0].compile()
    return model


@pytest.mark.parametrize("build", [lambda: torch.compile(compiled_inside()), compiled_inside, compiled_function])
def test_what_torch_compile_made_is_captured_as_the_code_that_it_was_made_of(build):
    x, model = torch.randn(3, 4), build().eval()
    with torch.compiler.set_stance("force_eager"):
        expected = model(x)
    compiled = fxcompress.compile(model, [], data=[x])
    torch.testing.assert_close(compiled(x), expected)
    assert compiled.state_dict().keys() == model.state_dict().keys()
