"""Checkpoints: a run goes on where it stopped, and what does not fit is refused in whole, with the difference."""

import copy
import functools
import io
import math
import random
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from levels import Undecided, compile_once
from torch import nn
from torch._subclasses import FakeTensorMode

import fxcompress
from fxcompress import Effect, Pass, passes
from fxcompress.demo import ResidualNet
from fxcompress.errors import CheckpointError
from fxcompress.masks.mask import Mask
from fxcompress.training import Controller, Polynomial, Scheduler
from fxcompress.training.checkpoint import sealed, texts

STACK = [passes.PruneFilters(amount=0.5, multiple=1), passes.Quantize(), passes.Calibrate(), passes.Distill()]


def network(width=4):
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 3, 3))
    return nn.Sequential(body, nn.Flatten(), nn.Dropout(0.2), nn.Linear(12, 5))


def compiled(listed=STACK, width=4, seed=0):
    """The same compilation of a model with other values: a checkpoint has to bring all of them."""
    return compile_once(_variants[width, seed], listed, [images(seed=seed)])


def variant(width, seed):
    model = network(width)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)), alpha=0.1 * (seed > 0))
    return model


_variants = {pair: functools.partial(variant, *pair) for pair in ((4, 0), (4, 1), (8, 0))}


def images(batch=6, seed=0):
    return torch.randn(batch, 1, 6, 6, generator=torch.Generator().manual_seed(seed))


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def same(left, right):
    return left.keys() == right.keys() and all(map(torch.equal, left.values(), right.values()))


class Run:
    """A training loop that can be stopped; the teacher is the original model's, whatever is loaded."""

    def __init__(self, model):
        self.model, self.controller = model.train(), model.controller
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    def epoch(self):
        self.controller.scheduler.epoch_step()
        losses = []
        for seed in range(3):
            self.controller.scheduler.step()
            loss = F.cross_entropy(self.model(images(seed=seed)), torch.arange(6) % 5) + self.controller.loss()
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            losses.append(loss.item())
        return losses


def test_a_resumed_run_goes_on_with_the_same_bits():
    whole = Run(compiled())
    whole.epoch()
    parts = whole.model.checkpoint(), whole.optimizer.state_dict(), torch.get_rng_state()
    saved, optimizer, randomness = through_a_file(parts)
    expected = whole.epoch()

    resumed = Run(compiled())
    resumed.epoch()
    resumed.epoch()
    resumed.model.load_checkpoint(saved)
    resumed.optimizer.load_state_dict(optimizer)
    torch.set_rng_state(randomness)
    assert resumed.epoch() == expected
    assert resumed.controller.scheduler.state_dict() == whole.controller.scheduler.state_dict()
    assert same(resumed.model.state_dict(), whole.model.state_dict())


def test_a_checkpoint_brings_weights_ranges_masks_and_statistics():
    saved, other = compiled(), compiled(seed=1)
    assert not torch.equal(saved(images()), other(images()))
    other.load_checkpoint(through_a_file(saved.checkpoint()))
    assert torch.equal(saved(images()), other(images()))
    assert same(saved.state_dict(), other.state_dict())


def test_a_run_goes_back_to_an_earlier_checkpoint():
    """What has not started yet when it was taken has started since: as where a loop goes back to its best epoch."""
    ramp = Polynomial(epochs=2)
    listed = [
        passes.LearnSparsity(level=0.5, schedule=ramp, ignored=["0.3"]),
        passes.Sparsify(level=0.5, schedule=ramp, scopes=["0.3"]),
        passes.Quantize(),
        passes.Calibrate(),
        passes.TrainQuantizers(weights_start_epoch=1, activations_start_epoch=2),
    ]
    model = compiled(listed)
    run, taken = Run(model), []
    for _ in range(4):
        taken.append((model.eval().checkpoint(), model(images())))
        model.train()
        run.epoch()
    for state, outputs in reversed(taken):
        model.load_checkpoint(state)
        assert torch.equal(model.eval()(images()), outputs)


def test_a_checkpoint_stays_as_it_was_taken():
    model = compiled()
    taken = model.checkpoint()
    before = copy.deepcopy(taken["model"])
    Run(model).epoch()
    assert same(taken["model"], before)


