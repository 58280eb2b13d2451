"""A compiled model is an ordinary module: whatever is done to modules in training can be done to it."""

import copy
import inspect
import warnings

import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from levels import Level, compile_once, images, network
from recipes import recipes
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

import fxcompress
from fxcompress import passes
from fxcompress.errors import InputError
from fxcompress.masks.mask import Mask, mask_of

MASKS = [passes.PruneFilters(amount=0.5, multiple=1)]
QUANTIZERS = [passes.CanonicalizeActivations(), passes.Quantize(), passes.Calibrate()]
STACKS = {
    "masks": MASKS,
    "quantizers": QUANTIZERS,
    "trained quantizers": fxcompress.defaults.training(),
    "masks and quantizers": [*MASKS, *QUANTIZERS],
    "masks, trained quantizers and a teacher": [
        *MASKS,
        passes.Sparsify(level=0.3),
        *fxcompress.defaults.training(),
        passes.Distill(),
    ],
    "binarizers and trained quantizers": [passes.Binarize(scopes=["0"]), *fxcompress.defaults.training()],
}

stacks = pytest.mark.parametrize("stack", STACKS.values(), ids=STACKS.keys())


def compiled(stack, norm=True):
    return compile_once(network if norm else network_without_norm, stack, [images()])


def network_without_norm():
    return network(norm=False)


def gradients(model):
    return [parameter.grad for parameter in model.parameters()]


def step(model, x=None, weight=0.1):
    """One step of gradient descent on the model's mean output."""
    model.train().zero_grad()
    model(images() if x is None else x).square().mean().backward()
    torch.optim.SGD(model.parameters(), lr=weight).step()


@settings(max_examples=5)
@given(recipes())
def test_modes_copies_and_states_of_a_random_network_lose_nothing(recipe):
    x = recipe.inputs(3)
    model = fxcompress.compile(recipe.build(), QUANTIZERS, data=[x])
    outputs, text = model(x), model.text()
    twin = copy.deepcopy(model.train()).eval()
    assert torch.equal(twin(x), outputs) and twin.text() == text
    other = fxcompress.compile(recipe.build(), QUANTIZERS, data=[x + 1])
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), outputs)


@stacks
def test_training_and_inference_differ_in_what_the_model_says_only(stack):
    model = compiled(stack)
    before = copy.deepcopy(model.state_dict())
    outputs = model(images())
    assert not torch.equal(model.train()(images()), outputs)  # batch statistics
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    model.load_state_dict(before)
    assert torch.equal(model.eval()(images()), outputs)


@stacks
def test_the_dtype_of_all_changes_together(stack):
    model = compiled(stack)
    outputs = model(images())
    wide, narrow = copy.deepcopy(model).double(), copy.deepcopy(model).to(torch.bfloat16)
    assert wide(images().double()).dtype == torch.float64
    step(narrow, images().bfloat16())
    assert {gradient.dtype for gradient in gradients(narrow)} == {torch.bfloat16}
    assert torch.equal(wide.float()(images()), outputs)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is one device")
@stacks
def test_all_goes_to_another_device(stack):
    model = compiled(stack).cuda()
    step(model, images().cuda())
    assert {t.device.type for t in [*model.parameters(), *model.buffers()]} == {"cuda"}
    torch.testing.assert_close(model.eval()(images().cuda()).cpu(), model.cpu()(images()), atol=0.05, rtol=0.05)


def mask_sum(model):
    return sum(float(module.mask.sum()) for module in model.modules() if isinstance(module, Mask))


def test_the_controller_of_a_copy_drives_the_copys_modules():
    model = compiled([*MASKS, Level()])
    assert model.controller["Level"].masks
    twin, kept = copy.deepcopy(model), mask_sum(model)
    twin.controller["Level"].set_level(1)
    assert mask_sum(twin) == 0 and mask_sum(model) == kept > 0
    model.controller["Level"].set_level(0)
    assert mask_sum(model) > kept and mask_sum(twin) == 0


@stacks
def test_parameters_have_the_names_that_groups_of_them_are_made_by(stack):
    model = compiled(stack)
    assert dict(model.named_parameters()).keys() >= dict(network().named_parameters()).keys()
    named = {True: [], False: []}
    for name, parameter in model.named_parameters():
        named[name.endswith("bias")].append(parameter)
    before = copy.deepcopy(named)
    groups = [{"params": named[True], "lr": 0.0}, {"params": named[False], "lr": 0.1, "weight_decay": 0.01}]
    optimizer = torch.optim.AdamW(groups)
    model.train()(images()).square().mean().backward()
    optimizer.step()
    assert all(map(torch.equal, named[True], before[True]))
    assert not any(map(torch.equal, named[False], before[False]))


