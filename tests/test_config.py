"""Configurations: passes in files, read and written as their classes declare them."""

import contextlib
import dataclasses
import enum
import importlib
import json
import os
import subprocess
import sys
from typing import Annotated, ClassVar, Literal, Union, get_args, get_origin

import jsonschema
import numpy as np
import pytest
import torch
from annotated_types import Ge, Gt, Le, Lt, MinLen
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import fxcompress
from fxcompress import Config, Effect, Pass, cli, defaults, passes
from fxcompress.config.kinds import is_options, known
from fxcompress.config.schema import schema
from fxcompress.documents import parse_document
from fxcompress.errors import ConfigError, FxCompressError, InputError
from fxcompress.options.declared import declarations
from fxcompress.options.kinds import OneOf
from fxcompress.training.levels import Polynomial

SCHEMA = jsonschema.Draft202012Validator(schema())


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 4))


def data():
    return [torch.rand(4, 3, 8, 8)]


# ------------------------------------------------------------------------------------------- the round trip


def values(declared):
    """A strategy for what is declared as `declared`, by the declaration alone."""
    origin, parts = get_origin(declared), get_args(declared)
    if origin is Annotated:
        names = [name for one in parts[1:] if isinstance(one, OneOf) for name in one.names]
        if names:
            return st.sampled_from(names)
        limits = {type(one): getattr(one, dataclasses.fields(one)[0].name) for one in parts[1:]}
        if MinLen in limits:
            return values(parts[0]).filter(lambda items: len(items) >= limits[MinLen])
        if parts[0] is int:
            return st.integers(limits.get(Ge, -9), limits.get(Le, 9))
        low, high = limits.get(Ge, limits.get(Gt)), limits.get(Le, limits.get(Lt))
        return st.floats(low, high, exclude_min=Gt in limits, exclude_max=Lt in limits, allow_nan=False, allow_infinity=False)
    if origin in (Union, type(int | None)):
        return st.one_of(*(values(part) for part in parts if part is not fxcompress.pattern.Pattern))
    if origin is Literal:
        return st.sampled_from(parts)
    if declared in (None, type(None)):
        return st.none()
    if declared in (int, float, bool, str):
        return {
            int: st.integers(-9, 9),
            float: st.floats(allow_nan=False, allow_infinity=False),
            bool: st.booleans(),
            str: st.text("ab/{}[]|: #'\"\\é1.-\n\t", max_size=8),
        }[declared]
    if origin is tuple and parts[1:] != (...,):
        return st.tuples(*map(values, parts))
    if isinstance(origin, type) and issubclass(origin, dict | importlib.import_module("collections.abc").Mapping):
        return st.dictionaries(values(str), values(parts[1]), max_size=2)
    if origin is not None and isinstance(origin, type) and hasattr(origin, "__iter__"):
        return st.lists(values(parts[0]), max_size=3).map(tuple)
    if is_options(declared):
        return st.one_of([objects(one) for one in known(declared).values()])
    return st.none()  # a function


def objects(one):
    """A strategy for objects of the class `one` that its own checks take."""
    options = {name: values(declared) for name, declared in declarations(one).items()}

    def make(given):
        try:
            return one(**given)
        except FxCompressError:
            return None

    needed = {name: options.pop(name) for name in [f.name for f in dataclasses.fields(one) if f.init and _needed(f)]}
    return st.fixed_dictionaries(needed, optional=options).map(make).filter(lambda made: made is not None)


def _needed(field):
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


@pytest.mark.parametrize("one", known(Pass).values(), ids=lambda one: one.__name__)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_every_pass_makes_the_round_trip_through_every_format(one, data):
    made = data.draw(objects(one))
    config = Config(passes=[made])
    for suffix in (".yaml", ".json", ".toml"):
        try:
            text = config.text(suffix)
        except ConfigError as problem:
            assert suffix == ".toml" and "no null" in str(problem)
            continue
        read = Config.parse(text, suffix)
        assert read == config, suffix
        assert read.text(suffix) == text
    written = json.loads(config.text(".json"))
    assert [error.message for error in SCHEMA.iter_errors(written)] == []


class Method(enum.StrEnum):
    MIN_MAX = "min_max"


class Size(enum.IntEnum):
    SMALL = 4