def test_a_checkpoint_is_plain_data():
    taken = compiled().checkpoint()
    assert taken["format"] == 2 and taken["passes"] == list(map(str, STACK))
    assert type(taken) is type(taken["model"]) is type(taken["scheduler"]) is dict


def test_passes_read_alike_in_every_process():
    options = {"ignored": {"block", "another", "0"}}
    assert str(passes.Quantize(**options)) == "Quantize(ignored=['0', 'another', 'block'])"
    assert texts([f"Quantize(ignored=[{object()}])"]) == ["Quantize(ignored=[<object object>])"]


def test_a_model_compiled_in_part_has_a_controller_and_checkpoints():
    first, second = (fxcompress.compile(Undecided(network()), STACK, data=[images(seed=seed)]) for seed in range(2))
    controller = first.controller
    assert controller is first.controller and list(controller.children) == ["backbone"]
    controller.scheduler.epoch_step()
    first.train()(images())
    assert torch.equal(controller.loss(), controller["backbone"]["Distill"].loss())
    twin = copy.deepcopy(copy.deepcopy(first))
    assert [one.current_epoch for one in (twin.controller.scheduler, twin.controller["backbone"].scheduler)] == [0, 0]
    assert twin.controller is not controller and twin.controller["backbone"] is twin.parts["backbone"].controller
    second.load_checkpoint(through_a_file(first.checkpoint()))
    assert same(first.state_dict(), second.state_dict())
    assert second.controller["backbone"].scheduler.current_epoch == 0
    with pytest.raises(CheckpointError, match=r"- backbone: PruneFilters"):
        fxcompress.compile(Undecided(network()), STACK[1:], data=[images()]).load_checkpoint(first.checkpoint())


# ------------------------------------------------------------------------------------------------------- refusals


def test_other_passes_are_refused_and_named():
    with pytest.raises(CheckpointError) as caught:
        compiled([passes.Quantize(ignored=["0.0"]), *STACK[2:]]).load_checkpoint(compiled().checkpoint())
    assert str(caught.value).splitlines()[1:] == [
        "- PruneFilters(amount=0.5, multiple=1)",
        "- Quantize()",
        "+ Quantize(ignored=['0.0'])",
        "  Calibrate()",
        "  Distill()",
    ]


def test_another_model_is_refused_and_the_tensors_that_differ_are_named():
    with pytest.raises(
        CheckpointError, match=r"0.0.weight is float32\[8, 1, 3, 3\], here float32\[4, 1, 3, 3\], .* and \d+ more"
    ):
        compiled().load_checkpoint(compiled(width=8).checkpoint())
    state = compiled().checkpoint()
    state["model"]["extra"] = state["model"].pop("3.bias")
    with pytest.raises(CheckpointError, match=r"it lacks 3.bias; only it has extra. Compile the model that it was saved from"):
        compiled().load_checkpoint(state)
    with pytest.raises(CheckpointError, match=r"0.0.bias is float64\[4\], here float32\[4\]"):
        compiled().load_checkpoint(compiled().double().checkpoint())


class Fragile(Scheduler):
    def load_state_dict(self, state):
        super().load_state_dict(state)
        if state["current_epoch"] > 0:
            raise ValueError("not today")


@dataclass(frozen=True, kw_only=True)
class Schedule(Pass):
    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, graph_module, context):
        return []

    def controller(self, graph_module):
        return Controller(Fragile())


class Unprintable:
    def __repr__(self):
        raise RuntimeError


def damaged(**changes):
    """A checkpoint with `changes`, sealed anew: what is refused is not only refused for its digest."""
    state = {**compiled([*STACK, Schedule()], seed=1).checkpoint(), **changes}
    return sealed(state) if isinstance(state["model"], dict) else state


def with_schedule(epoch):
    state = damaged()
    for scheduler in (state["scheduler"], *state["scheduler"]["children"].values()):
        scheduler["current_epoch"] = epoch
    return sealed(state)


def with_scheduler(name, value, child=None):
    state = damaged()
    scheduler = state["scheduler"]["children"][child] if child else state["scheduler"]
    scheduler[name] = value
    return sealed(state)


def with_tensor(name, change):
    state = damaged()
    name = next(one for one in state["model"] if name in one)
    change(state["model"][name].view(-1))
    return sealed(state)