def test_what_is_masked_learns_nothing():
    model = compiled(MASKS)
    step(model, weight=0.0)
    masked = [(node, mask_of(model, node)) for node in model.graph.find_nodes(op="call_module") if mask_of(model, node)]
    assert masked
    for node, mask in masked:
        gradient = model.get_parameter(node.args[0].target).grad if "running" not in node.args[0].target else mask.mask
        assert (gradient[~mask.mask.expand_as(gradient)] == 0).all()


@stacks
def test_mixed_precision_keeps_weights_and_gradients_in_float32(stack):
    model = compiled(stack)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model.train()(images())
    outputs.float().square().mean().backward()
    assert outputs.dtype == torch.bfloat16
    assert all(gradient.dtype == torch.float32 and gradient.isfinite().all() for gradient in gradients(model))


@stacks
def test_gradients_accumulate_to_those_of_the_whole_batch(stack):
    model, found = compiled(stack, norm=False), []
    for parts in (1, 4):
        model.train().zero_grad()
        for x in images(seed=1).chunk(parts):
            (model(x).square().mean() / parts).backward()
        found.append([gradient.clone() for gradient in gradients(model)])
    for whole, accumulated in zip(*found):
        torch.testing.assert_close(accumulated, whole)


@stacks
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_activations_may_be_computed_again_in_the_backward_pass(stack, use_reentrant):
    plain, recomputed = compiled(stack).train(), compiled(stack).train()
    torch.manual_seed(0)
    plain(images()).square().mean().backward()
    torch.manual_seed(0)
    checkpoint(recomputed, images().requires_grad_(), use_reentrant=use_reentrant).square().mean().backward()
    assert all(map(torch.equal, gradients(plain), gradients(recomputed)))


@stacks
def test_torch_compile_takes_all_of_the_model_and_its_gradient(stack):
    torch._dynamo.reset()
    plain, model = compiled(stack).train(), compiled(stack).train()
    fast = torch.compile(model, backend="aot_eager", fullgraph=True)
    for x in (images(), images(seed=1)):
        outputs = []
        for one in (fast, plain):
            torch.manual_seed(0)
            outputs.append(one(x))
            outputs[-1].square().mean().backward()
        torch.testing.assert_close(*outputs)
    for found, wanted in zip(gradients(model), gradients(plain)):
        torch.testing.assert_close(found, wanted)


def test_switching_modes_compiles_nothing_a_second_time():
    torch._dynamo.reset()
    model, graphs = compiled(QUANTIZERS), []

    def count(graph_module, inputs):
        graphs.append(graph_module)
        return graph_module

    fast = torch.compile(model, backend=count, fullgraph=True)
    for _ in range(3):
        torch.testing.assert_close(fast.train()(images()), model(images()))
        assert torch.equal(fast.eval()(images()), model(images()))
    assert len(graphs) == 2


def test_torch_compile_takes_the_teacher_too():
    torch._dynamo.reset()
    model, plain = compiled([*MASKS, passes.Distill()]), compiled([*MASKS, passes.Distill()])
    controller, expected = model.controller, plain.controller
    fast = torch.compile(model.train(), backend="aot_eager", fullgraph=True)
    for x in (images(), images(seed=1)):
        fast(x), plain.train()(x)
        torch.testing.assert_close(controller.loss(), expected.loss())
        for one in (controller, expected):
            one.loss().backward()
    for found, wanted in zip(gradients(model), gradients(plain)):
        torch.testing.assert_close(found, wanted)


@stacks
def test_an_averaged_copy_averages_weights_and_follows_masks_and_ranges(stack):
    model = compiled([*stack, Level()])
    average = AveragedModel(model, avg_fn=lambda average, new, count: 0.75 * average + 0.25 * new)
    step(model)
    average.update_parameters(model)
    before = copy.deepcopy(average.module.state_dict())
    step(model)
    model.controller["Level"].set_level(1)
    average.update_parameters(model)
    parameters = dict(model.named_parameters())
    for name, value in average.module.state_dict().items():
        if name in parameters:
            torch.testing.assert_close(value, 0.75 * before[name] + 0.25 * parameters[name])
        else:
            assert torch.equal(value, model.state_dict()[name]), name
    assert average.module.eval()(images()).isfinite().all()