@pytest.mark.parametrize("suffix", [".yaml", ".json", ".toml"])
def test_enumerations_are_written_as_what_they_are_equal_to(suffix):
    calibrate = passes.Calibrate(estimator=Method.MIN_MAX, samples=Size.SMALL)
    assert type(calibrate.estimator) is str and type(calibrate.samples) is int
    config = Config(passes=[calibrate], extra={"method": Method.MIN_MAX, "size": Size.SMALL, "share": np.float64(0.5)})
    assert Config.parse(config.text(suffix), suffix) == config


def test_what_is_shown_as_python_makes_equal_passes():
    config = Config.parse(FULL)
    public = {name: getattr(fxcompress, name) for name in fxcompress.__all__}
    names = {**vars(fxcompress.training), **public, "passes": passes}
    scope = {}
    exec(config.python(), names, scope)
    assert tuple(scope["passes"]) == config.passes


FULL = """
target: onnxruntime
passes:
  - PruneFilters: {amount: 0.3, criterion: geometric_median, schedule: {Polynomial: {epochs: 10}}}
  - defaults.training
  - Quantize: {weights: {bits: 4, group_size: 32}, activations: null, overrides: {"op:linear": {weights: {bits: 8}}}}
  - Distill: {loss: softmax, temperature: 4}
"""


def test_a_file_is_its_passes(tmp_path):
    (tmp_path / "a.yaml").write_text(FULL)
    config = Config.load(tmp_path / "a.yaml")
    assert config.target == "onnxruntime"
    assert config.passes[0] == passes.PruneFilters(amount=0.3, criterion="geometric_median", schedule=Polynomial(epochs=10))
    assert list(config.passes[1:5]) == defaults.training()
    assert config.passes[-1] == passes.Distill(loss="softmax", temperature=4.0)
    for suffix in (".yaml", ".yml", ".json"):
        assert Config.load(config.dump(tmp_path / f"b{suffix}")) == config
    assert [error.message for error in SCHEMA.iter_errors(parse_document(FULL).value)] == []


def test_toml_is_read_and_written(tmp_path):
    text = 'target = "onnxruntime"\n[[passes]]\n[passes.Quantize]\nignored = ["0"]\n[passes.Quantize.weights]\nbits = 4\n'
    config = Config.parse(text, ".toml")
    assert config.passes == (passes.Quantize(ignored=["0"], weights=fxcompress.QuantizationSpec(bits=4)),)
    assert Config.load(config.dump(tmp_path / "a.toml")) == config
    with pytest.raises(ConfigError, match="no null"):
        Config(passes=[passes.LearnSparsity(schedule=None)]).text(".toml")


def test_equal_options_are_equal_however_they_are_listed():
    listed = [passes.Quantize(ignored=given) for given in (["a", "b"], ("a", "b"), {"b", "a"}, iter(["a", "b"]))]
    assert len(set(map(repr, listed))) == 1 and all(one == listed[0] for one in listed)
    import numpy

    level = passes.Sparsify(level=numpy.float64(0.5)).level
    assert type(level) is float and type(passes.Calibrate(samples=numpy.int64(3)).samples) is int


# ----------------------------------------------------------------------------------------------- what is refused

