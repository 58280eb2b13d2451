"""Gradients of gradients, torch.func and torch.export through quantizers, and values that are no ordinary numbers."""

import itertools

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from hypothesis import example, given
from hypothesis import strategies as st
from loops import classifier
from torch import nn
from torch.func import functional_call, grad, jacrev, jvp, vmap

import fxcompress
from fxcompress import passes
from fxcompress.binarization.binarizers import ActivationBinarizer, XnorBinarizer
from fxcompress.masks import LearnedMask
from fxcompress.quantizers import native
from fxcompress.quantizers.quantizer import Quantizer
from fxcompress.quantizers.spec import QuantizationSpec
from fxcompress.quantizers.straight_through import FakeQuantize
from fxcompress.quantizers.trainable import TrainableQuantizer

KINDS = [(symmetric, axis) for symmetric in (True, False) for axis in (None, 0)]


def quantizer(symmetric=False, axis=None):
    """One with values beyond both ends of its range."""
    made = Quantizer(QuantizationSpec(bits=4, symmetric=symmetric, channel_axis=axis), (3, 40))
    shape = made.scale.shape
    made.set_grid(torch.full(shape, 0.13), torch.full(shape, 0.0 if symmetric else 5.0), symmetric)
    return TrainableQuantizer(made, 0.7)


def values(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("symmetric", "axis"), KINDS)
def test_values_and_gradients_are_the_same_inside_transformations(symmetric, axis):
    """The gradients of a sum of squares, by the kernel or torch's plain operations, and by torch.func."""
    q, x = quantizer(symmetric, axis), values(3, 40)
    parameters = dict(q.named_parameters())

    def loss(parameters, x):
        y = functional_call(q, parameters, (x,))
        return (y * values(3, 40)).sum(), y

    x.requires_grad_()
    total, expected = loss(parameters, x)
    total.backward()
    (found, of_x), value = grad(loss, argnums=(0, 1), has_aux=True)(parameters, x.detach())
    assert torch.equal(value, expected)
    torch.testing.assert_close(of_x, x.grad)
    for name, parameter in parameters.items():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("symmetric", "axis"), KINDS)
def test_half_precision_is_rounded_in_float32_inside_transformations_too(symmetric, axis, dtype):
    q, x = quantizer(symmetric, axis), values(3, 40).to(dtype)

    def loss(x):
        y = q(x)
        return y.float().sum(), y

    of_x, value = grad(loss, has_aux=True)(x)
    expected = q(x.requires_grad_())
    expected.float().sum().backward()
    assert value.dtype == of_x.dtype == dtype and torch.equal(value, expected) and torch.equal(of_x, x.grad)


@pytest.mark.parametrize(("symmetric", "axis"), KINDS)
def test_a_gradient_penalty_reaches_what_came_before(symmetric, axis):
    """``d/dw ||d loss / dx||^2``, by double backward and, since a quantizer is linear between its ends, by hand."""
    q, x, w = quantizer(symmetric, axis), values(3, 40), values(3, 40).requires_grad_()
    x.requires_grad_()
    y = q(x)
    (of_x,) = torch.autograd.grad((y * w).sum(), x, create_graph=True)
    of_x.square().sum().backward()
    inside = of_x.detach() != 0
    assert 0 < int(inside.sum()) < inside.numel()
    torch.testing.assert_close(w.grad, torch.where(inside, 2 * w.detach(), 0.0))


@pytest.mark.parametrize(("symmetric", "axis"), KINDS)
def test_gradients_of_the_range_reach_the_gradient_they_were_made_of(symmetric, axis):
    q, x, w = quantizer(symmetric, axis), values(3, 40), values(3, 40).requires_grad_()
    plain = torch.autograd.grad((q(x) * w).sum(), list(q.parameters()))
    made = torch.autograd.grad((q(x) * w).sum(), list(q.parameters()), create_graph=True)
    for one, other in zip(plain, made):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    sum(one.sum() for one in made).backward()
    torch.testing.assert_close((w.grad * w.detach()).sum(), sum(one.sum() for one in plain), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("symmetric", "axis"), KINDS)
def test_forward_gradients_are_the_transposed_ones(symmetric, axis):
    q, x, tangent = quantizer(symmetric, axis), values(3, 40), values(3, 40).flip(1)
    _, pushed = jvp(q, (x,), (tangent,))
    torch.testing.assert_close((pushed * tangent).sum(), (grad(lambda x: (q(x) * tangent).sum())(x) * tangent).sum())
    with forward_ad.dual_level():
        assert torch.equal(forward_ad.unpack_dual(q(forward_ad.make_dual(x, tangent))).tangent, pushed)


def trained(**options):
    stack = [passes.CanonicalizeActivations(), passes.Quantize(), passes.Calibrate(), passes.TrainQuantizers()]
    return fxcompress.compile(nn.Sequential(nn.Linear(5, 8), nn.GELU(), nn.Linear(8, 3)).eval(), stack, data=[values(9, 5)])


def test_gradients_of_each_sample_are_those_of_it_alone():
    model, x = trained(), values(4, 5)
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    loss = lambda parameters, x: functional_call(model, parameters, (x[None],)).square().sum()  # noqa: E731
    each = vmap(grad(loss), (None, 0))(parameters, x)
    for index, (name, parameter) in itertools.product(range(4), model.named_parameters()):
        (alone,) = torch.autograd.grad(model(x[index][None]).square().sum(), parameter)
        torch.testing.assert_close(each[name][index], alone, rtol=1e-3, atol=1e-4)
    assert jacrev(model)(x).shape == (4, 3, 4, 5)


