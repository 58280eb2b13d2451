"""Schedules of the level, epoch by epoch against their closed formulas, and what steps through them."""

import functools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxcompress.errors import InputError
from fxcompress.passes import Sparsify
from fxcompress.training import (
    Adaptive,
    Baseline,
    CompressionStage,
    Exponential,
    ExponentialWithBias,
    LevelController,
    MultiStep,
    Polynomial,
)
from fxcompress.training.levels import check_schedule

INITIAL, TARGET, EPOCHS = 0.1, 0.6, 8


class Recorded(LevelController):
    """Remembers the levels it was given, and has reached what it is told."""

    def __init__(self, schedule, target=TARGET, **options):
        super().__init__(schedule, target, **options)
        self.applied, self.frozen, self.has = [], 0, 0.0

    def apply(self, level):
        self.applied.append(level)

    def reached(self):
        return self.has

    def freeze(self):
        self.frozen += 1


def epochs(controller, count=EPOCHS + 3):
    levels = []
    for _ in range(count):
        controller.scheduler.epoch_step()
        levels.append(controller.scheduler.level)
    return levels


FORMULAS = {
    "polynomial": (
        Polynomial(epochs=EPOCHS, initial=INITIAL),
        lambda e: TARGET - (TARGET - INITIAL) * (1 - min(e / EPOCHS, 1)) ** 0.9,
    ),
    "cubic": (
        Polynomial(epochs=EPOCHS, initial=INITIAL, power=3),
        lambda e: TARGET - (TARGET - INITIAL) * (1 - min(e / EPOCHS, 1)) ** 3,
    ),
    "convex": (
        Polynomial(epochs=EPOCHS, initial=INITIAL, concave=False),
        lambda e: INITIAL + (TARGET - INITIAL) * min(e / EPOCHS, 1) ** 0.9,
    ),
    "exponential": (
        Exponential(epochs=EPOCHS, initial=INITIAL),
        lambda e: 1 - (1 - INITIAL) * ((1 - TARGET) / (1 - INITIAL)) ** min(e / EPOCHS, 1),
    ),
    "exponential after a warmup": (
        Exponential(epochs=4, initial=INITIAL, warmup=2),
        lambda e: 1 - (1 - INITIAL) * ((1 - TARGET) / (1 - INITIAL)) ** min(max(e - 2, 0) / 4, 1),
    ),
    "multistep": (
        MultiStep(levels=(0.2, 0.4), epochs=(3, 6)),
        lambda e: 0.2 if e < 3 else 0.4 if e < 6 else TARGET,
    ),
    "baseline": (Baseline(warmup=3, initial=INITIAL), lambda e: INITIAL if e < 3 else TARGET),
}  # fmt: skip


@pytest.mark.parametrize("kind", FORMULAS)
def test_every_epoch_has_the_level_of_the_formula(kind):
    schedule, formula = FORMULAS[kind]
    assert epochs(Recorded(schedule)) == pytest.approx([formula(epoch) for epoch in range(EPOCHS + 3)], abs=1e-12)


@pytest.mark.parametrize("initial", [0.0, 0.1, 0.3])
def test_the_exponential_with_bias_passes_through_its_three_points(initial):
    """``a exp(-k e) + b`` with a and b as published, and k such that an eighth of the epochs gives three quarters."""
    schedule = ExponentialWithBias(epochs=EPOCHS, initial=initial)
    levels = [schedule.level(epoch, TARGET) for epoch in range(EPOCHS + 1)]
    assert levels[0] == pytest.approx(initial) and levels[-1] == TARGET
    assert levels[1] == pytest.approx(0.75 * TARGET, abs=1e-9)
    k = -math.log((levels[2] - levels[1]) / (levels[1] - levels[0]))  # differences of an exponential shrink by exp(-k)
    a = (TARGET - initial) / (math.exp(-k * EPOCHS) - 1)
    assert levels == pytest.approx([a * math.exp(-k * e) + initial - a for e in range(EPOCHS + 1)], abs=1e-9)


@pytest.mark.parametrize("schedule", [Polynomial, Exponential, functools.partial(Polynomial, concave=False, power=3)])
def test_the_initial_level_is_not_applied_again(schedule):
    """0.2 - (0.2 - 0.05) is less than 0.05, and 1 - (1 - 0.05) more."""
    controller = Recorded(schedule(epochs=4, initial=0.05, warmup=2), 0.2)
    assert epochs(controller, 3) == [0.05] * 3 and controller.applied == []


def test_steps_before_the_first_epoch_change_nothing():
    controller = Recorded(Polynomial(epochs=2, power=1, steps_per_epoch=4), 0.8)
    for _ in range(3):
        controller.scheduler.step()
    assert epochs(controller, 2) == pytest.approx([0, 0.4]) and len(controller.applied) == 1


@given(
    target=st.floats(0.05, 0.99),
    start=st.floats(0, 0.9),
    count=st.integers(1, 30),
    warmup=st.integers(0, 5),
    kind=st.sampled_from([Polynomial, Exponential, ExponentialWithBias]),
)
def test_ramps_rise_from_the_initial_level_to_the_target(target, start, count, warmup, kind):
    schedule = kind(epochs=count, warmup=warmup, initial=start * target * 0.7)
    levels = [schedule.level(epoch / 4, target) for epoch in range(4 * (count + warmup) + 2)]
    assert levels == sorted(levels) and all(schedule.initial <= level <= target for level in levels)
    assert all(level == schedule.initial for level in levels[: 4 * warmup + 1])
    assert levels[-2:] == [target, target] and schedule.level(count + warmup, target) == target