@stacks
def test_who_holds_on_to_forward_holds_both_modes(stack):
    model = compiled(stack)
    forward, before = model.forward, copy.deepcopy(model.state_dict())
    outputs = forward(images())
    model.train()
    assert not torch.equal(forward(images()), outputs)
    model.load_state_dict(before)
    model.eval()
    assert torch.equal(forward(images()), outputs)


def test_forward_has_the_signature_of_the_original():
    class Named(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.norm = torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3)

        def forward(self, features, shift):
            return self.norm(self.layer(features)) + shift

    x, shift = torch.randn(5, 4), torch.randn(5, 3)
    model = fxcompress.compile(Named(), [], example_inputs={"features": x, "shift": shift})
    assert list(inspect.signature(model.forward).parameters) == ["features", "shift"]
    assert torch.equal(model(x, shift), model(features=x, shift=shift))


@stacks
def test_a_model_in_training_is_written_as_in_inference_and_left_as_it_is(stack):
    model = compiled(stack).train()
    modes_before = {name: module.training for name, module in model.named_modules()}
    text, state = model.text(), copy.deepcopy(model.state_dict())
    torch.manual_seed(0)
    lowered = model.lower()
    assert {name: module.training for name, module in model.named_modules()} == modes_before and model.text() == text
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    torch.testing.assert_close(lowered(images()), model.eval()(images()), atol=0.05, rtol=0.05)


ROW = torch.linspace(-1, 1, 8).reshape(2, 4)


class Told(nn.Module):
    """Computes with what is no tensor, which a graph has as constants, and with as many items as a list or dict has."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x, many, factor=2, mask=None, how="up", more=None, power=1.0):
        result = self.linear(x) * factor + sum(many) * (1 if how == "up" else -1)
        result = result + more["a"] - 2 * more["b"] + sum(more.values()) if more else result
        return (result if mask is None else result * mask) ** (3 if power is None else power)


TOLD = {"x": ROW, "many": [ROW, ROW], "factor": 2, "mask": None, "how": "up", "more": {"a": ROW, "b": 2 * ROW}}


@pytest.fixture(scope="module")
def told_calls():
    """A model that is called with what is no tensor, compiled, and compressed in place."""
    model, in_place = Told(), Told()
    in_place.load_state_dict(model.state_dict())
    fxcompress.compress(in_place, [], data=[TOLD])
    return model, [fxcompress.compile(model, [], data=[TOLD]), in_place, copy.deepcopy(in_place)]


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"factor": 3}, "factor=2, not 3,"),
        ({"factor": None}, "factor=2, not None,"),
        ({"factor": ROW}, r"factor=2, not float32\[2, 4\],"),
        ({"mask": ROW}, r"mask=None, not float32\[2, 4\],"),
        ({"how": "down"}, "how='up', not 'down',"),
        ({"many": [ROW] * 3}, r"many=2 items, not list\(.*\),"),
        ({"many": None}, "many=2 items, not None,"),
        ({"x": 2.0}, r"x=float32\[any, 4\], not 2.0,"),
        ({"more": {"a": ROW, "b": ROW, "c": ROW}}, r"more=a dict of a, b, not dict\(a=.*c=.*\),"),
        ({"more": {"a": ROW}}, r"more=a dict of a, b, not dict\(a=.*\),"),
        ({"power": None}, "'power'"),
        ({"power": 2.0}, "'power'"),
    ],
)
def test_a_call_that_says_what_the_graph_has_as_a_constant_is_refused(told_calls, other, told):
    for one in told_calls[1]:
        with pytest.raises(InputError, match=f"(model was compiled|Told was compressed) for calls with(out)? {told}"):
            one(**{**TOLD, **other})


def test_a_call_that_says_the_same_in_another_way_computes_the_same(told_calls):
    model, made = told_calls
    left_out = {name: TOLD[name] for name in ("x", "many", "more")}
    ways = [TOLD, dict(reversed(TOLD.items())), {**TOLD, "factor": 2.0, "many": (ROW, ROW)}, {**TOLD, "power": 1.0}, left_out]
    for way in [*ways, {**TOLD, "more": {"b": 2 * ROW, "a": ROW}}]:
        for one in made:
            torch.testing.assert_close(one(**way), model(**way))


def test_a_call_with_another_size_than_the_graph_fixes_is_warned_of_once():
    class Mean(nn.Module):
        def forward(self, x):
            return x.sum((2, 3)) / (x.shape[2] * x.shape[3])

    fixed = fxcompress.compile(Mean(), [], data=[torch.randn(2, 3, 8, 8)])
    free = fxcompress.compile(Mean(), [], data=[torch.randn(2, 3, 8, 8)], dynamic_shapes="auto")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        fixed(torch.randn(5, 3, 8, 8))
        free(torch.randn(5, 3, 9, 7))
        assert not told
        for _ in range(2):
            fixed(torch.randn(5, 3, 9, 7))
    assert [str(one.message).partition(":")[0] for one in told] == [
        "the model was compiled for calls with x=float32[any, 3, 8, 8], not float32[5, 3, 9, 7]"
    ]


class Masked(nn.Module):
    """Takes more than the example of a graph may have, in another order."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x, mask=None, shift=None, twice=False):
        result = self.linear(x) if mask is None else self.linear(x) * mask
        return (result if shift is None else result + shift) * (2 if twice else 1)