BAD = {
    "passes: [Quantise]": r"a.yaml:1: passes\[0\]: there is no Pass 'Quantise' \(did you mean 'Quantize'",
    "passes:\n- Quantize:\n    weight:\n      bits: 4": r"a.yaml:3: passes\[0\].Quantize.weight: .*did you mean 'weights'",
    "passes:\n- Quantize:\n    weights:\n      bits: 9": r"a.yaml:4: passes\[0\].Quantize.weights.bits: .* from 2 to 8, got 9",
    "passes:\n- Quantize: {per_channel: 'yes'}": r"a.yaml:2: passes\[0\].Quantize.per_channel: .*True or False, got 'yes'",
    "passes:\n- Quantize: {ignored: fc}": r"ignored: .*, got 'fc'; write \['fc'\]",
    "passes:\n- Sparsify: {schedule: {Polynomal: {epochs: 3}}}": "no Schedule 'Polynomal' .*'Polynomial'",
    "passes:\n- Sparsify: {schedule: Polynomial}": r"schedule: Polynomial needs epochs",
    "passes:\n- Sparsify: {pattern: '2:4', level: 0.3}": r"a.yaml:2: passes\[0\].Sparsify: a pattern says how many",
    "passes:\n- Sparsify:\n  level: 3": "'level' stands beside Sparsify, not below it",
    "passes: [{Calibrate: {estimator: percentil}}]": "there is no Estimator 'percentil'",
    "passes: [3]": r"passes\[0\]: needs a value that is a Pass, got 3",
    "passes: [{ChooseBits: {loss: len}}]": "a function cannot stand in a file",
    "passes: []\ntarget: openvin": r"a.yaml:2: target: .*'openvino' or 'onnxruntime', got 'openvin' \(did you mean",
    "passes: []\ntargets: openvino": r"a.yaml:2: targets: there is no key 'targets' \(did you mean 'target'",
    "target: openvino": "it needs the key 'passes'",
    "": "a configuration is a mapping",
    "[]": "a configuration is a mapping",
    "passes: defaults.trainin": "there is no 'defaults.trainin' .*'defaults.training'",
    "passes: [os:system]": "reading it would run its code",
    "passes: [{PruneFilters: {ranking: {coefficients: {a: [1, 2, 3]}}}}]": r"coefficients.a: it has 2 items, not 3",
    "passes: [{Quantize: {weights: {bits: 8, channel_axis: x}}}]": "channel_axis: .* whole number, or None",
    # not well formed, or more than a configuration is
    "passes: [Quantize": "a.yaml:1: .*expected ',' or ']'",
    "passes:\n- Quantize\n\t- x": "a.yaml:3: ",
    "passes: []\npasses: []": "a.yaml:2: the key 'passes' stands twice, first on line 1",
    "a: 1\n---\nb: 2": "another document",
    "passes: !!python/object/apply:os.system ['touch run']": "no tags",
    "passes: !!python/name:os.system": "no tags",
    "passes: !mine [1]": "no tags",
    "!!python/object/new:os.system [x]": "no tags",
    "passes: []\nextra: {<<: {a: 1}}": "keys are not merged",
    "passes: []\nextra: {[1, 2]: 3}": "a key is a text",
    "passes: &a [*a]": "nested more than",
    "passes: " + "[" * 500 + "]" * 500: "nested",
    "passes: \x00": "a.yaml:1: ",
    "passes: []\nnotes: [mine]": r"a.yaml:2: notes: there is no key",
    "a: &a [1,1,1,1,1,1,1,1,1]\n"
    + "".join(f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi")): "aliases",
}


@pytest.mark.parametrize("text", BAD, ids=range(len(BAD)))
def test_bad_files_are_refused_with_file_line_and_key(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match=BAD[text]) as problem:
        Config.load("a.yaml")
    assert str(problem.value).startswith("a.yaml") and not (tmp_path / "run").exists()


BAD_JSON = {
    '{"passes": [': "a.json:1: this is no JSON",
    '{"passes": [],\n "target": "x",\n "target": "y"}': "a.json:3: the key 'target' stands twice",
    '{"passes": [{"Sparsify": {"level": NaN}}]}': "NaN is no number",
    '{"passes": [{"Sparsify":\n {"level": 7}}]}': r"a.json:2: passes\[0\].Sparsify.level: .* from 0 to below 1",
    "[" * 9000: "nested|no JSON",
    '{"passes": [{"Calibrate": {"samples": ' + "9" * 5000 + "}}]}": "this is no JSON: Exceeds the limit",
    '{"passes": ["\\ud800"]}': "half a character",
    '{"passes": [],\n "\\udfff": 1}': "half a character",
}


@pytest.mark.parametrize("text", BAD_JSON, ids=range(len(BAD_JSON)))
def test_bad_json_is_refused(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ConfigError, match=BAD_JSON[text]):
        Config.load("a.json")


def test_bad_toml_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.toml").write_text('target = "openvino"\n[[passes]]\n[passes.Sparsify]\nlevel = 7\n')
    with pytest.raises(ConfigError, match=r"a.toml:4: passes\[0\].Sparsify.level: .* from 0 to below 1"):
        Config.load("a.toml")
    (tmp_path / "a.toml").write_text("a = 1\na = 2\n")
    with pytest.raises(ConfigError, match="a.toml:2: this is no TOML"):
        Config.load("a.toml")
    with pytest.raises(ConfigError, match="this is no TOML: Exceeds the limit"):
        Config.parse(f"a = {'9' * 5000}", ".toml")


def test_a_size_of_more_than_64_bits_is_none():
    with pytest.raises(ConfigError, match="got 99999999999999999999"):
        Config.parse("passes: []\ninputs: [{shape: [99999999999999999999]}]")


@pytest.mark.parametrize("fill", ["ones", "random"])
def test_inputs_larger_than_the_memory_are_an_error_of_ours(fill):
    config = Config.parse(f"passes: []\ninputs: [{{shape: [100000, 100000, 100000, 1000], fill: {fill}}}]")
    with pytest.raises(InputError, match="an input of the sizes .* cannot be made"):
        config.example()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1,\n // [8, 8, 4]\n "b": 2}', {"a": 1, "b": 2}),
        ('{"a": [1, // ] }\n 2, /* ] */ /* } */\n],\n// }\n}', {"a": [1, 2]}),
        ('{"a": [1, /* one */ 2 /* two */ ]}', {"a": [1, 2]}),
        ('{"a": "b, // ]", "c": "/* d */",} // {', {"a": "b, // ]", "c": "/* d */"}),
        ('/**/{"a":\t1 /***/, /* * / ] **/ }', {"a": 1}),
    ],
)
def test_comments_of_json_may_hold_anything(text, value):
    assert parse_document(text, ".json").value == value