def fill(place, value):
    return lambda tensor: tensor[place].fill_(value)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (lambda: [1, 2], "no checkpoint: it lacks 'format', 'passes', 'model', 'scheduler'"),
        (lambda: compiled().state_dict(), r"no checkpoint.*goes into compiled.load_state_dict"),
        (lambda: damaged(format=7), "format 7, this version of fxcompress reads format 2"),
        (lambda: damaged(passes=["Quantize()"]), r"\+ Distill\(\)"),
        (lambda: damaged(model=[1], passes="Quantize()"), "no checkpoint: it lacks 'passes', 'model';"),
        (lambda: damaged(model={}), "it lacks 0.0.bias, .* more"),
        (lambda: damaged(scheduler={}), "cannot be loaded: its schedules cannot be taken up.*was it changed"),
        (lambda: with_scheduler("current_epoch", "3"), "current_epoch is a whole number from -1 on, not '3'"),
        (lambda: with_scheduler("current_step", True), "current_step is a whole number from -1 on, not True"),
        (lambda: with_scheduler("children", {}), r"the scheduler state is of \[\], this model has"),
        (lambda: with_scheduler("level", math.nan, "PruneFilters"), "level is from 0 to below 1, not nan"),
        (lambda: with_scheduler("scheduled", "0.5", "PruneFilters"), "scheduled is from 0 to below 1, not '0.5'"),
        (lambda: with_scheduler("step_of_epoch", -2, "PruneFilters"), "step_of_epoch is a whole number from -1 on"),
        (lambda: with_tensor("0.0.weight", fill(0, math.nan)), "0.0.weight holds NaN or infinite"),
        (lambda: with_tensor("running_var", fill(1, math.inf)), "running_var holds NaN or infinite"),
        (lambda: with_tensor("running_var", fill(1, -1e-3)), "running_var is a variance below zero"),
        (lambda: with_tensor("quantizer.scale", fill(0, 0)), "scale has values that are not from 1e-45 to inf"),
        (lambda: with_tensor("quantizer.scale", fill(0, -1)), "scale has values that are not from 1e-45 to inf"),
        (lambda: with_tensor("quantizer.zero_point", fill(0, 999)), "zero_point has values that are not whole numbers from"),
        (lambda: with_tensor("quantizer._extra_state", fill(3, 77)), "to round to 77 bits"),
        (lambda: with_tensor("quantizer._extra_state", fill(0, 5)), "its flags are 5"),
        (lambda: with_scheduler("level", False, "PruneFilters"), "level is from 0 to below 1, not False"),
        (lambda: damaged(config=b"passes: []"), "no checkpoint: it lacks 'config';"),
        (lambda: damaged() | {"more": Unprintable()}, "its digest is another"),
        (lambda: damaged(computes={}), "of another model, whose graph is another"),
        (lambda: with_schedule(epoch=1), "not today"),
    ],
)
def test_what_is_refused_changes_nothing(state, message):
    model = compiled([*STACK, Schedule()])
    weights, schedule = copy.deepcopy(model.state_dict()), model.controller.scheduler.state_dict()
    with pytest.raises(CheckpointError, match=message):
        model.load_checkpoint(state())
    assert same(model.state_dict(), weights) and model.controller.scheduler.state_dict() == schedule


def freed(value):
    value = value.clone()
    value.untyped_storage().resize_(0)
    return value


UNUSUAL = {
    "nested": lambda value: torch.nested.nested_tensor([value, value[:1]]),
    "NestedTensor": lambda value: torch.nested.nested_tensor([value, value[:1]], layout=torch.jagged),
    "FakeTensor": lambda value: FakeTensorMode().from_tensor(value),
    "a tensor without values": lambda value: value.to("meta"),
    "without values": freed,
    "sparse_coo": lambda value: value.to_sparse(),
    "quantized": lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8),
    "UninitializedParameter": lambda value: nn.UninitializedParameter(),
    "of torch.func": lambda value: inside_vmap(value),
}


def inside_vmap(value):
    caught = []
    torch.vmap(lambda one: caught.append(one) or one)(value[None])
    return caught[0]


@pytest.mark.parametrize("kind", UNUSUAL)
@pytest.mark.filterwarnings("ignore:.*nested")
def test_tensors_that_are_not_plain_are_refused_by_name(kind):
    model, state = compiled(), compiled(seed=1).checkpoint()
    before = copy.deepcopy(model.state_dict())
    state["model"]["0.0.bias"] = UNUSUAL[kind](state["model"]["0.0.bias"])
    with pytest.raises(CheckpointError, match=rf"0\.0\.bias is .*{kind}.*, here float32\[4\]"):
        model.load_checkpoint(state)
    assert same(model.state_dict(), before)