@pytest.mark.parametrize("given", [{"x": ROW, "shift": 2 * ROW}, {"shift": 2 * ROW, "x": ROW}], ids=list)
def test_arguments_by_position_are_those_that_the_model_has_there(given):
    model = Masked()
    stack = [*QUANTIZERS, passes.Distill()]
    compiled_here, in_place = fxcompress.compile(model, stack, data=[given]), copy.deepcopy(model)
    fxcompress.compress(in_place, stack, data=[given])
    again = fxcompress.compile(compiled_here, [], data=[given])
    for one in (compiled_here, copy.deepcopy(compiled_here), again, in_place, copy.deepcopy(in_place)):
        expected = one.eval()(**given)
        assert torch.equal(one(given["x"], None, given["shift"]), expected)
        assert torch.equal(one(given["x"], None, given["shift"], False), expected)
        assert torch.equal(one(given["x"], shift=given["shift"]), expected)
        with pytest.raises(InputError, match="for calls without '?mask"):
            one(given["x"], given["shift"], given["shift"])
        with pytest.raises((InputError, TypeError)):
            one(given["x"], given["shift"])
        with pytest.raises(TypeError):
            one(given["x"], None, given["shift"], shift=given["shift"])
    losses = []
    for call in ((), given), ((given["x"], None, given["shift"]), {}):
        compiled_here.controller, compiled_here.train()(*call[0], **call[1])
        losses.append(compiled_here.controller.loss().item())
    assert losses[0] == losses[1]


ORDERS = [{"x": ROW, "shift": 2 * ROW}, {"shift": 2 * ROW, "x": ROW}, {"twice": True, "shift": 2 * ROW, "x": ROW}]


@pytest.mark.parametrize("given", ORDERS, ids=list)
@pytest.mark.parametrize("kind", ["module", "program", "compiled"])
def test_inputs_by_name_have_one_order_that_of_forward(kind, given, tmp_path):
    model = Masked()
    in_order = {name: given[name] for name in ("x", "shift", "twice") if name in given}
    made_of = {
        "module": lambda: model,
        "program": lambda: torch.export.export(model, (), in_order, strict=False),
        "compiled": lambda: fxcompress.compile(model, [], data=[given]),
    }[kind]()
    one, expected = fxcompress.compile(made_of, [], example_inputs=given), model(**given)
    torch.testing.assert_close(one(**given), expected)
    assert list(inspect.signature(one.forward).parameters) == list(in_order)
    by_position = torch.export.export(one, tuple(in_order.values())), torch.export.export(one, (ROW,), _without(in_order, "x"))
    torch.testing.assert_close(by_position[0].module()(*in_order.values()), expected)
    torch.testing.assert_close(by_position[1].module()(ROW, **_without(in_order, "x")), expected)
    session = onnxruntime.InferenceSession(one.to_onnx(tmp_path / "m.onnx", input_names=["first", "second"], verify="strict"))
    (found,) = session.run(None, {"first": ROW.numpy(), "second": (2 * ROW).numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expected)


def _without(given, name):
    return {key: value for key, value in given.items() if key != name}
