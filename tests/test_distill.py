"""Distillation: the model as it was teaches the compressed one, and does not show."""

import copy
import weakref

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from levels import compile_once
from torch import nn

import fxcompress
from fxcompress import passes
from fxcompress.errors import InputError, TrainingError
from fxcompress.training.distillation import mean_squared_error, softened_cross_entropy

COMPRESSION = [passes.PruneFilters(amount=0.5, multiple=1), passes.Quantize(), passes.Calibrate()]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.Flatten(), nn.Linear(12, 5))


def images(batch=4, seed=0):
    return torch.randn(batch, 1, 6, 6, generator=torch.Generator().manual_seed(seed))


def compiled(**options):
    return compile_once(network, [*COMPRESSION, passes.Distill(**options)], [images()])


@given(st.integers(1, 5), st.integers(2, 6), st.floats(0.5, 8.0), st.integers(0, 99))
def test_the_softened_loss_and_its_gradient_are_those_of_the_formulas(batch, classes, temperature, seed):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, batch, classes, generator=generator, dtype=torch.float64)
    student.requires_grad_()
    loss = softened_cross_entropy(temperature, 1)(student, teacher)
    product = (student / temperature).log_softmax(1) * (teacher / temperature).softmax(1)
    torch.testing.assert_close(loss, -product.mean() * classes * temperature**2)
    difference = (student / temperature).softmax(1) - (teacher / temperature).softmax(1)
    torch.testing.assert_close(torch.autograd.grad(loss, student)[0], temperature * difference / batch)


@pytest.mark.parametrize("options", [{}, {"scale": 0.5}, {"loss": "softmax", "temperature": 4.0}], ids=str)
def test_the_loss_is_between_the_outputs_of_the_model_and_those_it_had(options):
    model = compiled(**options)
    controller, original = model.controller, network().eval()
    student, teacher = model.train()(images(seed=1)), original(images(seed=1))
    if "loss" in options:
        expected = softened_cross_entropy(4.0, 1)(student, teacher)
    else:
        expected = F.mse_loss(student, teacher) * options.get("scale", 1.0)
    torch.testing.assert_close(controller.loss(), expected)
    assert torch.equal(controller.loss(), controller["Distill"].loss())


@pytest.mark.parametrize("position", range(len(COMPRESSION) + 1))
def test_the_teacher_is_the_model_before_all_passes_wherever_it_is_listed(position):
    listed = [*COMPRESSION[:position], passes.Distill(), *COMPRESSION[position:]]
    model, reference = fxcompress.compile(network(), listed, data=[images()]), compiled()
    for one in (model, reference):
        assert one.controller and one.train()(images()).isfinite().all()
    assert torch.equal(model.controller.loss(), reference.controller.loss()) and model.controller.loss() > 0


def test_the_teacher_is_in_no_parameters_and_no_state_and_learns_nothing():
    model, without = compiled(), fxcompress.compile(network(), COMPRESSION, data=[images()])
    assert model.state_dict().keys() == without.state_dict().keys()
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in without.parameters())
    optimizer, controller, x = torch.optim.SGD(model.parameters(), lr=0.1), model.controller, images()
    losses = []
    for _ in range(10):
        model.train()(x)
        losses.append(controller.loss().detach())
        optimizer.zero_grad()
        controller.loss().backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    student = model(x)
    torch.testing.assert_close(controller.loss(), F.mse_loss(student, network().eval()(x)))


def test_the_teacher_goes_where_the_model_goes():
    model = compiled().double()
    controller = model.controller
    model.train()(images().double())
    assert controller.loss().dtype == torch.float64
    pruned = fxcompress.compile(network(), [passes.Distill()], example_inputs=images()).to("meta")
    controller = pruned.controller
    pruned.train()(images().to("meta"))
    assert controller.loss().device.type == "meta"


def test_the_loss_is_of_the_last_pass_and_earlier_ones_are_let_go():
    model = compiled()
    controller = model.controller
    model.train()(images(seed=1))
    first = controller.loss().detach().clone()
    held = weakref.ref(controller.loss())
    model(images(seed=2))
    assert held() is None and not torch.equal(controller.loss(), first)
    model.eval()(images())
    with pytest.raises(TrainingError, match="run the model in training mode"):
        controller.loss()


def test_a_loss_before_any_forward_pass_is_an_error_that_says_what_to_do():
    with pytest.raises(TrainingError, match=r"no forward pass.*compiled\.train\(\) and compiled\(x\)"):
        compiled().train().controller.loss()