def test_a_tensor_that_torch_negates_where_it_reads_it_is_its_numbers():
    model, state = compiled(), compiled(seed=1).checkpoint()
    bias = state["model"]["0.0.bias"].clone()
    state["model"]["0.0.bias"] = torch._neg_view(-bias)
    model.load_checkpoint(state)
    assert torch.equal(model.state_dict()["0.0.bias"], bias)


def test_a_module_that_refuses_its_state_halfway_changes_nothing(monkeypatch):
    model, state = compiled(), compiled(seed=1).checkpoint()
    before = copy.deepcopy(model.state_dict())
    load, refusals = Mask._load_from_state_dict, iter([ValueError("this mask stays")])

    def refuse(self, *arguments):
        for refusal in refusals:
            raise refusal
        load(self, *arguments)

    monkeypatch.setattr(Mask, "_load_from_state_dict", refuse)
    with pytest.raises(CheckpointError, match="this mask stays"):
        model.load_checkpoint(state)
    assert same(model.state_dict(), before)


def test_the_same_checkpoint_with_a_schedule_that_can_be_taken_up_is_loaded():
    model = compiled([*STACK, Schedule()])
    model.load_checkpoint(with_schedule(epoch=0))
    assert model.controller["Schedule"].scheduler.current_epoch == 0


def test_a_channel_that_never_varied_is_loaded():
    model = compiled([*STACK, Schedule()])
    model.load_checkpoint(with_tensor("running_var", fill(1, 0)))
    assert next(value for name, value in model.state_dict().items() if "running_var" in name)[1] == 0


def test_another_computation_and_another_target_are_refused():
    def one(kind, target="openvino"):
        torch.manual_seed(0)
        return fxcompress.compile(nn.Sequential(nn.Linear(4, 4), kind()), data=[torch.randn(4, 4)], target=target)

    with pytest.raises(CheckpointError, match="of another model, whose graph is another"):
        one(nn.Tanh).load_checkpoint(one(nn.ReLU).checkpoint())
    with pytest.raises(CheckpointError, match="other passes|of another model"):
        one(nn.ReLU, "onnxruntime").load_checkpoint(one(nn.ReLU).checkpoint())
    one(nn.ReLU).train().load_checkpoint(one(nn.ReLU).checkpoint())


def test_no_flipped_bit_is_loaded():
    model, state = compiled(), compiled(seed=1).checkpoint()
    before = copy.deepcopy(model.state_dict())
    draw = random.Random(0)
    for _ in range(60):
        flipped = copy.deepcopy(state)
        name = draw.choice([name for name, value in state["model"].items() if value.numel()])
        octets = flipped["model"][name].view(-1).view(torch.uint8)
        octets[draw.randrange(len(octets))] ^= 1 << draw.randrange(8)
        with pytest.raises(CheckpointError, match="was changed after it was taken"):
            model.load_checkpoint(flipped)
    assert same(model.state_dict(), before)


@pytest.mark.parametrize("multiple", [1, 8])
def test_pruning_for_a_budget_of_multiply_adds_goes_on_from_a_checkpoint(multiple):
    """What is masked already is no part of what the budget is a share of."""
    model, x = ResidualNet((16, 32, 32)).eval(), torch.randn(4, 1, 8, 8)
    stack = [passes.PruneFilters(flops=0.2, schedule=Polynomial(epochs=2), multiple=multiple)]
    first, second = (fxcompress.compile(model, stack, example_inputs=x) for _ in range(2))
    for _ in range(2):
        first.controller.scheduler.epoch_step()
        first.controller.scheduler.step()
    second.load_checkpoint(first.checkpoint())
    for one in (first, second):
        one.controller.scheduler.epoch_step()
    assert first.controller["PruneFilters"].reached() == second.controller["PruneFilters"].reached() >= 0.2
    assert torch.equal(first(x), second(x))
    third = fxcompress.compile(model, stack, example_inputs=x)
    third.load_checkpoint(second.checkpoint())
    third.controller["PruneFilters"].set_level(0.1)
    assert third.controller["PruneFilters"].reached() >= 0.1