@pytest.mark.parametrize("name", ["a.txt", "a", "missing.yaml", "bytes.yaml", "folder.yaml", "pipe.json", "endless.yaml"])
def test_what_is_no_file_of_a_configuration_is_refused(tmp_path, name):
    (tmp_path / "a.txt").write_text(FULL)
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "folder.yaml").mkdir()
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "endless.yaml").symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match=name):
        Config.load(tmp_path / name)


def test_a_pointer_of_git_lfs_is_told_apart(tmp_path):
    (tmp_path / "old.json").write_text("version git-lfs/spec/v1\noid sha256:0\nsize 7\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"old\.json: only a pointer of Git LFS.*git lfs pull"):
        Config.load(tmp_path / "old.json")


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60), st.sampled_from([".yaml", ".json", ".toml"]))
def test_no_text_is_read_with_another_error(text, suffix):
    with contextlib.suppress(ConfigError):
        Config.parse(text, suffix)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, len(FULL)), st.sampled_from(["", "{", "]", ":", "\t", "!!x ", "&a ", "*a ", "\x07", "- "]))
def test_no_damaged_file_is_read_with_another_error(place, piece):
    with contextlib.suppress(ConfigError):
        Config.parse(FULL[:place] + piece + FULL[place + 1 :])


# ---------------------------------------------------------------------------------------- what is not in the library

