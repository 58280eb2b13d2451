"""Options: every pass, schedule, specification and function checks them in one way."""

import contextlib
import dataclasses
import inspect
import io
import math
from typing import Annotated, Literal

import numpy as np
import pytest
import torch
from annotated_types import Ge, Gt, Le, Lt
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from torch import nn

import fxcompress
from fxcompress import Pass, passes, training
from fxcompress.errors import FxCompressError, InputError
from fxcompress.options import Declared, check_arguments
from fxcompress.quantizers.spec import QuantizationSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wanted(Declared):
    count: Annotated[int, Ge(1)] = 1
    share: Annotated[float, Gt(0), Lt(1)] | None = None
    mode: Literal["fast", "slow"] = "fast"
    steps: tuple[Annotated[int, Ge(0), Le(9)], ...] = ()
    exact: bool = False

    def __post_init__(self):
        if self.exact and self.mode == "fast":
            raise InputError("exact needs mode='slow'")


@given(
    st.integers(1, 2**63 - 1), st.none() | st.floats(0.01, 0.99), st.sampled_from(["fast", "slow"]), st.lists(st.integers(0, 9))
)
def test_what_is_declared_is_taken(count, share, mode, steps):
    wanted = Wanted(count=count, share=share, mode=mode, steps=tuple(steps))
    assert (wanted.count, wanted.share, wanted.mode, wanted.steps) == (count, share, mode, tuple(steps))