def test_a_copy_in_the_middle_of_training_has_a_teacher_and_a_loss_of_its_own():
    model = compiled()
    controller = model.controller
    model.train()(images(seed=1))
    twin = copy.deepcopy(model)
    assert twin.controller is not controller and twin.training
    loss = controller.loss().detach().clone()
    twin(images(seed=2))
    assert torch.equal(controller.loss(), loss) and not torch.equal(twin.controller.loss(), loss)
    with torch.no_grad():
        next(iter(twin.parameters())).add_(1)
    model(images(seed=1))
    assert torch.equal(controller.loss(), loss)


def test_losses_of_parts_of_a_batch_accumulate_to_that_of_the_whole():
    model = fxcompress.compile(
        network().eval()[3:], [passes.Quantize(), passes.Calibrate(), passes.Distill()], data=[features()]
    )
    controller, gradients = model.controller, []
    for parts in (1, 4):
        model.train().zero_grad()
        for x in features(seed=1).chunk(parts):
            model(x)
            (controller.loss() / parts).backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for whole, accumulated in zip(*gradients, strict=True):
        torch.testing.assert_close(whole, accumulated)


def features(seed=0):
    return torch.randn(8, 4, 4, 4, generator=torch.Generator().manual_seed(seed))


class Several(nn.Module):
    """Floating-point outputs in a dict, and one of integers."""

    def __init__(self):
        super().__init__()
        self.layer, self.other = nn.Linear(4, 3), nn.Linear(4, 2)

    def forward(self, x):
        y = self.layer(x)
        return {"scores": y, "class": y.argmax(1), "more": (self.other(x),)}


def test_all_floating_outputs_are_compared():
    original, x = Several(), torch.randn(6, 4)
    model = fxcompress.compile(original, [passes.Quantize(), passes.Calibrate(), passes.Distill()], data=[x])
    controller, outputs, wanted = model.controller, model.train()(x), original(x)
    expected = F.mse_loss(outputs["scores"], wanted["scores"]) + F.mse_loss(outputs["more"][0], wanted["more"][0])
    torch.testing.assert_close(controller.loss(), expected)


def test_in_half_precision_the_loss_is_in_float32():
    model = compiled()
    controller = model.controller
    with torch.autocast("cpu", torch.bfloat16):
        assert model.train()(images()).dtype == torch.bfloat16
        assert controller.loss().dtype == torch.float32


def test_two_distillations_share_a_teacher():
    both = [passes.Distill(), passes.Distill(loss="softmax")]
    model = fxcompress.compile(network(), [*COMPRESSION, *both], data=[images()])
    controller = model.controller
    model.train()(images())
    assert [name for name, _ in model.named_children()].count("teacher") == 1
    torch.testing.assert_close(controller.loss(), controller["Distill"].loss() + controller["Distill_2"].loss())


def test_the_file_has_no_teacher(tmp_path):
    with_teacher = compiled().to_onnx(tmp_path / "with.onnx").stat().st_size
    without = fxcompress.compile(network(), COMPRESSION, data=[images()]).to_onnx(tmp_path / "without.onnx").stat().st_size
    assert abs(with_teacher - without) < 100  # the list of passes is in it


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "kl"}, "'mse' or 'softmax', got 'kl'"),
        ({"loss": "softmax", "temperature": 0.0}, "temperature above 0, got 0.0"),
        ({"scale": float("nan")}, "scale above 0, got nan"),
        ({"temperature": 4.0}, "are of Distill.loss='softmax'."),
        ({"axis": 2}, "are of Distill.loss='softmax'."),
        ({"loss": "softmax", "axis": 2}, "an output of 2 dimensions; say which axis"),
    ],
)
def test_bad_options_are_explained(options, message):
    with pytest.raises(InputError, match=message):
        compiled(**options)


def test_a_model_without_floating_outputs_is_refused():
    class Argmax(nn.Module):
        def forward(self, x):
            return x.argmax(1)

    with pytest.raises(InputError, match="the model has none"):
        fxcompress.compile(Argmax(), [passes.Distill()], example_inputs=torch.randn(2, 3))


@pytest.mark.parametrize("criterion", [mean_squared_error, softened_cross_entropy(2.0, 1)])
def test_logits_that_are_masked_with_infinity_have_no_part_in_the_loss(criterion):
    torch.manual_seed(0)
    student, teacher, mask = torch.randn(4, 5, requires_grad=True), torch.randn(4, 5), torch.zeros(4, 5)
    mask[0, 1] = mask[1:3, 3:] = mask[3] = -torch.inf
    loss = criterion(student + mask, teacher + mask)
    loss.backward()
    assert loss.isfinite() and student.grad.isfinite().all()
    assert (student.grad[mask.isinf()] == 0).all() and (student.grad[mask == 0] != 0).all()
