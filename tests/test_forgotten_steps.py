"""A schedule that a training loop never stepped: the file says so, and nothing else does."""

import copy
import warnings

import pytest
import torch
from torch import nn

import fxcompress
from fxcompress import passes
from fxcompress.errors import ScheduleWarning
from fxcompress.training import Adaptive, Baseline, Polynomial

X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
SCHEDULED = {
    "filters": [passes.PruneFilters(amount=0.5, multiple=1, schedule=Polynomial(epochs=2))],
    "multiply-adds": [passes.PruneFilters(flops=0.3, multiple=1, schedule=Polynomial(epochs=2, steps_per_epoch=5))],
    "weights": [passes.Sparsify(level=0.5, schedule=Baseline(initial=0.2))],
    "adaptive": [passes.Sparsify(level=0.5, schedule=Adaptive())],
    "learned": [passes.LearnSparsity(level=0.5)],
    "stages": [*fxcompress.defaults.training()[:-1], passes.TrainQuantizers(weights_start_epoch=1, activations_start_epoch=2)],
    "binary": [passes.Binarize(activations_start_epoch=1, weights_start_epoch=2)],
}


def compiled(scheduled):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 4))
    return fxcompress.compile(network, scheduled, data=[X])


def warned(model, path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.to_onnx(path, verify=False)
    return [str(one.message) for one in caught if issubclass(one.category, ScheduleWarning)]


@pytest.mark.parametrize("kind", SCHEDULED)
def test_a_schedule_that_never_moved_is_warned_of_with_what_to_do(kind, tmp_path):
    model = compiled(SCHEDULED[kind])
    for _ in range(3):  # optimizer steps alone begin no epoch
        model.controller.scheduler.step()
    (message,) = warned(model, tmp_path / "m.onnx")
    assert type(SCHEDULED[kind][-1]).__name__ in message and "epoch_step()" in message


@pytest.mark.parametrize("kind", SCHEDULED)
def test_one_that_moved_or_has_nowhere_to_go_is_not(kind, tmp_path):
    model = compiled(SCHEDULED[kind])
    model.controller.scheduler.epoch_step()
    assert warned(model, tmp_path / "m.onnx") == []


@pytest.mark.parametrize("kind", ["filters", "weights"])
@pytest.mark.parametrize("use_buffers", [True, False])
def test_masks_that_an_average_of_buffers_has_lost_are_warned_of(kind, use_buffers, tmp_path):
    """As torchvision's references average: a truth value that was true once, stays so."""
    model = compiled(SCHEDULED[kind])
    average = torch.optim.swa_utils.get_ema_avg_fn(0.9)
    averaged = torch.optim.swa_utils.AveragedModel(nn.Sequential(model), avg_fn=average, use_buffers=use_buffers)
    averaged.update_parameters(nn.Sequential(model))
    for _ in range(3):
        model.controller.scheduler.epoch_step()
        averaged.update_parameters(nn.Sequential(model))
    model.load_state_dict(averaged.module[0].state_dict())
    messages = warned(model, tmp_path / "m.onnx")
    assert len(messages) == use_buffers and all("its masks have" in one and "use_buffers=False" in one for one in messages)


@pytest.mark.parametrize(
    "at_once", [[passes.PruneFilters()], [passes.Sparsify(schedule=Polynomial(epochs=2, initial=0.5))], None], ids=str
)
def test_what_is_there_from_the_start_waits_for_no_epoch(at_once, tmp_path):
    assert warned(compiled(at_once), tmp_path / "m.onnx") == []


def test_a_level_set_by_hand_needs_no_epoch(tmp_path):
    model = compiled(SCHEDULED["weights"])
    model.controller["Sparsify"].set_level(0.4)
    assert warned(model, tmp_path / "m.onnx") == []


@pytest.mark.parametrize("kind", ["filters", "weights", "stages", "binary"])
def test_a_copy_and_a_model_that_was_given_the_state_have_what_training_gave(kind, tmp_path):
    model, other = compiled(SCHEDULED[kind]), compiled(SCHEDULED[kind])
    for _ in range(4):
        model.controller.scheduler.epoch_step()
    other.load_checkpoint(model.checkpoint())
    assert warned(copy.deepcopy(model), tmp_path / "copy.onnx") == []
    assert warned(other, tmp_path / "other.onnx") == []


def test_the_ir_and_a_model_compressed_in_place_say_it_too(tmp_path):
    made = fxcompress.compress(nn.Sequential(nn.Linear(8, 8)), [passes.Sparsify(schedule=Polynomial(epochs=2))], data=[X])
    with pytest.warns(ScheduleWarning, match=r"0\.0%, not 50\.0%"):
        made.to_openvino(tmp_path / "m.xml", verify=False)
