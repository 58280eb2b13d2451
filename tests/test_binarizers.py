"""Binarizers: two values forward, and the published gradients backward."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fxcompress.binarization.binarizers import (
    ActivationBinarizer,
    DoReFaBinarizer,
    XnorBinarizer,
    binarize_activation,
    nearest_scale,
)
from fxcompress.errors import CalibrationError

VALUES = st.floats(-3, 3, width=32).map(lambda value: round(value * 8) / 8)  # zeros and ties are frequent
SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 2), st.integers(1, 3))


def tensors(shape):
    return arrays.arrays(np.float32, shape, elements=VALUES).map(torch.from_numpy)


@pytest.mark.parametrize("value", [1e30, -1e30, math.nan])
def test_a_scale_that_no_float_holds_is_no_state(value):
    binarizer = ActivationBinarizer(3)
    assert binarizer.problem_with(binarizer.state_dict()) is None
    assert "log_scale" in binarizer.problem_with({**binarizer.state_dict(), "log_scale": torch.tensor([value])})


@given(st.data(), SHAPES, st.sampled_from([XnorBinarizer, DoReFaBinarizer]))
def test_weights_are_signs_times_a_mean_and_gradients_pass(data, shape, kind):
    weight, gradient = data.draw(tensors(shape)).requires_grad_(), data.draw(tensors(shape))
    binarizer = kind()
    output = binarizer(weight)
    output.backward(gradient)
    wanted = np.empty(shape, np.float32)
    values = weight.detach().numpy()
    for index, value in np.ndenumerate(values):
        sizes = np.abs(values[index[0]] if kind is XnorBinarizer else values)
        wanted[index] = np.sign(value) * (sizes[sizes > 0].mean() if value else 1)
    np.testing.assert_allclose(output.detach().numpy(), wanted, rtol=1e-6)
    torch.testing.assert_close(weight.grad, gradient, rtol=0, atol=0)
    scale = binarizer.scale(weight)
    integers = binarizer.signs(weight) * (scale.view(-1, 1, 1, 1) if kind is XnorBinarizer else scale)
    torch.testing.assert_close(integers, output.detach(), rtol=0, atol=0)


@given(st.data(), SHAPES, st.floats(0.25, 4, width=32))
def test_activations_are_a_step_with_the_published_gradients(data, shape, scale):
    x, gradient = data.draw(tensors(shape)).requires_grad_(), data.draw(tensors(shape))
    scale = torch.tensor(scale, requires_grad=True)
    threshold = torch.linspace(0.25, 0.75, shape[1]).view(1, -1, 1, 1).requires_grad_()
    output = binarize_activation(x, scale, threshold)
    output.backward(gradient)
    wanted = {"output": np.zeros(shape), "x": np.zeros(shape), "scale": 0.0, "threshold": np.zeros(shape[1])}
    s = scale.item()
    for index, value in np.ndenumerate(x.detach().numpy()):
        g = gradient[index].item()
        out = s if value > np.float32(s) * np.float32(threshold[0, index[1], 0, 0].item()) else 0.0
        wanted["output"][index] = out
        wanted["x"][index] = g if 0 <= value <= s else 0
        wanted["scale"] += g * ((out - value) / s if value <= s else 1)
        wanted["threshold"][index[1]] -= g if 0 < value < s else 0
    found = {"output": output.detach(), "x": x.grad, "scale": scale.grad, "threshold": threshold.grad.flatten()}
    for name, value in found.items():
        np.testing.assert_allclose(value.numpy(), wanted[name], rtol=1e-4, atol=1e-4, err_msg=name)


def test_scale_and_threshold_are_learned_through_exp_and_sigmoid():
    binarizer = ActivationBinarizer(2)
    binarizer.set_scale(2.0)
    x = torch.tensor([0.5, 3.0]).view(1, 2, 1, 1)
    binarizer(x).sum().backward()
    assert binarizer(x).flatten().tolist() == [0.0, 2.0]
    assert binarizer.log_scale.grad.item() == pytest.approx(2 * ((0 - 0.5) / 2 + 1))  # ds/dlog s is s
    assert binarizer.threshold_logit.grad.flatten().tolist() == pytest.approx([-0.25, 0.0])  # sigmoid'(0) is 1/4


def test_without_zeros_the_scale_is_the_published_mean_to_the_bit():
    weight = torch.randn(5, 7, 3, 3)
    assert torch.equal(XnorBinarizer().scale(weight), weight.abs().mean((1, 2, 3)))
    assert torch.equal(DoReFaBinarizer().scale(weight), weight.abs().mean())


@pytest.mark.parametrize("kind", [XnorBinarizer, DoReFaBinarizer])
def test_zeros_stay_and_do_not_count(kind):
    weight = torch.randn(5, 7, 3, 3)
    weight[:, 2] = 0
    weight[4] = 0
    without = torch.cat([weight[:4, :2], weight[:4, 3:]], 1)
    found, wanted = kind()(weight), kind()(without)
    torch.testing.assert_close(torch.cat([found[:4, :2], found[:4, 3:]], 1), wanted)
    assert not found[:, 2].any() and not found[4].any()


def test_a_value_at_the_threshold_is_below():
    binarizer = ActivationBinarizer(1)
    assert binarizer(torch.tensor([0.5, 0.5001]).view(1, 1, 1, 2)).flatten().tolist() == [0.0, 1.0]


@pytest.mark.parametrize("binarizer", [XnorBinarizer(), ActivationBinarizer(3)])
def test_what_is_not_enabled_changes_nothing(binarizer):
    x = torch.randn(4, 3, 2, 2, requires_grad=True)
    enabled = copy.deepcopy(binarizer)
    binarizer.enabled = False
    output = binarizer(x)
    output.sum().backward()
    assert torch.equal(output, x)
    assert torch.equal(x.grad, torch.ones_like(x))
    assert all(parameter.grad is None for parameter in binarizer.parameters())
    assert len(enabled(x).unique()) < x.numel()
    binarizer.load_state_dict(enabled.state_dict())
    assert torch.equal(binarizer(x), enabled(x))


def test_an_activation_keeps_its_precision_and_its_parameters_theirs():
    binarizer = ActivationBinarizer(3)
    x = torch.randn(2, 3, 4, 4).bfloat16().requires_grad_()
    output = binarizer(x)
    output.sum().backward()
    assert output.dtype == x.grad.dtype == torch.bfloat16
    assert binarizer.log_scale.grad.dtype == torch.float32


@given(arrays.arrays(np.float32, st.integers(1, 500), elements=st.floats(-9, 9, width=32)))
def test_the_scale_starts_at_the_mean_of_what_is_nearer_to_it_than_to_zero(values):
    scale = nearest_scale(torch.from_numpy(values))
    nearer = values[values > scale / 2]
    assert scale == pytest.approx(nearer.mean(dtype=np.float64) if (values > 0).any() else 0, rel=1e-3)


def test_a_few_large_values_leave_most_of_the_others_on():
    """A scale of the largest 0.1%, with the threshold at half of it, would put out nine of ten positive values here."""
    torch.manual_seed(0)
    x = torch.randn(100_000).relu()
    binarizer = ActivationBinarizer(1)
    binarizer.set_scale(nearest_scale(x))
    on = (binarizer(x.view(-1, 1, 1, 1)) > 0).float().mean() / (x > 0).float().mean()
    assert 0.4 < on < 0.7


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan])
def test_a_scale_is_a_positive_number(scale):
    with pytest.raises(CalibrationError, match="the scale is"):
        ActivationBinarizer(1).set_scale(scale)