def test_ranges_stay_where_weights_are_arguments():
    """Of a model in training, whose ranges else follow its weights: these may be larger, and several."""
    layers = nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)
    model = fxcompress.compile(nn.Sequential(*layers), [passes.Quantize(), passes.Calibrate()], data=[values(9, 6)]).train()
    before, x = {name: held.clone() for name, held in model.named_buffers()}, values(4, 6)
    parameters = {name: 3 * parameter.detach() for name, parameter in model.named_parameters()}
    loss = lambda parameters, x: functional_call(model, parameters, (x,)).square().sum()  # noqa: E731
    together = {name: torch.stack([one, one]) for name, one in parameters.items()}
    first, second = vmap(loss, (0, None))(together, x)
    assert first == second
    assert grad(loss)(parameters, x)["0.weight"].any()
    vmap(grad(loss), (None, 0))(parameters, x[:, None])
    assert all(torch.equal(held, before[name]) for name, held in model.named_buffers())


def test_an_exported_model_trains_as_the_compiled_one():
    model, x = trained(), values(4, 5)
    exported = torch.export.export(model, (x,)).module()
    assert torch.equal(exported(x), model(x))
    exported(x).square().sum().backward()
    model(x).square().sum().backward()
    gradients = dict(exported.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name].grad, parameter.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("training", [True, False])
def test_an_exported_model_is_that_of_the_mode_it_was_exported_in(training):
    """Batch norms and dropouts, which the graph of a compiled model has in inference mode."""
    layers = nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 3)
    model, x = fxcompress.compile(nn.Sequential(*layers), [], example_inputs=values(9, 5)).train(training), values(9, 5)
    exported = torch.export.export(model, (x,)).module()
    outputs = []
    for one in (exported, model):
        torch.manual_seed(0)
        outputs.append(one(x))
    assert torch.equal(*outputs)
    assert torch.equal(model(x), outputs[1]) != training
    assert "batch_norm" in str(model.graph) and model.graph is model.graph


def test_a_whole_network_has_gradients_of_gradients():
    """With batch norms, convolutions and pools: the penalty is a number, and every weight has a gradient of it."""
    model = fxcompress.compile(classifier(), fxcompress.defaults.training(), data=[values(4, 1, 8, 8)]).train()
    x = values(4, 1, 8, 8).requires_grad_()
    (of_x,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
    of_x.square().sum().backward()
    weights = [parameter for name, parameter in model.named_parameters() if name.endswith("weight") and parameter.dim() > 1]
    assert weights and all(weight.grad is not None and bool(weight.grad.any()) for weight in weights)


@pytest.mark.parametrize("make", [XnorBinarizer, lambda: ActivationBinarizer(3), lambda: LearnedMask((4, 3, 2, 2)).eval()])
def test_binarizers_and_masks_are_seen_through(make):
    module, x = make(), values(4, 3, 2, 2)
    x.requires_grad_()
    (of_x,) = torch.autograd.grad((module(x) * x.detach().flip(0)).sum(), x)
    assert torch.equal(grad(lambda x: (module(x) * x.detach().flip(0)).sum())(x.detach()), of_x)
    assert vmap(module)(x.detach()[None]).shape == (1, *x.shape)


# ----------------------------------------------------------------------------------- numbers that are out of the ordinary

NUMBERS = [0.0, -0.0, float("nan"), float("inf"), -float("inf"), 1e-45, -1e-40, 1.2e-38, 3.4e38, -3.4e38, 1e-7, 0.5, -7.25]
SCALES = [1e-45, 1e-40, 1.2e-38, 1e-30, 1e-3, 1.0, 3e37, float("inf"), float("nan"), 0.0]


@given(
    x=st.lists(st.sampled_from(NUMBERS) | st.floats(width=32), min_size=1, max_size=9),
    gradient=st.sampled_from([1.0, -0.5, 0.0, float("nan"), float("inf")]),
    scale=st.sampled_from(SCALES),
    point=st.sampled_from([None, 0.0, 7.0]),
)
@example(x=[float("inf"), -float("inf")], gradient=1.0, scale=float("inf"), point=None)  # of no bounds infinity is inside
def test_the_kernel_and_torch_agree_on_any_number(x, gradient, scale, point):
    """Values, and gradients of values, bit by bit, whatever the numbers are; those of the range where they are numbers."""
    native.load()
    kernel, found = native.loaded, []
    for which in (kernel, None):
        native.loaded = which
        try:
            leaf, low, extent = (
                torch.tensor(x).requires_grad_(),
                torch.tensor(-1.0).requires_grad_(),
                torch.tensor(2.0).requires_grad_(),
            )
            zero_point = None if point is None else torch.tensor(point)
            y = FakeQuantize.apply(leaf, torch.tensor(scale), zero_point, low, extent, (0, 15), 1.0)
            y.backward(torch.full_like(y, gradient))
        finally:
            native.loaded = kernel
        found.append((y.detach(), leaf.grad, low.grad, extent.grad))
    for one, other in zip(*found):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6, equal_nan=True)