MINE = """
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar
from annotated_types import Ge
from fxcompress import Effect, Pass
from fxcompress.training.levels import Schedule

@dataclass(frozen=True, kw_only=True)
class Mine(Pass):
    count: Annotated[int, Ge(1)] = 1
    effect: ClassVar[Effect] = Effect.EXACT
    def run(self, graph_module, context):
        return []

class Plain(Pass):
    effect = Effect.EXACT
    def run(self, graph_module, context):
        return []

@dataclass(frozen=True, kw_only=True)
class Steep(Schedule):
    factor: float = 2.0
    def level(self, epoch, target):
        return target

@dataclass(frozen=True, kw_only=True)
class Wide(Mine):
    sizes: list[int] = field(default_factory=list)
    names: frozenset[str] = frozenset()
    table: dict[str, list[float]] = field(default_factory=dict)
    pairs: tuple[tuple[int, str], ...] = ()
    schedule: Schedule | None = None
    either: int | str | None = None
    anything: Any = None
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "my_package_of_passes.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "my_package_of_passes"
    sys.modules.pop("my_package_of_passes", None)


def test_passes_of_others_are_imported_where_the_caller_allows_it(mine):
    text = f"passes: [{{'{mine}:Mine': {{count: 3}}}}, '{mine}:Plain']"
    with pytest.raises(ConfigError, match="allow_imports=True"):
        Config.parse(text)
    assert mine not in sys.modules
    config = Config.parse(text, allow_imports=True)
    assert config.passes[0] == sys.modules[mine].Mine(count=3)
    again = Config.parse(config.text(), allow_imports=True)
    assert again.passes[0] == config.passes[0] and type(again.passes[1]) is type(config.passes[1])
    with pytest.raises(ConfigError, match=r"Mine.count: .* of 1 or more, got 0"):
        Config.parse(text.replace("3", "0"), allow_imports=True)


@pytest.mark.parametrize(
    "options",
    [
        {"sizes": [3, 1, 3]},
        {"sizes": (2,)},
        {"names": {"b", "a"}},
        {"names": ["b", "a", "b"]},
        {"table": {"a: b": [1.0, -0.0], "c": []}},
        {"pairs": [(1, "a"), (2, "")]},
        {"either": "3"},
        {"either": 3},
        {"anything": [1, {"a": [None, True]}, "nan"]},
        {"count": 2**62},
    ],
    ids=lambda options: next(iter(options)),
)
def test_passes_of_others_make_the_round_trip(mine, options):
    module = importlib.import_module(mine)
    made = module.Wide(**options, schedule=module.Steep(factor=3.0))
    for suffix in (".yaml", ".json"):
        read = Config.parse(Config(passes=[made]).text(suffix), suffix, allow_imports=True).passes[0]
        assert read == made and repr(read) == repr(made) and type(read.schedule) is module.Steep
    assert Config(passes=[module.Wide(sizes=[])]).text() == f"passes:\n- {mine}:Wide\n"
    with pytest.raises(ConfigError, match="Steep is read only where it is declared"):
        Config(passes=[module.Wide(anything=made.schedule)]).text()
    with pytest.raises(ConfigError, match="JSON has finite numbers alone"):
        Config(passes=[module.Wide(anything=float("inf"))]).text(".json")


@pytest.mark.parametrize("name", ["os:system", "nowhere_at_all:Mine", "os:nothing", "collections:OrderedDict", "os.path:"])
def test_only_passes_are_imported(name):
    with pytest.raises(ConfigError):
        Config.parse(f"passes: ['{name}']", allow_imports=True)


def test_what_cannot_be_written_says_so():
    class Local(Pass):
        effect: ClassVar[Effect] = Effect.EXACT

    with pytest.raises(ConfigError, match=r"ChooseBits.loss cannot be written: a file holds no functions"):
        Config(passes=[passes.ChooseBits(loss=len)]).text()
    with pytest.raises(ConfigError, match="Local cannot be written: a class in a function"):
        Config(passes=[Local()]).text()
    with pytest.raises(ConfigError, match=r"Quantize.ignored\[0\] cannot be written"):
        Config(passes=[passes.Quantize(ignored=[fxcompress.op.linear(fxcompress.var("x"), fxcompress.var("w"))])]).text()


def test_functions_are_given_in_python():
    config = Config.parse("passes: [Quantize, ChooseBits]").given(loss=len)
    assert config.passes[1] == passes.ChooseBits(loss=len)
    with pytest.raises(InputError, match="no pass .* option 'lost'"):
        config.given(lost=len)


# ------------------------------------------------------------------------------------------------- compiling


def test_compiling_with_a_configuration_runs_its_passes(tmp_path):
    config = Config.parse("target: onnxruntime\npasses: [FoldBatchNorm, Quantize, {Calibrate: {samples: 4}}]")
    compiled = fxcompress.compile(Net(), config=config, data=data())
    assert compiled.compilation.passes == config.passes and compiled.compilation.target.name == "onnxruntime"
    assert Config.load(compiled.config.dump(tmp_path / "as_run.yaml")) == config
    with pytest.raises(InputError, match="not from both"):
        fxcompress.compile(Net(), [], config=config, data=data())
    with pytest.raises(InputError, match="config is a fxcompress.Config"):
        fxcompress.compile(Net(), config="a.yaml", data=data())


def test_the_inputs_of_a_configuration_are_the_example_where_there_is_no_other():
    config = Config.parse("passes: [FoldBatchNorm]\ninputs: [{shape: [2, 3, 8, 8]}]")
    compiled = fxcompress.compile(Net(), config=config)
    assert tuple(compiled(torch.rand(5, 3, 8, 8)).shape) == (5, 4)


def test_a_checkpoint_carries_the_configuration():
    config = Config.parse("passes: [{Sparsify: {level: 0.5, schedule: {Polynomial: {epochs: 4}}}}, defaults.training]")
    torch.manual_seed(0)
    compiled = fxcompress.compile(Net(), config=config, data=data())
    compiled.controller.scheduler.epoch_step()
    compiled.controller.scheduler.epoch_step()
    state = compiled.checkpoint()
    read = Config.of_checkpoint(state)
    assert read == config
    resumed = fxcompress.compile(Net(), config=read, data=data())
    resumed.load_checkpoint(state)
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(resumed(x), compiled(x))


def test_a_checkpoint_of_what_no_file_holds_has_no_configuration():
    config = Config(passes=[passes.RestorePrecision(metric=lambda model: 1.0, tolerance=0.5)])
    assert config.passes[0].metric is not None
    compiled = fxcompress.compile(Net(), [*defaults.post_training(), *config.passes], data=data())
    with pytest.raises(ConfigError, match="no configuration"):
        Config.of_checkpoint(compiled.checkpoint())


def test_compressing_in_place_takes_a_configuration():
    config = Config.parse("passes: [defaults.training]")
    compression = fxcompress.compress(Net(), config=config, data=data())
    assert compression.config == config


# ------------------------------------------------------------------------------------------ the schema, the command line


def test_every_option_of_the_schema_has_its_sentence():
    objects = {"Config": schema(), **schema()["$defs"]}
    options = [(name, option, said) for name, one in objects.items() for option, said in one.get("properties", {}).items()]
    assert len(options) > 150
    undocumented = [f"{name}.{option}" for name, option, said in options if not said.get("description")]
    assert undocumented == ["Config.$schema"]
    assert [name for name, one in objects.items() if not one.get("description")] == ["Config"]


@pytest.mark.parametrize(
    "value",
    [
        {"passes": ["Quantise"]},
        {"passes": [{"Quantize": {"weights": {"bits": 9}}}]},
        {"passes": [{"Sparsify": {"schedule": "Polynomial"}}]},
        {"passes": [{"Quantize": {"weight": {}}}]},
        {"passes": [], "target": "x"},
        {"passes": [], "targets": "openvino"},
        {},
        {"passes": "x"},
        {"passes": {"a": 1}},
        {"passes": [{"defaults.post_training": {"effort": "highest"}}]},
        {"passes": [{"defaults.training": {"effort": "high"}}]},
        {"passes": [{"defaults.post_training": "high"}]},
        {"passes": ["RestorePrecision"]},
        {"passes": [{"RestorePrecision": None}]},
        {"passes": [{"Sparsify": {"schedule": {"Exponential": None}}}]},
        {"passes": [{"Sparsify": {"scopes": {"conv1": {}}}}]},
        {"passes": [{"Calibrate": {"samples": 1.5}}]},
        {"passes": [], "$schema": {}},
    ],
)
def test_the_schema_refuses_what_the_reader_refuses(value):
    assert list(SCHEMA.iter_errors(value))
    with pytest.raises(ConfigError):
        Config.parse(json.dumps(value), ".json")


@pytest.mark.parametrize(
    "value",
    [
        {"passes": "Calibrate"},
        {"passes": {"Calibrate": None}},
        {"passes": [{"Calibrate": {"samples": 4.0}}]},
        {"passes": {"defaults.post_training": {"effort": "high"}}},
        {"passes": ["defaults.training", {"defaults.post_training": None}]},
    ],
)
def test_the_schema_takes_what_the_reader_takes(value):
    assert not list(SCHEMA.iter_errors(value))
    Config.parse(json.dumps(value), ".json")


def test_the_command_line_checks_shows_and_prints_the_schema(tmp_path, capsys):
    (tmp_path / "a.yaml").write_text(FULL)
    assert cli.main(["config", "check", str(tmp_path / "a.yaml")]) == 0
    assert "7 passes for onnxruntime" in capsys.readouterr().out
    assert cli.main(["config", "show", str(tmp_path / "a.yaml")]) == 0
    assert "passes.PruneFilters(amount=0.3, criterion='geometric_median'" in capsys.readouterr().out
    assert cli.main(["config", "schema"]) == 0
    assert json.loads(capsys.readouterr().out) == schema()
    (tmp_path / "a.yaml").write_text("passes: [Quantise]")
    assert cli.main(["config", "check", str(tmp_path / "a.yaml")]) == 2
    assert "a.yaml:1: passes[0]: there is no Pass 'Quantise'" in capsys.readouterr().err


def test_the_command_line_may_be_read_in_part():
    """As `fxcompress config schema | head -1` does."""
    command = [sys.executable, "-m", "fxcompress", "config", "schema"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout.readline() == "{\n"
        running.stdout.close()
        assert running.stderr.read() == "" and running.wait() == 0