def test_per_step_the_level_moves_within_the_epoch():
    schedule = Polynomial(epochs=2, power=1, steps_per_epoch=4)
    controller, levels = Recorded(schedule, 0.8), []
    for _ in range(3):
        controller.scheduler.epoch_step()
        for _ in range(5):  # one more than was said: it waits for the next epoch
            controller.scheduler.step()
            levels.append(controller.scheduler.level)
    first = [0.0, 0.1, 0.2, 0.3, 0.4]
    assert levels == pytest.approx([*first, *(0.4 + level for level in first), *[0.8] * 5])
    assert len(controller.applied) == len(set(controller.applied)) == 8


def test_a_level_is_applied_when_it_changes_and_stays_otherwise():
    controller = Recorded(MultiStep(levels=(0.0, 0.3), epochs=(2, 4)))
    epochs(controller, 6)
    assert controller.applied == [0.3, TARGET]
    constant = Recorded(None)
    assert epochs(constant, 3) == [TARGET] * 3 and constant.applied == []


def test_a_level_by_hand_stays_until_the_schedule_moves():
    controller = Recorded(MultiStep(levels=(0.2,), epochs=(2,), initial=0.2))
    controller.scheduler.epoch_step()
    controller.set_level(0.5)
    assert epochs(controller, 2) == [0.5, TARGET]
    constant = Recorded(None)
    constant.set_level(0.9)
    assert epochs(constant, 2) == [0.9, 0.9]
    with pytest.raises(InputError, match=r"from 0 to below 1, not 1\.0"):
        constant.set_level(1.0)


def test_stages_follow_the_level():
    controller, stages = Recorded(MultiStep(levels=(0.0, 0.3), epochs=(1, 2))), []
    for _ in range(3):
        controller.scheduler.epoch_step()
        stages.append(controller.compression_stage())
    assert stages == [*CompressionStage]
    assert Recorded(None).compression_stage() is CompressionStage.FULLY_COMPRESSED


def test_adaptive_waits_for_the_model():
    controller = Recorded(Adaptive(initial=0.1, step=0.2, patience=2, tolerance=0.05), 0.45)
    seen = []
    for has in (0.0, 0.06, 0.06, 0.2, 0.26, 0.3, 0.44, 0.44, 0.45):
        controller.has = has
        seen += epochs(controller, 1)
    assert seen == pytest.approx([0.1, 0.1, 0.3, 0.3, 0.3, 0.45, 0.45, 0.45, 0.45])
    assert [Adaptive().level(epoch, 0.12) for epoch in range(4)] == pytest.approx([0.05, 0.1, 0.12, 0.12])


def test_frozen_nothing_changes_any_more():
    controller = Recorded(Polynomial(epochs=10, power=1), freeze_epoch=4)
    levels = epochs(controller, 6)
    assert levels[3:] == [levels[3]] * 3 and controller.frozen == 2 and controller.scheduler.is_frozen


@pytest.mark.parametrize("schedule", [Polynomial(epochs=4, steps_per_epoch=3), Adaptive(step=0.1, patience=2), None])
def test_a_schedule_goes_on_in_the_middle_of_an_epoch(schedule):
    def run(controller, count, start=0):
        levels = []
        for position in range(start, start + count):
            if position % 3 == 0:
                controller.scheduler.epoch_step()
            controller.scheduler.step()
            levels.append(controller.scheduler.level)
        return levels

    whole, before, after = Recorded(schedule), Recorded(schedule), Recorded(schedule)
    for one in (whole, before, after):
        one.has = 1.0
    expected = run(whole, 12)
    first = run(before, 7)
    after.scheduler.load_state_dict(before.scheduler.state_dict())
    assert first + run(after, 5, start=7) == expected


def test_schedules_print_what_was_said():
    assert repr(Polynomial(epochs=5, power=3)) == "Polynomial(epochs=5, power=3)"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Polynomial(epochs=0), "epochs of 1 or more"),
        (lambda: Exponential(epochs=3, warmup=-1), "warmup of 0 or more"),
        (lambda: Polynomial(epochs=3, initial=1.0), r"initial from 0 to below 1, got 1\.0"),
        (lambda: Polynomial(epochs=3, power=0), "power above 0"),
        (lambda: Polynomial(epochs=3, steps_per_epoch=0), "steps_per_epoch of 1 or more"),
        (lambda: MultiStep(levels=(0.1,), epochs=(1, 2)), "an epoch for each level"),
        (lambda: MultiStep(levels=(0.1, 0.2), epochs=(2, 2)), "rise"),
        (lambda: MultiStep(levels=(1.1,), epochs=(2,)), r"MultiStep needs levels .*from 0 to below 1, got \(1\.1,\)"),
        (lambda: Baseline(warmup=-1), "warmup of 0 or more"),
        (lambda: Adaptive(step=0.0), "step above 0 to below 1"),
        (lambda: Adaptive(patience=0), "patience of 1"),
        (lambda: Adaptive(steps_per_epoch=5), "once an epoch"),
        (lambda: check_schedule(Exponential(epochs=3, initial=0.6), 0.5), "starts at 0.6, above the 0.5"),
        (lambda: Sparsify(schedule="polynomial"), "a Schedule, of Adaptive, .*Polynomial.*, or None, got 'polynomial'"),
        (lambda: check_schedule(ExponentialWithBias(epochs=3, initial=0.4), 0.5), "below 5/7 of the target"),
    ],
)
def test_unusable_options(build, message):
    with pytest.raises(InputError, match=message):
        build()