REFUSED = [
    ({"count": 0}, "Wanted needs count of 1 or more, got 0"),
    ({"count": "3"}, "Wanted needs count of 1 or more, got '3'"),
    ({"count": True}, "Wanted needs count of 1 or more, got True"),
    ({"count": 1.5}, "count of 1 or more, got 1.5"),
    ({"count": None}, "count of 1 or more, got None"),
    ({"share": 0.0}, "share from above|share above 0 to below 1, or None, got 0.0"),
    ({"share": math.nan}, "share above 0 to below 1, or None, got nan"),
    ({"share": math.inf}, "got inf"),
    ({"mode": "quick"}, "mode that is 'fast' or 'slow', got 'quick'"),
    ({"mode": None}, "got None"),
    ({"steps": (1, 10)}, r"steps that is a list, each from 0 to 9, got \(1, 10\)"),
    ({"steps": 3}, r"got 3; write \[3\]"),
    ({"steps": "12"}, "got '12'"),
    ({"exact": 1}, "exact that is True or False, got 1"),
    ({"exact": True}, "exact needs mode='slow'"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_what_is_not_is_refused_with_what_is_allowed(options, message):
    with pytest.raises(InputError, match=message):
        Wanted(**options)


def test_a_number_that_no_float_holds_is_refused():
    with pytest.raises(InputError, match="share above 0 to below 1"):
        Wanted(share=-(10**400))
    for owner, name in OPTIONS:
        if not getattr(owner, "__abstractmethods__", None):
            with pytest.raises(InputError):
                owner(**{**NEEDED.get(owner.__name__, {}), name: 10**400})


def every(root):
    return [one for child in root.__subclasses__() for one in (child, *every(child))]


OPTIONS = sorted(
    {
        (owner, field.name)
        for owner in [*every(Pass), *every(training.levels.Schedule), QuantizationSpec]
        if owner.__module__.startswith("fxcompress") and dataclasses.is_dataclass(owner)
        for field in dataclasses.fields(owner)
        if field.init
    },
    key=lambda one: (one[0].__name__, one[1]),
)
NEEDED = {
    "PruneFilters": {"amount": 0.3},
    "Sparsify": {"level": 0.5},
    "ChooseBits": {"loss": len},
    "RestorePrecision": {"max_layers": 1},
}
RAMP = {name: {"epochs": 2} for name in ("Polynomial", "Exponential", "ExponentialWithBias", "_Ramp")}
NEEDED |= RAMP | {"MultiStep": {"levels": (0.1,), "epochs": (1,)}}


class Nonsense:
    pass


@pytest.mark.parametrize(
    "value", [math.nan, Nonsense(), [Nonsense()], object, "\0"], ids=["nan", "object", "list", "class", "text"]
)
@pytest.mark.parametrize(("owner", "name"), OPTIONS, ids=[f"{owner.__name__}.{name}" for owner, name in OPTIONS])
def test_no_option_takes_nonsense(owner, name, value):
    if getattr(owner, "__abstractmethods__", None):
        return
    options = {**NEEDED.get(owner.__name__, {}), name: value}
    if callable(value) and name in ("metric", "loss"):
        return  # a class can be called
    with pytest.raises(InputError):
        owner(**options)


@check_arguments("count")
def repeat(text: str, count: Annotated[int, Ge(1)] = 1) -> str:
    return text * count


def test_a_class_of_ones_own_keeps_the_checks_of_its_base():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Mine(Wanted):
        width: Annotated[int, Ge(1)] = 1

    with pytest.raises(InputError, match="exact needs mode='slow'"):
        Mine(exact=True, mode="fast")
    with pytest.raises(InputError, match="Mine needs width"):
        Mine(width=0)


def test_functions_check_theirs():
    assert repeat("a", 2) == "aa"
    with pytest.raises(InputError, match="repeat needs count of 1 or more, got 0"):
        repeat("a", 0)


@pytest.mark.parametrize("options", [{"verify": "no"}, {"progress": 3}, {"dump": 3}, {"verify": None}, {"progress": "yes"}])
def test_compile_checks_its_own(options):
    with pytest.raises(InputError, match=f"compile needs {next(iter(options))} that is"):
        fxcompress.compile(nn.Linear(4, 3), [], data=[torch.randn(2, 4)], **options)


def test_progress_on_the_terminal(monkeypatch):
    """A line for what is going on, of this terminal; nothing where there is none."""
    told = {kind: io.StringIO() for kind in (True, False)}
    for kind, file in told.items():
        monkeypatch.setattr("fxcompress.compiler.Console", lambda stderr: Console(file=file, force_terminal=kind))  # noqa: B023
        stack = [passes.Quantize(), passes.Calibrate()]
        fxcompress.compile(nn.Linear(4, 3), stack, data=[torch.randn(2, 4)], progress=True)
    assert "calibrating" in told[True].getvalue() and not told[False].getvalue()


def test_missing_data_is_known_before_the_model_is_traced():
    class Untraceable(nn.Module):
        def forward(self, x):
            raise AssertionError("it was run")

    with pytest.raises(InputError, match="needs data"):
        fxcompress.compile(Untraceable(), example_inputs=torch.randn(2, 4))


class WatchedData(list):
    """Batches that note which passes read them."""

    def __iter__(self):
        self.readers = getattr(self, "readers", set())
        self.readers |= {one.name for frame in inspect.stack() if isinstance(one := frame.frame.f_locals.get("self"), Pass)}
        return super().__iter__()


READERS = [
    [passes.SplitChannels(channels=2), passes.SmoothActivations(), passes.Quantize(), passes.RoundWeights()],
    [passes.EqualizeLayers(), passes.Quantize(), passes.Calibrate(), passes.LearnRounding(iterations=1), passes.CorrectBias()],
    [passes.Binarize(), passes.Quantize(), passes.Calibrate(), passes.RestorePrecision(min_decibels=1.0), passes.Distill()],
    [passes.PruneFilters(), passes.Sparsify(), passes.LearnSparsity(), passes.RemoveFilters(), passes.FoldMasks()],
    [passes.Quantize(), passes.ChooseBits(loss=lambda model, batch: model(batch).square().sum()), passes.Calibrate()],
]


@pytest.mark.parametrize("chosen", READERS, ids=lambda chosen: type(chosen[0]).__name__)
def test_every_pass_that_needs_data_says_so_before_any_work(chosen):
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.LayerNorm(128), nn.Linear(128, 16), nn.ReLU()
    network = nn.Sequential(*layers, nn.Linear(16, 4))
    data = WatchedData([torch.randn(8, 3, 8, 8)])
    fxcompress.compile(network, chosen, data=data)
    for one in chosen:
        if one.name in data.readers and not one.reads_data:  # then it does without as well
            fxcompress.compile(network, [one], example_inputs=(data[0],))


def test_a_pass_that_returns_nothing_is_named():
    class Forgetful(Pass):
        effect = fxcompress.Effect.EXACT

        def run(self, graph_module, context):
            pass

    with pytest.raises(fxcompress.errors.PassError, match=r"Forgetful\.run returned None, not a list"):
        fxcompress.compile(nn.Linear(4, 3), [Forgetful()], data=[torch.randn(2, 4)])


WRONG = [None, "x", math.nan, math.inf, -1, [], {}, object(), True, b"x", (1, 2), print, torch.tensor(1.0)]
WRONG += [10**400, "\ud800", "a\0b", np.ones(2), torch.ones(2), torch.ones(1, device="meta"), [["x"]], [None], {1: 1}, ..., int]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: ascii(wrong)[:12])
def test_what_a_user_calls_says_what_is_wrong_itself(wrong, tmp_path, monkeypatch):
    """Each either takes the value or raises an error of this package."""
    monkeypatch.chdir(tmp_path)
    model, x = nn.Sequential(nn.Linear(4, 4)), torch.randn(2, 4)
    stack = [passes.Sparsify(schedule=fxcompress.training.Polynomial(epochs=2))]
    compiled = fxcompress.compile(model, stack, data=[x])
    controller, checkpoint = compiled.controller, compiled.checkpoint()
    calls = [
        lambda: fxcompress.compile(model, [], example_inputs=x, submodules=wrong),
        lambda: fxcompress.compile(model, [], example_inputs=x, target=wrong),
        lambda: passes.Quantize(ignored=wrong),
        lambda: controller[wrong],
        lambda: controller["Sparsify"].set_level(wrong),
        lambda: controller["Sparsify"].set_level({"_0": wrong}),
        lambda: controller.scheduler.epoch_step(wrong),
        lambda: controller.scheduler.step(wrong),
        lambda: compiled.to_onnx(tmp_path / "m.onnx", input_names=wrong, verify=False),
        lambda: compiled.to_onnx(tmp_path / "m.onnx", output_names=wrong, verify=False),
        lambda: compiled.to_onnx(tmp_path / "m.onnx", opset=wrong, verify=False),
        lambda: compiled.to_onnx(tmp_path / "m.onnx", batch_size=wrong, verify=False),
        lambda: compiled.to_onnx(tmp_path / "m.onnx", verify=wrong),
        lambda: compiled.to_onnx(wrong, verify=False),
        lambda: compiled.dump(wrong),
        lambda: compiled.lower(binary_convolutions=wrong),
        lambda: compiled.load_checkpoint(wrong),
        *(lambda key=key: compiled.load_checkpoint({**checkpoint, key: wrong}) for key in checkpoint),
        lambda: compiled.load_checkpoint({**checkpoint, "computes": dict.fromkeys(checkpoint["computes"], wrong)}),
        lambda: compiled.load_checkpoint({**checkpoint, "model": dict.fromkeys(checkpoint["model"], wrong)}),
        lambda: compiled.load_checkpoint({**checkpoint, "scheduler": dict.fromkeys(checkpoint["scheduler"], wrong)}),
    ]
    for call in calls:
        with contextlib.suppress(fxcompress.errors.FxCompressError):
            call()


@pytest.mark.parametrize("wrong", ["no", 1, 0.0, []], ids=repr)
def test_a_flag_is_true_or_false(wrong, tmp_path):
    compiled = fxcompress.compile(nn.Linear(4, 4), fxcompress.defaults.training(), data=[torch.randn(2, 4)])
    for flag in ("weights", "activations"):
        with pytest.raises(InputError, match=f"{flag} that is True or False, or None, got"):
            compiled.controller["TrainQuantizers"].switch(**{flag: wrong})
    assert compiled.controller.compression_stage().value == "fully compressed"
    with pytest.raises(InputError, match="stateful that is True or False, got"):
        compiled.to_openvino(tmp_path / "m.xml", stateful=wrong)


def nothing(*args):
    return 0.5


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: ascii(wrong)[:12])
def test_what_trains_and_measures_says_what_is_wrong_itself(wrong):
    """Every parameter of the functions around a training loop, by itself."""
    model, x = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4)), torch.randn(8, 4)
    prune = passes.PruneFilters(ranking="global", multiple=1, schedule=fxcompress.training.Polynomial(epochs=2))
    compiled = fxcompress.compile(model, [prune], data=[x])
    scheduler, loop = compiled.controller.scheduler, {"model": compiled, "train_epoch": nothing, "validate": nothing}
    training, level = fxcompress.training, {"controller": compiled.controller["PruneFilters"], "patience": 1}
    tried = [
        (training.adapt_batch_norm, {"compiled": compiled, "data": [x], "samples": 4}),
        (training.freeze_batch_norm, {"compiled": compiled, "scopes": ("",), "frozen": True}),
        (training.early_exit, {**loop, "baseline": 1.0, "max_drop": 0.1, "epochs": 1}),
        (training.early_exit, {**loop, "baseline": 1.0, "max_relative_drop": 0.1, "epochs": 1}),
        (training.adaptive_level, {**loop, **level, "baseline": 1.0, "max_drop": 0.1, "epochs": 1, "step": 0.1}),
        (training.adaptive_level, {**loop, **level, "baseline": 1.0, "max_drop": 0.1, "resolution": 0.1, "epochs": 1}),
        (
            training.learn_ranking,
            {"model": compiled, "tune_and_score": nothing, "generations": 1, "population": 1, "sigma": 1.0},
        ),
        (fxcompress.parameter_groups, {"model": compiled, "groups": None, "lr": 0.1, "weight_decay": 0.0, "multiplier": 1.0}),
        (fxcompress.decoding_inputs, {"model": model, "inputs": {"input_ids": torch.ones(1, 4).long()}, "past": 9}),
        (fxcompress.AllRanks, {"data": [x]}),
        (fxcompress.Config.load, {"path": "none.yaml"}),
        (fxcompress.Config.parse, {"text": "passes: []"}),
        (lambda names: compiled.without(names), {"names": "input"}),
        (scheduler.load_state_dict, {"state": scheduler.state_dict()}),
    ]
    for function, options in tried:
        for name in options:
            if name not in ("tune_and_score", "train_epoch", "validate") or not callable(wrong):
                with contextlib.suppress(fxcompress.errors.FxCompressError):
                    function(**{**options, name: wrong})


