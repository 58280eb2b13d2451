"""Filters masked and removed: the smaller model is the masked one, on random networks and on each kind of coupling."""

import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from recipes import recipes
from torch import nn

import fxcompress
from fxcompress import passes
from fxcompress.capture import capture
from fxcompress.channels import analyze
from fxcompress.channels.clusters import CRITERIA, clusters
from fxcompress.channels.masking import element_masks, pin_what_is_not_masked
from fxcompress.channels.removal import Removal
from fxcompress.data.inputs import ExampleInputs
from fxcompress.errors import InputError, ScopeError
from fxcompress.execution.agreement import sqnr
from fxcompress.ir.cost import cost
from fxcompress.ir.dialect import resolve
from fxcompress.masks.mask import Mask, insert_mask


def run_onnx(compiled, tmp_path, x):
    session = onnxruntime.InferenceSession(compiled.to_onnx(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


def filters(graph_module):
    """How many channels each layer puts out."""
    layers = ("conv2d", "conv_transpose2d", "linear")
    found = [node for name in layers for node in graph_module.graph.find_nodes(op="call_function", target=resolve(name))]
    return {node.name: int(node.meta["val"].shape[-1 if node.target is resolve("linear") else 1]) for node in found}


@settings(max_examples=15)
@given(recipe=recipes(regrouping=True), data=st.data())
def test_what_is_removed_is_what_was_masked(recipe, data):
    """Any choice of channels: the same outputs at any batch, and exactly these filters fewer."""
    graph_module = capture(recipe.build(), ExampleInputs((recipe.inputs(2),)))
    channels = analyze(graph_module)
    before = filters(graph_module), cost(graph_module)
    found = clusters(channels)
    chosen = {
        one
        for cluster in found
        for one in data.draw(st.lists(st.sampled_from(cluster.elements), unique=True, max_size=len(cluster.elements) - 1))
    }
    for constant, mask in element_masks(channels, chosen).items():
        insert_mask(graph_module, constant, Mask(mask), "test")
    graph_module.recompile()
    x = recipe.inputs(3)
    masked = graph_module(x)
    gone = {layer.node.name: sum(channels.elements.find(one) in chosen for one in layer.filters) for layer in channels.layers}
    Removal(analyze(graph_module, pin_what_is_not_masked)).apply("test")
    graph_module.graph.lint()
    graph_module.recompile()
    assert sqnr(masked, graph_module(x)) >= 100
    assert filters(graph_module) == {name: count - gone.get(name, 0) for name, count in before[0].items()}
    assert (cost(graph_module).parameters < before[1].parameters) == bool(chosen)
    for node in graph_module.graph.nodes:
        if isinstance(node.meta.get("val"), torch.Tensor) and node.op == "call_function":
            assert isinstance(node.meta["val"].shape[0], torch.SymInt) or not node.all_input_nodes, node


# ---------------------------------------------------------------------------------------------------- kinds of coupling


class Call(nn.Module):
    """`function` of the modules given by name, and an image."""

    def __init__(self, function, **modules):
        super().__init__()
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        return self.function(self, x)


def conv(inputs, outputs, kernel=1, **options):
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **options)


def self_attention(m, x):
    q, k, v = m.qkv(x.flatten(2).mT).unflatten(2, (3, 4, 4)).permute(2, 0, 3, 1, 4)
    return m.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def written_attention(m, x):
    q, k, v = m.qkv(x.flatten(2).mT).reshape(x.shape[0], -1, 3, 4, 4).permute(2, 0, 3, 1, 4)
    return m.out(((q / 2) @ k.mT).softmax(-1).matmul(v).transpose(1, 2).flatten(2))


class TorchAttention(nn.Module):
    """Its heads lie in one dimension with the batch on the way."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4)
        self.conv = conv(3, 16)

    def forward(self, x):
        tokens = self.conv(x).flatten(2).permute(2, 0, 1)
        return self.attention(tokens, tokens, tokens, need_weights=False)[0]


COUPLINGS = {
    "a sigmoid of zero is not zero": (
        lambda: Call(lambda m, x: m.b(m.a(x).sigmoid()), a=conv(3, 8), b=conv(8, 4)),
        {"a": 4, "b": 4},
    ),
    "batch norm": (
        lambda: Call(lambda m, x: m.b(m.norm(m.a(x))), a=conv(3, 8), norm=nn.BatchNorm2d(8), b=conv(8, 4)),
        {"a": 4, "b": 4},
    ),
    "flatten": (
        lambda: Call(lambda m, x: m.b(m.a(x).flatten(1)), a=conv(3, 8), b=nn.Linear(8 * 16, 4)),
        {"a": 4, "b": 4},
    ),
    "squeeze and excite": (
        lambda: Call(
            lambda m, x: m.b((y := m.a(x)) * m.up(m.down(y.mean((2, 3))).relu()).sigmoid().view(y.shape[0], 8, 1, 1)),
            a=conv(3, 8), down=nn.Linear(8, 4), up=nn.Linear(4, 8), b=conv(8, 4),
        ),
        {"a": 4, "down": 2, "up": 4, "b": 4},
    ),
    "transposed convolution": (
        lambda: Call(lambda m, x: m.b(m.a(x)), a=nn.ConvTranspose2d(3, 8, 2, stride=2), b=conv(8, 4)),
        {"a": 4, "b": 4},
    ),
    "pixel shuffle": (
        lambda: Call(lambda m, x: m.b(F.pixel_shuffle(m.a(x), 2)), a=conv(3, 16), b=conv(4, 4)),
        {"a": 8, "b": 4},
    ),
    "a scale for each channel": (
        lambda: Call(lambda m, x: m.b(m.a(x) * m.scale.weight), a=conv(3, 8), scale=conv(8, 1), b=conv(8, 4)),
        {"a": 4, "b": 4},
    ),
    "a slice of nothing": (
        lambda: Call(lambda m, x: m.b(torch.cat([m.a(x), x[:, 3:]], 1)), a=conv(3, 8), b=conv(8, 4)),
        {"a": 4, "b": 4},
    ),
    "grouped": (
        lambda: Call(lambda m, x: m.c(m.b(m.a(x)).relu()), a=conv(3, 8), b=conv(8, 8, 3, groups=2), c=conv(8, 4)),
        {"a": 4, "b": 4, "c": 4},
    ),
    "depthwise with two filters a channel": (
        lambda: Call(lambda m, x: m.c(m.b(m.a(x))), a=conv(3, 8), b=conv(8, 16, 3, groups=8), c=conv(16, 4)),
        {"a": 4, "b": 8, "c": 4},
    ),
    "heads of an attention": (
        lambda: Call(self_attention, qkv=nn.Linear(3, 48), out=nn.Linear(16, 4)),
        {"qkv": 24, "out": 4},
    ),
    "heads of a written attention": (
        lambda: Call(written_attention, qkv=nn.Linear(3, 48), out=nn.Linear(16, 4)),
        {"qkv": 24, "out": 4},
    ),
    "heads of torch's attention": (
        TorchAttention,
        {"conv": 8, "attention_linear": 24, "attention_out_proj": 16},
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", COUPLINGS)
def test_half_of_the_filters_go(kind, tmp_path):
    build, expected = COUPLINGS[kind]
    torch.manual_seed(0)
    model = build().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
    x = torch.randn(2, 3, 4, 4)
    prune = passes.PruneFilters(amount=0.5, multiple=1)
    masked = fxcompress.compile(model, [prune], example_inputs=(x,))
    removed = fxcompress.compile(model, [prune, passes.RemoveFilters()], example_inputs=(x,))
    other = torch.randn(3, 3, 4, 4)
    assert filters(removed) == expected
    assert sqnr(masked(other), removed(other)) > 100
    assert sqnr(masked(other), run_onnx(masked, tmp_path, other)) > 100
    assert sqnr(masked(other), run_onnx(removed, tmp_path, other)) > 100


# ------------------------------------------------------------------------------------------------ what is left, and why


def pruned(model, shape=(2, 3, 8, 8), **options):
    return fxcompress.compile(model.eval(), [passes.PruneFilters(**options)], example_inputs=(torch.randn(shape),))


def kept(compiled):
    """The filters that no mask zeroes, by the name of their weight."""
    return {
        name.removesuffix("_weight_mask"): int((module.mask != 0).flatten(1).any(1).sum())
        for name, module in compiled.named_modules()
        if isinstance(module, Mask) and name.endswith("_weight_mask") and len(module.mask) > 1
    }


def test_an_operation_that_is_not_known_pins_its_channels_and_is_named():
    model = Call(lambda m, x: m.b(m.a(x).tril()), a=conv(3, 16), b=conv(16, 4))
    compiled = pruned(model)
    (note,) = [note for note in compiled.report.notes if "filters of a stay" in note]
    assert "what tril does to channels is not known" in note and "test_prune_filters.py" in note
    assert kept(compiled) == {}


def test_statistics_over_channels_pin_them():
    model = Call(lambda m, x: m.b(F.layer_norm(m.a(x), [16, 8, 8])), a=conv(3, 16), b=conv(16, 4))
    assert any("filters of a stay: statistics" in note and "layer_norm" in note for note in pruned(model).report.notes)


def test_a_masked_channel_is_zero_behind_its_batch_norm():
    model = Call(lambda m, x: m.norm(m.a(x)), a=conv(3, 16), norm=nn.BatchNorm2d(16))
    nn.init.normal_(model.norm.bias)
    nn.init.normal_(model.norm.running_mean)
    model = nn.Sequential(model, conv(16, 4))
    compiled = pruned(model, amount=0.5)
    values = {}
    norm = next(node for node in compiled.graph.nodes if node.target is resolve("batch_norm"))

    class Watch(torch.fx.Interpreter):
        def run_node(self, node):
            values[node.name] = super().run_node(node)
            return values[node.name]

    Watch(compiled).run(torch.randn(2, 3, 8, 8))
    assert int((values[norm.name] != 0).any(0).flatten(1).any(1).sum()) == 8


def test_ignored_layers_keep_their_filters_and_those_that_meet_them():
    model = Call(lambda m, x: m.c(m.a(x) + m.b(x)), a=conv(3, 16), b=conv(3, 16), c=conv(16, 4))
    assert kept(pruned(model, amount=0.5)) == {"a": 8, "b": 8}
    compiled = pruned(model, amount=0.5, ignored=["a"])
    assert kept(compiled) == {} and any("a, b stay: they are ignored" in note for note in compiled.report.notes)


@pytest.mark.parametrize(("multiple", "left"), [(1, 14), (4, 16), (8, 16), (16, 16), (32, 20)])
def test_the_filters_kept_are_rounded_up_to_a_multiple(multiple, left):
    model = nn.Sequential(conv(3, 20), conv(20, 4))
    assert kept(pruned(model, amount=0.3, multiple=multiple)).get("_0", 20) == left


@pytest.mark.parametrize(
    ("width", "options", "target", "mentioned"),
    [
        (64, {}, "openvino", True),
        (64, {"multiple": 32}, "openvino", False),
        (64, {"multiple": 64}, "openvino", False),
        (64, {"amount": 0.0}, "openvino", False),  # nothing is pruned
        (32, {}, "openvino", False),  # a multiple of 32 is all of them
        (64, {}, "onnxruntime", False),  # not measured
    ],
)
def test_the_report_names_the_multiple_that_is_faster_in_integers(width, options, target, mentioned):
    model = nn.Sequential(conv(3, width), conv(width, 4)).eval()
    passes_ = [passes.PruneFilters(**options)]
    compiled = fxcompress.compile(model, passes_, example_inputs=(torch.randn(2, 3, 4, 4),), target=target)
    assert any("openvino is faster with multiple=32" in note for note in compiled.report.notes) == mentioned


@pytest.mark.parametrize("criterion", CRITERIA)
def test_the_least_important_filters_go(criterion):
    """Against the formulas, filter by filter."""
    torch.manual_seed(0)
    model = nn.Sequential(conv(3, 8, 3), conv(8, 4))
    rows = model[0].weight.detach().flatten(1)
    by_formula = {
        "l1": lambda f: sum(abs(w) for w in f.tolist()),
        "l2": lambda f: sum(w * w for w in f.tolist()) ** 0.5,
        "geometric_median": lambda f: sum(float((f - other).square().sum().sqrt()) for other in rows),
    }[criterion]
    worst = sorted(range(8), key=lambda i: by_formula(rows[i]))[:4]
    mask = dict(pruned(model, amount=0.5, criterion=criterion, multiple=1).named_modules())["_0_weight_mask"].mask
    assert sorted(worst) == [i for i in range(8) if not mask[i].any()]


def test_ranked_globally_the_clusters_differ_and_the_share_is_that_of_all():
    torch.manual_seed(0)
    model = nn.Sequential(conv(3, 16), conv(16, 16), conv(16, 4))
    with torch.no_grad():
        model[0].weight[:12] *= 0.01  # most of the first layer's filters matter little, in it
    assert kept(pruned(model, amount=0.5, multiple=1)) == {"_0": 8, "_1": 8}
    found = kept(pruned(model, amount=0.5, multiple=1, ranking="global"))
    assert found["_0"] == 4 and found["_1"] == 12


def test_the_cost_of_a_convolution_and_a_linear_layer():
    graph_module = capture(nn.Sequential(conv(4, 6, 3, groups=2), nn.Flatten(), nn.Linear(96, 5)),
                           ExampleInputs((torch.randn(2, 4, 4, 4),)))  # fmt: skip
    found = cost(graph_module)
    assert found.multiply_adds == 6 * 4 * 4 * (2 * 3 * 3) + 5 * 96
    assert found.parameters == 6 * 2 * 9 + 6 + 5 * 96 + 5


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(conv(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU())
        self.deep = nn.Sequential(conv(16, 16, 3, groups=16), nn.BatchNorm2d(16), nn.Hardswish(), conv(16, 16))
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.stem(x)
        return self.head((x + self.deep(x)).mean((2, 3)))


@pytest.mark.parametrize("folded", [True, False])
def test_pruned_and_quantized_the_file_is_the_model(folded, tmp_path):
    torch.manual_seed(0)
    prune = [passes.PruneFilters(amount=0.5), passes.RemoveFilters()]
    first = [passes.FoldBatchNorm(), passes.CanonicalizeActivations()]
    then = [passes.Quantize(reduce_range=True), passes.RoundWeights(), passes.Calibrate()]
    x = torch.randn(8, 3, 8, 8)
    compiled = fxcompress.compile(Block(), [*(first + prune if folded else prune + first), *then], data=[x])
    convolutions = compiled.graph.find_nodes(op="call_function", target=resolve("conv2d"))
    assert [compiled.get_submodule(node.args[1].target).scale.numel() for node in convolutions] == [8, 8, 8]
    assert sqnr(compiled(x), run_onnx(compiled, tmp_path, x)) > 30


def test_removing_can_wait_until_the_file_is_written(tmp_path):
    whole, masked = (
        fxcompress.compile(Block().eval(), chosen, example_inputs=(torch.randn(2, 3, 8, 8),))
        for chosen in ([], [passes.PruneFilters(amount=0.5)])
    )
    sizes = [compiled.to_onnx(tmp_path / "model.onnx").stat().st_size for compiled in (whole, masked)]
    assert sizes[1] < sizes[0]
    x = torch.randn(3, 3, 8, 8)
    assert sqnr(masked(x), run_onnx(masked, tmp_path, x)) > 100


def test_pruned_again_from_where_it_was():
    model = nn.Sequential(conv(3, 32), conv(32, 4))
    twice = [passes.PruneFilters(amount=0.5), passes.PruneFilters(amount=0.75), passes.RemoveFilters()]
    compiled = fxcompress.compile(model.eval(), twice, example_inputs=(torch.randn(2, 3, 4, 4),))
    assert filters(compiled) == {"_0": 8, "_1": 4}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"amount": 1.0}, "amount from 0 to below 1, or None, got 1.0"),
        ({"amount": -0.1}, "amount from 0"),
        ({"criterion": "l3"}, "did you mean 'l"),
        ({"ranking": "local"}, "'uniform' or 'global', or that is a LearnedRanking, got 'local'"),
        ({"multiple": 0}, "multiple of 1 or more, got 0"),
    ],
)
def test_unusable_options(options, message):
    with pytest.raises(InputError, match=message):
        passes.PruneFilters(**options)


def test_unusable_scopes_and_masks():
    with pytest.raises(ScopeError, match="nothing"):
        pruned(nn.Sequential(conv(3, 8), conv(8, 4)), ignored=["nowhere"])
    with pytest.raises(InputError, match="zeros and ones"):
        Mask(torch.tensor([0.5]))
