"""What a model says of gradients in its forward: where it stops them, and backward passes of its own."""

import onnx
import pytest
import torch
from shape_networks import Do
from torch import nn
from torch.utils.checkpoint import checkpoint

import fxcompress
from fxcompress import passes
from fxcompress.errors import TrainingWarning

X = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


def no_grad(m, x):
    with torch.no_grad():
        y = m.layer(x)
    return x + y


def inference_mode(m, x):
    with torch.inference_mode():
        y = m.layer(x)
        with torch.inference_mode(False):
            z = x + y
    return x + y.clone() + z


def inference_mode_in_training(m, x):
    with torch.inference_mode(m.training):
        y = m.layer(x)
    return x + y.clone()


def grad_inside_no_grad(m, x):
    with torch.no_grad():
        y = m.layer(x)
        with torch.enable_grad():
            z = m.layer(x)
    return x + y * z


def several(m, x):
    with torch.no_grad():
        y, index = m.layer(x).max(-1, keepdim=True)
    return x * y + index


def switched(m, x):
    torch.set_grad_enabled(False)
    y = m.layer(x)
    torch.set_grad_enabled(True)
    return x + y


def in_training(m, x):
    return m.layer(x.detach() if m.training else x)


def nearest(m, x):
    """The code book of a vector quantized network (van den Oord et al., arXiv 1711.00937), the gradient straight through."""
    return x + (m.layer.weight[torch.cdist(x, m.layer.weight).argmin(-1)] - x).detach()


FORWARDS = {
    "detach": lambda m, x: x + m.layer(x).detach(),
    "detach_": lambda m, x: x + m.layer(x).clone().detach_(),
    "straight through": lambda m, x: x + (x.round() - x).detach(),
    "reversed": lambda m, x: 2 * x.detach() - x,
    "a detached weight": lambda m, x: nn.functional.linear(x, m.layer.weight.detach(), m.layer.bias),
    "a detached scale": lambda m, x: x / x.detach().abs().mean(-1, keepdim=True),
    "nearest": nearest,
    "no_grad": no_grad,
    "inference_mode": inference_mode,
    "inference_mode in training": inference_mode_in_training,
    "inference_mode as a decorator": lambda m, x: x + torch.inference_mode()(m.layer)(x).clone(),
    "grad inside no_grad": grad_inside_no_grad,
    "several results": several,
    "switched": switched,
    "in training only": in_training,
    "a decorator": lambda m, x: x + torch.no_grad()(m.layer)(x),
    "checkpoint": lambda m, x: checkpoint(m.layer, x, use_reentrant=False),
    "reentrant checkpoint": lambda m, x: checkpoint(m.layer, x, use_reentrant=True),
}


def network(forward):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), Do(forward, layer=nn.Linear(8, 8)), nn.Linear(8, 4))


def gradients(model):
    model.train()(X).square().sum().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("kind", FORWARDS)
def test_gradients_stop_where_they_stop_in_the_model(kind, recwarn):
    model = network(FORWARDS[kind])
    compiled = fxcompress.compile(model, [], data=[X])
    torch.testing.assert_close(gradients(compiled), gradients(model))
    assert not [one for one in recwarn if isinstance(one.message, TrainingWarning)]


@pytest.mark.parametrize("kind", FORWARDS)
def test_gradients_stop_as_well_where_a_view_is_written_to(kind, recwarn):
    def forward(m, x):
        y = x.clone()
        y.view(-1, 4, 2)[:, 1:].add_(1)
        return FORWARDS[kind](m, x) + y

    model = network(forward)
    compiled = fxcompress.compile(model, [], data=[X])
    torch.testing.assert_close(gradients(compiled), gradients(model))
    assert not [one for one in recwarn if isinstance(one.message, TrainingWarning)]


