"""Random programs: the same seed gives the same script, a finding shrinks to what it takes, a dead worker is a finding."""

from dataclasses import replace

import pytest
import torch

from benchmarks import operation_sweep
from benchmarks.random_stacks import trial
from benchmarks.random_stacks.generation import random_program
from benchmarks.random_stacks.operations import OPERATIONS
from benchmarks.random_stacks.program import Program, Step, UnfitError, script, used
from benchmarks.random_stacks.shrinking import shrunk
from benchmarks.random_stacks.worker import Worker
from fxcompress.emit.translation import TRANSLATIONS
from fxcompress.ir.dialect import resolve

LINEAR = {"out": 8, "bias": True}
SMALL = Program(
    inputs=(((6,), False), ((4,), False)),
    steps=(
        Step("linear", (0,), LINEAR),
        Step("relu", (2,), {}),
        Step("linear", (3,), LINEAR),
        Step("linear", (4,), LINEAR, shared=2),
        Step("sigmoid", (1,), {}),
    ),
    outputs=(5, 6),
    stack=("passes.FoldBatchNorm()", "passes.Quantize(exact_sums=True, weight_estimator='mse')", "passes.Calibrate(chunk=1)"),
)


@pytest.mark.parametrize("seed", range(6))
def test_a_seed_is_a_program_that_runs(seed):
    program = used(random_program(seed))
    assert program == used(random_program(seed)) == Program.of(program.dictionary())
    network = script(program).partition("compiled = ")[0]
    scope = {}
    exec(network, scope)
    outputs = scope["model"](*scope["given"](3))
    assert all(len(output) == 3 for output in torch.utils._pytree.tree_leaves(outputs))


def test_an_operation_left_out_is_in_no_program():
    programs = [random_program(seed, 12, frozenset({"linear"})) for seed in range(5)]
    assert all(step.operation != "linear" for program in programs for step in program.steps)


def test_values_that_lose_the_batch_are_no_program():
    with pytest.raises(UnfitError):
        script(replace(SMALL, steps=(*SMALL.steps, Step("conv2d", (0,), {})), outputs=(7,)))


def test_shrinking_leaves_what_it_takes():
    asked = []

    def fails(program):
        asked.append(program)
        names = [step.operation for step in program.steps]
        return "relu" in names and any("Quantize" in one for one in program.stack or ())

    smallest = shrunk(SMALL, fails)
    assert [step.operation for step in smallest.steps] == ["relu"]
    assert smallest.stack == ("passes.Quantize()",)
    assert smallest.inputs == (((1,), False),)
    assert not any(one == other for i, one in enumerate(asked) for other in asked[:i])


def test_a_shared_layer_outlives_its_first_call():
    def fails(program):
        return bool(program.steps) and program.steps[-1].operation == "linear"

    (step,) = shrunk(replace(SMALL, outputs=(5,)), fails).steps
    assert step.shared is None


def test_a_sound_program_trains_and_agrees_in_both_runtimes(tmp_path):
    stack = ("passes.Quantize()", "passes.Calibrate()", "passes.TrainQuantizers()")
    assert trial.tried(replace(SMALL, stack=stack, train=True), tmp_path) is None


def test_a_wrong_translation_is_a_finding(tmp_path, monkeypatch):
    monkeypatch.setitem(TRANSLATIONS, resolve("sigmoid"), lambda emit, x: emit.Tanh(x))
    finding = trial.tried(SMALL, tmp_path)
    assert finding.kind == "onnxruntime (openvino) differs" and "output 1" in finding.detail
    monkeypatch.setitem(TRANSLATIONS, resolve("sigmoid"), lambda emit, x: emit.NoSuchOperator(x))
    assert "does not load" in trial.tried(SMALL, tmp_path).kind


def deadly(program, folder):
    import os

    os._exit(3)


def test_a_worker_that_dies_is_a_finding_and_the_next_one_works():
    with Worker(task="tests.test_random_stacks:deadly") as worker:
        assert worker.tried(SMALL).kind == "kills the process (3)"
        assert worker.asked(SMALL) == "kills the process (3)"


def test_the_sweep_has_every_operation_somewhere_and_says_what_came_out(tmp_path):
    rows = {"relu 4 between": {"openvino": "133", "onnxruntime": "same"}}
    rows["relu 4 behind"] = {"openvino": "12", "onnxruntime": "same"}
    rows["amax 4 before"] = {"openvino": "differs: batch 1", "onnxruntime": "147"}
    text = operation_sweep.table(rows, {"cpu": "a CPU", "cores": 2, "flags": [], "python": "3", "packages": {}})
    assert "| `relu` | 4 | 12 dB | same |" in text
    assert "| `amax` | 4 | 4 before: differs: batch 1 | 147 dB |" in text
    assert "1 of 6 files went wrong" in text
    (case, *_) = operation_sweep.cases(["amax"], ("before",))
    assert set(operation_sweep.measured(case.program, tmp_path)) == set(operation_sweep.RUNTIMES)
    few = list(OPERATIONS)[::12]
    assert {case.operation for case in operation_sweep.cases(few)} == set(few)