class Unprintable:
    def __repr__(self):
        raise RuntimeError


@pytest.mark.parametrize(
    "value", [torch.randn(4, 3, 8, 8), [[0.5]] * 100, Unprintable()], ids=["tensor", "list", "unprintable"]
)
def test_errors_do_not_print_whole_arguments(value, tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    compiled = fxcompress.compile(model, [passes.Sparsify(level=0.5)], example_inputs=torch.randn(2, 3, 8, 8))
    controller = compiled.controller
    calls = [
        lambda: fxcompress.compile(model, [value], example_inputs=torch.randn(2, 3, 8, 8)),
        lambda: passes.Sparsify(level=value),
        lambda: passes.Quantize(ignored=value),
        lambda: compiled.without(value),
        lambda: controller[value],
        lambda: controller["Sparsify"].set_level({"0": value}),
        *(
            lambda name=name: compiled.to_onnx(tmp_path / "m.onnx", **{name: value})
            for name in ("batch_size", "opset", "verify")
        ),
    ]
    for call in calls:
        with pytest.raises(FxCompressError) as raised:
            call()
        assert len(str(raised.value)) < 400


@pytest.mark.parametrize("data", [np.array(1.0), torch.jit.script(nn.ReLU())], ids=["array", "module"])
def test_what_cannot_be_iterated_is_no_data(data):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    compiled = fxcompress.compile(model, [], example_inputs=torch.randn(2, 3, 8, 8))
    for call in (
        lambda: fxcompress.compile(model, data=data),
        lambda: fxcompress.AllRanks(data),
        lambda: fxcompress.training.adapt_batch_norm(compiled, data),
    ):
        with pytest.raises(InputError, match="not an iterable of batches|needs data that is a list, got"):
            call()