LETTING = {
    "detach": lambda m, x: x + m.layer(x),
    "straight through": lambda m, x: x + (x.round() - x),
    "no_grad": lambda m, x: x + m.layer(x),
    "a detached weight": lambda m, x: m.layer(x),
}


@pytest.mark.parametrize("kind", LETTING)
def test_the_file_is_that_of_a_model_that_lets_them_pass(kind, tmp_path):
    def written(forward):
        compiled = fxcompress.compile(network(forward), fxcompress.defaults.training(), data=[X])
        file = compiled.to_onnx(tmp_path / "m.onnx", verify="strict")
        return [node.op_type for node in onnx.load(file).graph.node]

    assert written(FORWARDS[kind]) == written(LETTING[kind])


def by_clamp(m, y):
    with torch.no_grad():
        y.clamp_(-0.1, 0.1)


def by_assignment(m, y):
    with torch.no_grad():
        y[:, 1:] = 0


def through_data(m, y):
    y.data.clamp_(-0.1, 0.1)


def through_a_view(m, y):
    view = y[:, 2:]
    with torch.no_grad():
        view.mul_(2)


@pytest.mark.parametrize("write", [by_clamp, by_assignment, through_data, through_a_view], ids=lambda one: one.__name__)
def test_a_write_that_gradients_pass_by_is_told(write):
    def forward(m, x):
        y = m.layer(x)
        write(m, y)
        return x + y

    model = network(forward)
    compiled = fxcompress.compile(model, [], data=[X])
    torch.testing.assert_close(compiled(X), model.eval()(X))
    with pytest.warns(TrainingWarning, match="the gradient passes by"):
        compiled.train()


def of_its_own(m, x):
    with torch.no_grad():
        mask = torch.zeros_like(x)
        mask[:, 1:] = 1
    mask[:, 2:] = 0
    return m.layer(x) * mask


def of_what_is_detached_for_good(m, x):
    y = m.layer(x).detach().clone()
    with torch.no_grad():
        y.clamp_(-0.1, 0.1)
    return x + y


@pytest.mark.parametrize("forward", [of_its_own, of_what_is_detached_for_good], ids=lambda one: one.__name__)
def test_a_write_to_what_has_no_gradient_is_nothing_to_tell(forward, recwarn):
    model = network(forward)
    compiled = fxcompress.compile(model, [], data=[X])
    torch.testing.assert_close(gradients(compiled), gradients(model))
    assert not [one for one in recwarn if isinstance(one.message, TrainingWarning)]


def hooked(m, x):
    y = m.layer(x)
    if y.requires_grad:
        y.register_hook(lambda gradient: 2 * gradient)
    return y


def in_training_only(forward):
    return lambda m, x: forward(m, x) if m.training else m.layer(x)


OWN_BACKWARDS = {
    "function": (lambda m, x: Reversed.apply(x), "Reversed"),
    "function in training": (in_training_only(lambda m, x: Reversed.apply(m.layer(x))), "Reversed"),
    "hook": (hooked, "hook hooked"),
    "hook in training": (in_training_only(hooked), "hook hooked"),
    "module hook": (lambda m, x: m.layer(x), "gradients of '0'"),
}


@pytest.mark.parametrize("place", OWN_BACKWARDS)
def test_a_backward_pass_of_its_own_is_told_before_anybody_trains(place):
    forward, told = OWN_BACKWARDS[place]
    model = network(forward)
    if place == "module hook":
        model[0].register_full_backward_hook(lambda module, inputs, outputs: None)
    with pytest.warns(TrainingWarning, match=told):
        fxcompress.compile(model, [passes.Quantize(), passes.Calibrate()], data=[X]).train()


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints_in_training_are_told(reentrant):
    model = network(in_training_only(lambda m, x: checkpoint(m.layer, x, use_reentrant=reentrant)))
    (row,) = fxcompress.compile(model, [], data=[X]).report.rows
    assert any("checkpoints and hooks on saved tensors are left out" in note for note in row.notes)
