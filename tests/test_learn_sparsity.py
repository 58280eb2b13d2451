"""Masks that are learned: how they are drawn, the gradients of their logits, the loss, and what training makes of them."""

import copy

import pytest
import torch
from emission import file_agreement
from torch import nn

import fxcompress
from fxcompress import passes
from fxcompress.errors import InputError, ScopeError
from fxcompress.masks.learned import LearnedMask, density_loss
from fxcompress.training import Adaptive, CompressionStage, Exponential

X = torch.randn(16, 6, generator=torch.Generator().manual_seed(1))


def learned(**options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 2)).eval()
    return fxcompress.compile(model, [passes.LearnSparsity(**options)], example_inputs=X)


def learned_masks(compiled):
    return [module for module in compiled.modules() if isinstance(module, LearnedMask)]


def test_a_one_is_drawn_as_often_as_its_logit_says():
    mask = LearnedMask((4, 5000))
    logits = torch.tensor([-30.0, -1.0, 0.5, 30.0])
    with torch.no_grad():
        mask.logits.copy_(logits[:, None].expand(4, 5000))
    weight = torch.full((4, 5000), 2.0)
    drawn = mask(weight)
    assert set(drawn.unique().tolist()) == {0.0, 2.0}
    assert torch.allclose(drawn.mean(1) / 2, logits.sigmoid(), atol=0.03)
    mask.group.ask(0.5)
    assert torch.equal(mask.eval()(weight), weight * (logits > 0)[:, None])


@pytest.mark.parametrize(
    ("asked", "centre", "share"),
    [(0.7, -0.85, 0.7), (0.7, -3.0, 0.7), (0.3, 0.85, 0.3), (0.7, 0.0, 0.5), (0.0, 4.6, 0.0), (0.7, 4.6, 0.01)],
)
def test_a_file_has_what_was_asked_for_however_undecided_the_logits_are(asked, centre, share):
    """Where training has come to it; else what it draws. By their sign all of these logits are the same."""
    compiled = learned(level=asked, schedule=None).train()
    with torch.no_grad():
        for mask in learned_masks(compiled):
            mask.logits.copy_(centre + 1e-3 * torch.randn(mask.logits.shape))
    controller = compiled.controller["LearnSparsity"]
    zeros = sum(int((value == 0).sum()) for value in compiled.lower().state_dict().values() if value.dim() == 2)
    assert zeros / 160 == pytest.approx(share, abs=0.01)
    assert controller.reached() == pytest.approx(share, abs=0.01)
    whole = controller.compression_stage() is CompressionStage.FULLY_COMPRESSED
    assert whole == (share == asked)
    lowered = compiled.lower()
    assert torch.equal(lowered(X), compiled.eval()(X))


def test_masks_of_a_copy_are_its_own():
    compiled = learned(level=0.5, schedule=None).train()
    twin = copy.deepcopy(compiled)
    with torch.no_grad():
        for mask in learned_masks(compiled):
            mask.logits.copy_(torch.randn(mask.logits.shape))
    compiled.eval(), twin.eval()
    assert compiled.controller["LearnSparsity"].reached() == pytest.approx(0.5)
    assert all(mask.mask.all() for mask in learned_masks(twin))


def test_at_first_one_in_a_hundred_is_masked_and_none_outside_training():
    mask = LearnedMask((100, 100))
    assert mask.draw().mean().item() == pytest.approx(0.99, abs=0.01)
    assert mask.mask.all()


def test_gradients_pass_the_threshold_and_not_the_sigmoid():
    mask, weight = LearnedMask((3, 4)), torch.randn(3, 4, requires_grad=True)
    upstream = torch.randn(3, 4)
    torch.manual_seed(5)
    mask(weight).backward(upstream)
    torch.manual_seed(5)
    uniform = torch.rand(3, 4).clamp(1e-6, 1 - 1e-6)
    probability = torch.sigmoid(mask.logits.detach() + torch.log(uniform / (1 - uniform)))
    torch.testing.assert_close(weight.grad, upstream * (probability > 0.5))
    torch.testing.assert_close(mask.logits.grad, upstream * weight.detach() * probability * (1 - probability))


