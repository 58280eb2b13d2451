"""A training loop's hold on compression: one controller a pass, one scheduler over all."""

import copy
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from rich.table import Table

import fxcompress
from fxcompress import Effect, Pass, passes
from fxcompress.errors import InputError
from fxcompress.training import CompressionStage, Controller, Polynomial, Statistics


class Numbered(Controller):
    """A loss of `number`; complete from epoch `number` on."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def loss(self):
        return torch.tensor(float(self.number))

    def statistics(self):
        return Statistics((Table(f"number {self.number}"),))

    def compression_stage(self):
        done = self.scheduler.current_epoch >= self.number
        return CompressionStage.FULLY_COMPRESSED if done else CompressionStage.UNCOMPRESSED


@dataclass(frozen=True, kw_only=True)
class Number(Pass):
    number: int = 1
    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, graph_module, context):
        return []

    def controller(self, graph_module):
        return Numbered(self.number)


def compiled(*passes):
    return fxcompress.compile(torch.nn.Linear(2, 2), list(passes), example_inputs=torch.zeros(1, 2))


def test_a_model_that_no_pass_trains_has_an_empty_controller():
    controller = compiled().controller
    assert float(controller.loss()) == 0
    assert str(controller.statistics()) == ""
    assert controller.compression_stage() is CompressionStage.FULLY_COMPRESSED


def test_a_controller_is_that_of_all_passes():
    controller = compiled(Number(number=1), Number(number=2)).controller
    assert list(controller.children) == ["Number", "Number_2"]
    assert float(controller.loss()) == 3
    assert "number 2" in str(controller.statistics())
    stages = []
    for _ in range(3):
        controller.scheduler.epoch_step()
        controller.scheduler.step()
        stages.append(controller.compression_stage().name)
    assert stages == ["UNCOMPRESSED", "PARTIALLY_COMPRESSED", "FULLY_COMPRESSED"]
    assert (controller["Number_2"].scheduler.current_epoch, controller["Number"].scheduler.current_step) == (2, 2)


def test_a_model_keeps_its_controller_and_a_copy_has_its_own():
    model = compiled(Number())
    assert model.controller is model.controller
    assert copy.deepcopy(model).controller is not model.controller


def test_a_copy_goes_on_where_it_was_taken_and_neither_steps_the_other():
    stack = [passes.Sparsify(level=0.8, schedule=Polynomial(epochs=4, power=1))]
    model = fxcompress.compile(torch.nn.Linear(16, 16), stack, example_inputs=torch.zeros(1, 16))
    untouched = copy.deepcopy(model)
    for _ in range(3):
        model.controller.scheduler.epoch_step()
    twin = copy.deepcopy(copy.deepcopy(model))  # the one between them was never asked for its controller
    for one in (twin, model):
        for level in (0.4, 0.6):
            assert one.controller["Sparsify"].level == pytest.approx(level)
            assert one.controller["Sparsify"].reached() == pytest.approx(level, abs=0.01)
            one.controller.scheduler.epoch_step()
    assert untouched.controller.scheduler.current_epoch == -1 and untouched.controller["Sparsify"].reached() == 0


def test_a_schedule_goes_on_where_its_state_was_taken():
    before, after = compiled(Number()).controller.scheduler, compiled(Number()).controller.scheduler
    before.epoch_step()
    before.step()
    after.load_state_dict(before.state_dict())
    assert after.state_dict() == before.state_dict()
    after.epoch_step()
    assert after.children["Number"].current_epoch == 1


def test_the_state_of_other_schedulers_is_refused():
    state = compiled().controller.scheduler.state_dict()
    with pytest.raises(InputError, match=r"state is of \[\], this model has \['Number'\]; compile the model with the passes"):
        compiled(Number()).controller.scheduler.load_state_dict(state)


def test_an_unknown_controller_is_an_error_that_suggests_one():
    with pytest.raises(InputError, match=r"no controller 'Numbr'.*'Number'"):
        compiled(Number()).controller["Numbr"]
