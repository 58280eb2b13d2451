"""Accuracy-aware training: it stops when the score is good enough, and finds the highest level at which it is."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from levels import Level, Undecided, images, network

import fxcompress
from fxcompress import passes
from fxcompress.errors import InputError
from fxcompress.training import CompositeController, CompressionStage, Controller, adaptive_level, early_exit


class Staged(Controller):
    """Complete from epoch `complete` on."""

    def __init__(self, complete):
        super().__init__()
        self.complete = complete

    def compression_stage(self):
        done = self.scheduler.current_epoch >= self.complete
        return CompressionStage.FULLY_COMPRESSED if done else CompressionStage.UNCOMPRESSED


class Fake:
    """Stands for a compiled model: it learns by the epoch, and pays for its level."""

    def __init__(self, complete=0):
        self.controller = CompositeController({"Fake": Staged(complete)})
        self.learned, self.level = 0, 0.2
        self.restored = 0

    def set_level(self, level):
        self.level = level

    def train(self, epoch):
        self.controller.scheduler.epoch_step()
        self.learned += 1

    def checkpoint(self):
        return {"learned": self.learned, "level": self.level}

    def load_checkpoint(self, state):
        self.learned = state["learned"]
        self.restored += 1


def test_a_model_compiled_in_part_whose_passes_have_nothing_to_steer_is_fully_compressed():
    model = fxcompress.compile(Undecided(network()), [passes.Quantize(), passes.Calibrate()], data=[images()])
    assert early_exit(model, lambda model, epoch: None, lambda model: 1.0, baseline=1.0, max_drop=0, epochs=1).met


def search(threshold, **options):
    """The search on a model whose score falls by what its level is beyond `threshold`."""
    model, tried = Fake(), []

    def train(one, epoch):
        tried.append(one.level)
        one.train(epoch)

    result = adaptive_level(
        model, model, train, lambda one: min(0.0, threshold - one.level), baseline=0.0, max_drop=0.0, **options
    )
    return model, result, tried


@settings(max_examples=100)
@given(st.floats(0.0, 1.0), st.floats(0.02, 0.3), st.floats(0.01, 0.2))
def test_the_level_found_is_the_highest_that_is_tolerable(threshold, step, resolution):
    model, result, tried = search(threshold, step=step, resolution=resolution, epochs=1000, highest=1.0)
    assert result.met and result.best.level == model.level
    assert result.best.level <= threshold <= result.best.level + resolution + 1e-9
    assert len(result.trials) == len(tried) and result.state["level"] == model.level
    failed = [level for level in tried if level > threshold]
    assert sorted(set(failed), reverse=True) == list(dict.fromkeys(failed))  # never one that is known to fail, nor above it


def test_levels_go_up_in_steps_and_then_halve_the_gap():
    _, result, tried = search(0.46, patience=2)
    expected = [0.2, 0.3, 0.4, 0.5, 0.5, 0.45, 0.475, 0.475]
    assert tried == pytest.approx(expected)
    assert result.best.level == pytest.approx(0.45)
    assert [one.met for one in result.trials] == [True, True, True, False, False, True, False, False]
    assert [one.epochs for one in result.trials] == list(range(1, 9))
    table = str(result)
    assert "0.450" in table and table.count("too low") == 4 and table.count("best") == 1 and "tolerated from 0 on" in table


def test_levels_go_down_until_one_is_tolerable():
    _, result, tried = search(0.05, patience=1)
    assert tried == pytest.approx([0.2, 0.1, 0.0, 0.05, 0.075])
    assert result.best.level == pytest.approx(0.05)


def test_no_level_is_tried_above_the_highest():
    _, result, tried = search(2.0, highest=0.45)
    assert tried == pytest.approx([0.2, 0.3, 0.4, 0.45]) and result.best.level == 0.45


def test_what_is_learned_at_a_level_that_fails_is_given_up():
    model, result, tried = search(0.25, patience=3)
    assert result.best.level == pytest.approx(0.25) and model.learned == result.best.epochs - tried.count(pytest.approx(0.3))
    assert model.restored > 1


def test_learning_rates_fall_with_the_steps():
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    search(0.46, optimizer=optimizer, lr_reduction=0.5)
    assert optimizer.param_groups[0]["lr"] == 0.5**3  # at the gaps of 0.1, 0.05 and 0.025


def test_the_epochs_of_all_levels_are_limited():
    _, result, tried = search(0.46, patience=3, epochs=5)
    assert tried == pytest.approx([0.2, 0.3, 0.4, 0.5, 0.5]) and result.best.level == pytest.approx(0.4)


def test_where_no_level_is_tolerable_the_best_score_is_kept_and_said_so():
    model = Fake()
    result = adaptive_level(
        model, model, Fake.train, lambda one: 0.5 - one.level, baseline=1.0, max_relative_drop=0.1, patience=1
    )
    assert not result.met and result.best.level == model.level == 0.0
    assert all(not one.met for one in result.trials) and "0.9" in str(result)


def test_training_stops_at_the_first_score_that_is_tolerable():
    model = Fake()
    model.train(0)  # the schedule is complete
    result = early_exit(model, Fake.train, lambda one: one.learned / 10, baseline=0.6, max_drop=0.2, epochs=9)
    assert result.met and (result.best.epochs, result.best.score, model.learned) == (3, 0.4, 4)
    assert [one.met for one in result.trials] == [False, False, False, True]


def test_a_score_counts_once_compression_is_complete():
    model = Fake(complete=3)
    result = early_exit(model, Fake.train, lambda one: 0.9, baseline=1.0, max_relative_drop=0.1, epochs=9)
    assert result.met and result.best.epochs == 4  # the epochs 0 to 3
    unfinished = early_exit(Fake(complete=9), Fake.train, lambda one: 0.9, baseline=1.0, max_drop=0.1, epochs=3)
    assert not unfinished.met and unfinished.best is None
    assert str(unfinished).count("not fully compressed") == len(unfinished.trials) == 4


def test_the_best_state_is_kept_where_none_is_tolerable():
    model, scores = Fake(), iter([0.1, 0.3, math.nan, 0.2])
    result = early_exit(model, Fake.train, lambda one: next(scores), baseline=1.0, max_drop=0.1, epochs=3)
    assert not result.met and result.best.epochs == 0 + 1 == model.learned


def compiled():
    return fxcompress.compile(network(), [passes.PruneFilters(amount=0.25, multiple=1), Level()], example_inputs=images())


def test_a_compiled_model_is_left_in_its_best_state():
    model, original = compiled(), network().eval()
    controller, optimizer = model.controller["Level"], torch.optim.SGD(model.parameters(), lr=0.05)
    controller.set_level(0.1)
    states = {}

    def train(one, epoch):
        one.train()
        torch.nn.functional.mse_loss(one(images()), original(images())).backward()
        optimizer.step()
        optimizer.zero_grad()

    def validate(one):
        score = -float(torch.nn.functional.mse_loss(one.eval()(images()), original(images())))
        states[score] = copy.deepcopy(one.state_dict())
        return score

    result = adaptive_level(model, controller, train, validate, baseline=0.0, max_drop=0.02, epochs=30)
    assert result.met and result.best.level > 0.1 and controller.level == result.best.level
    best = states[result.best.score]
    assert all(torch.equal(value, best[name]) for name, value in model.state_dict().items())
    assert validate(model) == result.best.score


def test_a_model_whose_passes_have_no_schedule_is_complete():
    model = fxcompress.compile(network(), [passes.Quantize(), passes.Calibrate()], data=[images()])
    result = early_exit(model, Fake.train, lambda one: 1.0, baseline=1.0, max_drop=0.0, epochs=1)
    assert result.met and result.best.epochs == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "max_drop=, in its own units, or max_relative_drop=, and not both"),
        ({"max_drop": 0.1, "max_relative_drop": 0.1}, "and not both"),
        ({"max_drop": -0.1}, "max_drop of 0 or more, or None, got -0.1"),
        ({"max_drop": 0.1, "baseline": math.nan}, "baseline that is a finite number, got nan"),
        ({"max_drop": 0.1, "epochs": 0}, "epochs of 1 or more, got 0"),
        ({"max_drop": 0.1, "patience": 0}, "patience of 1 or more, got 0"),
        ({"max_drop": 0.1, "epochs": 1.5}, "epochs of 1 or more, got 1.5"),
        ({"max_drop": 0.1, "step": 0.0}, "step above 0 to 1, got 0.0"),
        ({"max_drop": 0.1, "resolution": 2}, "resolution above 0 to 1, got 2"),
        ({"max_drop": 0.1, "highest": -1}, "highest above 0 to 1, got -1"),
        ({"max_drop": 0.1, "lr_reduction": 0}, "lr_reduction above 0 to 1, got 0"),
    ],
)
def test_bad_options_are_explained(options, message):
    with pytest.raises(InputError, match=message):
        adaptive_level(Fake(), Fake(), Fake.train, lambda one: 1.0, **{"baseline": 1.0, **options})
    if options.keys() <= {"max_drop", "max_relative_drop", "baseline", "epochs"}:
        with pytest.raises(InputError, match=message):
            early_exit(Fake(), Fake.train, lambda one: 1.0, **{"baseline": 1.0, "epochs": 1, **options})


def test_a_controller_without_a_level_is_an_error_that_says_which_to_give():
    with pytest.raises(InputError, match=r"CompositeController has no set_level.*controller\['Sparsify'\]"):
        adaptive_level(Fake(), Fake().controller, Fake.train, lambda one: 1.0, baseline=1.0, max_drop=0.0)


def test_a_score_is_a_number():
    def validate(model):
        print("accuracy: 0.9")

    with pytest.raises(InputError, match="validate returned None; let it return a number"):
        early_exit(Fake(), Fake.train, validate, baseline=1.0, max_drop=0.0, epochs=1)