def test_the_same_seed_draws_the_same_masks():
    """As on the ranks of a distributed run."""
    compiled = learned().train()
    twin = copy.deepcopy(compiled)
    outputs = []
    for model in (compiled, twin):
        torch.manual_seed(3)
        outputs.append(model(X))
    assert torch.equal(*outputs)
    assert not torch.equal(compiled(X), outputs[0])  # and the next pass draws others


def test_the_loss_is_that_of_the_density():
    masks = [torch.tensor([1.0, 0.0, 1.0, 1.0]), torch.tensor([[0.0, 1.0]])]
    assert density_loss(masks, 0.5).item() == pytest.approx(((4 / 6 - 0.5) / 0.05) ** 2)
    compiled = learned(level=0.6, schedule=None)
    ones = sum(mask.logits.numel() for mask in learned_masks(compiled)) * 0.99
    expected = ((ones / 160 - 0.4) / 0.05) ** 2
    assert compiled.controller.loss().item() == pytest.approx(expected, rel=0.15)
    assert compiled.controller.compression_stage() is CompressionStage.PARTIALLY_COMPRESSED  # asked for, and not there yet
    compiled.controller.loss().backward()
    assert all((mask.logits.grad > 0).all() for mask in learned_masks(compiled))


def train(compiled, epochs, steps=8, optimizer=None):
    torch.manual_seed(0)
    optimizer = optimizer or torch.optim.Adam(compiled.parameters(), lr=0.1)
    wanted = torch.stack([X[:, 0], X[:, 1]], 1)
    losses = []
    for _ in range(epochs):
        compiled.train()
        compiled.controller.scheduler.epoch_step()
        for _ in range(steps):
            compiled.controller.scheduler.step()
            loss = (compiled(X) - wanted).square().mean() + compiled.controller.loss()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    compiled.eval()
    return losses


@pytest.mark.parametrize("schedule", [Exponential(epochs=10), Adaptive(step=0.1), None])
def test_training_reaches_the_level_and_the_file_is_the_model(schedule):
    compiled = learned(level=0.5, schedule=schedule, freeze_epoch=20)
    train(compiled, 22)
    controller = compiled.controller["LearnSparsity"]
    assert controller.reached() == pytest.approx(0.5, abs=0.005)
    assert controller.compression_stage() is CompressionStage.FULLY_COMPRESSED
    read = sum(int((mask.mask == 0).sum()) for mask in learned_masks(compiled)) / 160
    assert f"{read:.1%}" in str(controller.statistics())
    assert file_agreement(compiled, X) > 100


def test_frozen_masks_are_those_of_the_file_and_cost_no_loss():
    compiled = learned(level=0.5, schedule=Exponential(epochs=3), freeze_epoch=5)
    optimizer = torch.optim.AdamW(compiled.parameters(), lr=0.1, weight_decay=0.1)
    train(compiled, 5, optimizer=optimizer)
    expected = [mask.mask.clone() for mask in learned_masks(compiled)]
    train(compiled, 2, optimizer=optimizer)  # its momentum and weight decay still push
    compiled.train()
    for mask, ones in zip(learned_masks(compiled), expected):
        assert torch.equal(mask(torch.ones_like(mask.logits)), mask.mask)
        assert torch.equal(mask.mask, ones)
    assert float(compiled.controller.loss()) == 0
    once, twice = compiled(X), compiled(X)
    assert torch.equal(once, twice) and torch.equal(once, compiled.eval()(X))


def test_masks_behind_a_quantizer_are_learned_too():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 2)).eval()
    stack = [passes.Quantize(), passes.Calibrate(), passes.LearnSparsity(schedule=None)]
    compiled = fxcompress.compile(model, stack, data=[X])
    train(compiled, 20)
    share = compiled.controller["LearnSparsity"].reached()
    assert share == pytest.approx(0.5, abs=0.1)
    assert file_agreement(compiled, X) > 40


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": 1.0}, "level from 0 to below 1"),
        ({"freeze_epoch": -1}, "freeze_epoch of 0 or more, or None"),
        ({"schedule": "exponential"}, "schedule that is a Schedule"),
        ({"level": 0.2, "schedule": Exponential(epochs=3, initial=0.3)}, "starts at 0.3"),
    ],
)
def test_unusable_options(options, message):
    with pytest.raises(InputError, match=message):
        passes.LearnSparsity(**options)


def test_unusable_scopes():
    with pytest.raises(ScopeError, match="nothing"):
        learned(ignored=["nowhere"])
