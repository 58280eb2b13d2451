"""Files of NNCF 2 as they are: every key is honoured, reported or refused, as goldens tell."""

import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import fxcompress
from fxcompress import Config, passes
from fxcompress.errors import ConfigError, ScopeError
from fxcompress.training.levels import Exponential

FILES = sorted((Path(__file__).parent / "goldens" / "nncf").glob("*.json"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_a_file_of_nncf_asks_for(file):
    """`REGENERATE=1 python -m pytest tests/test_nncf_files.py` writes the goldens anew."""
    config = Config.load(file)
    told = config.text() + "".join(f"# {note}\n" for note in config.notes)
    golden = file.with_suffix(".yaml")
    if os.environ.get("REGENERATE"):
        golden.write_text(told)
    assert told == golden.read_text()
    assert Config.load(golden) == config


def parse(compression=None, **root):
    given = {"input_info": {"sample_size": [1, 3, 16, 16]}, **root}
    return Config.parse(json.dumps(given if compression is None else {**given, "compression": compression}), ".json")


QUANTIZATION = {"algorithm": "quantization"}
CROSSED = {"range": {"type": "percentile", "params": {"min_percentile": 60, "max_percentile": 40}}}
REFUSED = [
    ({"algorithm": "quantisation"}, {}, r"compression.algorithm: there is no 'quantisation' \(did you mean 'quantization'"),
    ({}, {}, "compression.algorithm: there is no None"),
    ([QUANTIZATION, 3], {}, r"compression\[1\]: this is an object"),
    ({"algorithm": "movement_sparsity"}, {}, "take rb_sparsity"),
    ({"algorithm": "bootstrapNAS"}, {}, "take filter_pruning"),
    ({"algorithm": "fracbits_quantization"}, {}, "FracBits is not here; take quantization"),
    ({**QUANTIZATION, "initializer": {"precision": {"type": "autoq"}}}, {}, "AutoQ is not here. Take 'hawq'"),
    ({**QUANTIZATION, "initializer": {"num_init_steps": 1, "range": {}}}, {}, "initializer.num_init_steps: NNCF has no key"),
    ({**QUANTIZATION, "initialiser": {}}, {}, r"NNCF has no key 'initialiser' here \(did you mean 'initializer'"),
    ({**QUANTIZATION, "params": {"sparsity_target": 0.5}}, {}, "compression.params.sparsity_target: NNCF has no key"),
    ({**QUANTIZATION, "weights": {"bits": 9}}, {}, "weights.bits: bits are 2 to 8, not 9"),
    ({**QUANTIZATION, "weights": {"bits": "8"}}, {}, "weights.bits: this is a number, not '8'"),
    ({**QUANTIZATION, "weights": {"mode": "asymetric"}}, {}, "did you mean 'asymmetric'"),
    ({**QUANTIZATION, "preset": "fast"}, {}, "'performance', 'mixed'"),
    ({**QUANTIZATION, "ignored_scopes": 3}, {}, "ignored_scopes: this is a text or a list of them"),
    ({**QUANTIZATION, "initializer": {"range": {"type": "minmax"}}}, {}, "did you mean 'min_max'"),
    ({**QUANTIZATION, "initializer": CROSSED}, {}, "percentiles"),
    (
        {**QUANTIZATION, "initializer": {"precision": {"bitwidth_per_scope": [["8", "a"]]}}},
        {},
        r"bitwidth_per_scope\[0\]: bits are",
    ),
    ({**QUANTIZATION, "initializer": {"precision": {"bitwidth_per_scope": ["a"]}}}, {}, "this is a pair"),
    ({**QUANTIZATION, "weights": {"bits": 10**400}}, {}, "weights.bits: this is a number"),
    (
        {**QUANTIZATION, "ignored_scopes": ["{re}conv2d["]},
        {},
        r"'\{re\}conv2d\[' is no regular expression: unterm",
    ),
    ({**QUANTIZATION, "scope_overrides": {"weights": {"{re}(": {"bits": 4}}}}, {}, "is no regular expression"),
    ({"algorithm": "magnitude_sparsity", "sparsity_init": 0.9}, {}, "starts at 0.9, above the 0.5"),
    ({"algorithm": "magnitude_sparsity", "params": {"schedule": "multistep", "multistep_steps": [1, 2]}}, {}, "one more than"),
    ({"algorithm": "magnitude_sparsity", "params": {"sparsity_target": 1.5}}, {}, "from 0 to below 1"),
    ({"algorithm": "rb_sparsity", "params": {"weight_importance": "abs"}}, {}, "NNCF has no key"),
    ({"algorithm": "filter_pruning", "params": {"pruning_target": 0.3, "pruning_flops_target": 0.3}}, {}, "not both"),
    ({"algorithm": "filter_pruning", "params": {"schedule": "polynomial"}}, {}, "there is no 'polynomial'"),
    ({"algorithm": "filter_pruning", "pruning_init": 0.45, "params": {"schedule": "exponential_with_bias"}}, {}, "below 5/7"),
    ({"algorithm": "knowledge_distillation"}, {}, "needs the key 'type'"),
    ({"algorithm": "const_sparsity", "params": {}}, {}, "NNCF has no key"),
    (QUANTIZATION, {"target_device": "CPUU"}, "did you mean 'CPU'"),
    (QUANTIZATION, {"input_info": {"sample_size": "1,3"}}, "input_info.sample_size: this is a list of numbers"),
    (QUANTIZATION, {"input_info": {"sample_size": [1], "type": "flot"}}, "input_info.type: there is no 'flot'"),
    (QUANTIZATION, {"input_info": [{"sample_size": [1], "kind": 1}]}, r"input_info\[0\].kind: NNCF has no key"),
    (
        QUANTIZATION,
        {"accuracy_aware_training": {"mode": "early_exit", "params": {"maximal_accuracy_degradation": 1.0}}},
        "did you mean 'maximal_relative_accuracy_degradation'",
    ),
    (QUANTIZATION, {"accuracy_aware_training": {"params": {"mode": "early_exit"}}}, "params.mode: it belongs beside 'params'"),
    (QUANTIZATION, {"accuracy_aware_training": {"mode": "early_exit"}}, "needs the keys 'mode' and 'params'"),
    (QUANTIZATION, {"accuracy_aware_training": {"mode": "early_exit", "params": {"maximal_total_epochs": 3}}}, "and not both"),
]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("ignored_scope", "ignored_scopes"),
        ("target_devise", "target_device"),
        ("accuracy_aware_trainings", "accuracy_aware_training"),
    ],
)
def test_a_key_of_the_root_that_is_nearly_one_of_nncfs_is_told(name, meant):
    (note,) = [one for one in parse(QUANTIZATION, **{name: "x"}).notes if name in one]
    assert f"did you mean '{meant}'" in note
    kept = parse(QUANTIZATION, model="resnet18", dataset="cifar10", batch_size=4, optimizer={"type": "Adam"}, log_directory="x")
    assert not kept.notes and kept.extra["batch_size"] == 4


@pytest.mark.parametrize(("compression", "root", "message"), REFUSED, ids=range(len(REFUSED)))
def test_what_cannot_be_had_is_refused_with_the_key(compression, root, message):
    with pytest.raises(ConfigError, match=message):
        parse(compression, **root)


@pytest.mark.parametrize(
    "text",
    [
        '"compression": {"algorithm": "quantization", "initializer": {"precision": {"bitwidth_per_scope": [[1e400, "a"]]}}}',
        '"compression": {"algorithm": "magnitude_sparsity", "params": {"multistep_steps": [1e400], "schedule": "multistep"}}',
        '"compression": {"algorithm": "quantization", "weights": {"bits": 1e400}}',
        '"compression": [], "input_info": {"sample_size": [1, 1e400]}',
    ],
)
def test_numbers_that_floats_do_not_have_are_refused(text):
    with pytest.raises(ConfigError, match="bits are 2 to 8|this is a"):
        Config.parse(f"{{{text}}}", ".json")


def test_algorithms_alone_are_a_file_too():
    algorithms = [{"algorithm": "const_sparsity"}, {**QUANTIZATION, "preset": "mixed", "overflow_fix": "first_layer_only"}]
    for one in (algorithms, algorithms[1]):
        alone, whole = Config.parse(json.dumps(one), ".json"), Config.parse(json.dumps({"compression": one}), ".json")
        assert alone == whole and alone.passes and alone.extra == {}
        assert [note.replace("compression", "").lstrip(".") for note in whole.notes] == list(alone.notes)
    for one, message in [([*algorithms[:1], 3], r"^\[1\]: this is an object"), ({**QUANTIZATION, "bits": 4}, "^bits: NNCF")]:
        with pytest.raises(ConfigError, match=message):
            Config.parse(json.dumps(one), ".json")


def test_errors_name_the_line_below_comments(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = '{\n // a comment\n "compression": {\n  "algorithm": "quantization",\n\t\t"weights": {"bits": 9} /* ten,\n */\n }\n}'
    (tmp_path / "old.json").write_text(text)
    with pytest.raises(ConfigError, match=r"^old.json:5: compression.weights.bits: "):
        Config.load("old.json")


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-2, 9)
        | st.floats(allow_nan=False)
        | st.sampled_from(["quantization", "symmetric", "a"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["algorithm", "params", "weights", "bits", "initializer", "range", "precision", "type", "schedule"]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=8,
    )
)
def test_no_file_is_read_with_another_error(compression):
    try:
        parse(compression)
    except ConfigError:
        return


# -------------------------------------------------------------------------------------------------- what it does


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.relu = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()
        self.down, self.last = nn.Conv2d(16, 16, 3, stride=2, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.fc = nn.Linear(16, 4)

    def forward(self, x):
        x = self.relu(self.norm(self.first(x)))
        x = self.relu(self.down(x))
        x = self.relu(self.last(x))
        return self.fc(x.mean((2, 3)))


def data():
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(4, 3, 16, 16, generator=generator)]


def test_a_file_compiles():
    torch.manual_seed(0)
    config = parse(
        [
            {"algorithm": "filter_pruning", "pruning_init": 0.5, "params": {"pruning_target": 0.5}},
            {"algorithm": "magnitude_sparsity", "sparsity_init": 0.3},
            {**QUANTIZATION, "ignored_scopes": ["Net/NNCFLinear[fc]/linear_0"]},
            {"algorithm": "knowledge_distillation", "type": "softmax"},
        ]
    )
    names = [type(one).__name__ for one in config.passes]
    assert names[0] == "PruneFilters" and names[1] == "Sparsify" and names[-2:] == ["Distill", "AdaptBatchNorm"]
    compiled = fxcompress.compile(Net(), config=config, data=data())
    quantized = {name for name, _ in compiled.named_modules() if name.endswith("weight_quantizer")}
    assert quantized == {f"{name}_weight_quantizer" for name in ("first", "down", "last")}
    assert list(compiled.controller.children) == ["PruneFilters", "Sparsify", "TrainQuantizers", "Distill"]
    masks = dict(compiled.named_buffers())
    pruned = {
        name: bool((~mask.bool()).flatten(1).all(1).any()) for name, mask in masks.items() if "mask" in name and mask.dim() > 1
    }
    assert any("last_weight" in name and gone for name, gone in pruned.items())
    assert not any(name.startswith(("first_weight", "down_weight")) and gone for name, gone in pruned.items())


def test_wrong_scopes_are_errors_where_the_file_is_compiled():
    config = parse({**QUANTIZATION, "ignored_scopes": ["Net/NNCFLinear[fcc]/linear_0"]})
    with pytest.raises(ScopeError, match=r"did you mean .*Net/NNCFLinear\[fc\]/linear_0"):
        fxcompress.compile(Net(), config=config, data=data())
    lenient = parse({**QUANTIZATION, "ignored_scopes": ["Net/NNCFLinear[fcc]/linear_0"], "validate_scopes": False})
    assert fxcompress.compile(Net(), config=lenient, data=data())


def test_scopes_of_parts_may_be_expressions_that_match_nothing():
    """A file for many models lists expressions for all of them, and NNCF checked an algorithm's own scopes alone."""
    file = {
        **QUANTIZATION,
        "initializer": {"range": [{"target_scopes": ["{re}.*baddbmm.*", "{re}.*conv2d.*"], "type": "min_max"}]},
        "weights": {"ignored_scopes": ["{re}.*embedding.*", "{re}NNCFLinear.*"]},
        "activations": {"ignored_scopes": ["{re}.*__truediv__*"]},
        "scope_overrides": {"activations": {"{re}.*matmul_0": {"mode": "symmetric"}}},
    }
    compiled = fxcompress.compile(Net(), config=parse(file), data=data())
    quantized = {name for name, _ in compiled.named_modules() if name.endswith("weight_quantizer")}
    assert quantized == {f"{name}_weight_quantizer" for name in ("first", "down", "last")}
    typo = {**file, "activations": {"ignored_scopes": ["Net/NNCFLinear[fcc]/linear_0"]}}
    with pytest.raises(ScopeError, match="did you mean"):
        fxcompress.compile(Net(), config=parse(typo), data=data())
    elsewhere = {"range": [{"ignored_scopes": ["{re}.*baddbmm.*", "Net/NNCFLinear[fc]/linear_0"], "type": "percentile"}]}
    assert "optional" not in str(parse({**QUANTIZATION, "initializer": elsewhere}).passes)


def test_overrides_of_activations_are_of_what_the_named_operations_read():
    """Whatever their names are: ReLU's own input here is a sum, which nothing reads in integers."""
    torch.manual_seed(0)
    scopes = {"Net/NNCFConv2d[last]/conv2d_0": {"bits": 5}, "{re}ReLU\\[relu\\]/relu_1": {"bits": 3}}
    config = parse({**QUANTIZATION, "scope_overrides": {"activations": scopes}})
    compiled = fxcompress.compile(Net(), config=config, data=data())
    bits = {name: one.spec.bits for name, one in compiled.named_modules() if hasattr(one, "spec") and "weight" not in name}
    assert sorted(bits.values())[0] == 5 and list(bits.values()).count(5) == 1
    assert "relu_1" in str(compiled.report) and "no effect" in str(compiled.report)


def test_bits_by_hand_are_where_the_file_has_them():
    torch.manual_seed(0)
    pairs = [[4, "Net/NNCFConv2d[last]/conv2d_0|WEIGHT"], [5, "Net/ReLU[relu]/relu_1|OUTPUT"]]
    precision = {"type": "manual", "bitwidth_per_scope": pairs}
    config = parse({**QUANTIZATION, "initializer": {"precision": precision}}, target_device="TRIAL")
    compiled = fxcompress.compile(Net(), config=config, data=data())
    bits = {name: one.spec.bits for name, one in compiled.named_modules() if hasattr(one, "spec")}
    assert bits["last_weight_quantizer"] == 4 and bits["first_weight_quantizer"] == 8
    assert sorted(bits.values()).count(5) == 1


def test_hawq_takes_the_loss_in_python():
    torch.manual_seed(0)
    precision = {"type": "hawq", "bits": [4, 8], "compression_ratio": 1.5, "num_data_points": 4}
    config = parse({**QUANTIZATION, "initializer": {"precision": precision}})
    with pytest.raises(fxcompress.errors.InputError, match="needs a loss"):
        fxcompress.compile(Net(), config=config, data=data())
    compiled = fxcompress.compile(Net(), config=config.given(loss=lambda m, x: m(x).square().mean()), data=data())
    chosen = {one.spec.bits for name, one in compiled.named_modules() if name.endswith("weight_quantizer")}
    assert chosen == {4, 7}  # the fix of overflows, which is on, leaves 7 of 8


def test_defaults_are_those_of_nncf():
    (sparse,) = parse({"algorithm": "rb_sparsity"}).passes
    assert sparse == passes.LearnSparsity(level=0.5, schedule=Exponential(epochs=90), freeze_epoch=100)
    (pruned,) = parse({"algorithm": "filter_pruning"}).passes
    at_once = {"sparsity_init": 0.1, "params": {"sparsity_target": 0.3, "sparsity_target_epoch": 0}}
    assert parse({"algorithm": "rb_sparsity", **at_once}).passes == (
        passes.LearnSparsity(level=0.3, schedule=None, freeze_epoch=100),
    )
    assert parse({"algorithm": "magnitude_sparsity", **at_once}).passes == (passes.Sparsify(level=0.3, criterion="normalized"),)
    assert pruned == passes.PruneFilters(amount=0.5, schedule=Exponential(epochs=99), first=False, downsampling=False)


PLACE = "Net/Conv2d[a]/conv2d_0"
SCOPED = {"ignored_scopes": [PLACE], "target_scopes": [PLACE]}
STAGED = dict.fromkeys(["batch_multiplier", "activations_quant_start_epoch", "weights_quant_start_epoch"], 3) | dict.fromkeys(
    ["lr_poly_drop_start_epoch", "lr_poly_drop_duration_epochs", "disable_wd_start_epoch", "base_lr", "base_wd"], 7
)
LEVELS = {
    "sparsity_target": 0.7,
    "sparsity_target_epoch": 7,
    "sparsity_level_setting_mode": "local",
    "update_per_optimizer_step": True,
    "steps_per_epoch": 3,
    "multistep_steps": [3],
    "multistep_sparsity_levels": [0.2, 0.3],
    "patience": 4,
    "power": 2.0,
    "concave": False,
}
GRID = {"mode": "asymmetric", "bits": 4, "per_channel": False, "logarithm_scale": True, **SCOPED}
HAWQ = {"bits": [8], "num_data_points": 7, "iter_number": 7, "tolerance": 0.1, "compression_ratio": 2.0} | {
    "eval_subset_ratio": 0.5,
    "warmup_iter_number": 3,
    "traces_per_layer_path": "x",
    "dump_init_precision_data": True,
    "bitwidth_assignment_mode": "strict",
    "bitwidth_per_scope": [[4, f"{PLACE}|WEIGHT"]],
}
ADAPTED = {"initializer": {"batchnorm_adaptation": {"num_bn_adaptation_samples": 5}}}
RANGES = [{"type": "min_max"}, {"params": {"min_percentile": 1}}, {"num_init_samples": 7}, {"num_init_steps": 7}]
KEYS = {
    "quantization": [
        {"preset": "mixed", "quantize_inputs": False, "quantize_outputs": True, "overflow_fix": "disable", **SCOPED},
        {"export_to_onnx_standard_ops": False, "compression_lr_multiplier": 0.5, **ADAPTED},
        *({"params": {name: value}} for name, value in STAGED.items()),
        *({"weights": {name: value}} for name, value in {**GRID, "signed": False}.items()),
        *({"activations": {name: value}} for name, value in {**GRID, "signed": True, "per_channel": True}.items()),
        {"activations": {"unified_scale_ops": [[PLACE, PLACE]]}},
        *({"initializer": {"range": given}} for given in RANGES),
        *({"scope_overrides": {kind: {PLACE: {"initializer": {"range": RANGES[2]}}}}} for kind in ("weights", "activations")),
        {"initializer": {"range": [RANGES[0], {**RANGES[2], "target_scopes": [PLACE]}]}},
    ],
    "binarization": [
        {"mode": "dorefa", "compression_lr_multiplier": 0.5, "initializer": {"range": {}}, **SCOPED},
        *({"params": {name: value}} for name, value in STAGED.items()),
    ],
    "magnitude_sparsity": [
        {"sparsity_init": 0.1, **ADAPTED, **SCOPED},
        {"params": {"sparsity_freeze_epoch": 7}},
        {"params": {"weight_importance": "abs"}},
    ],
    "rb_sparsity": [
        {"sparsity_init": 0.1, "compression_lr_multiplier": 0.5, **SCOPED},
        {"params": {"sparsity_freeze_epoch": 7}},
    ],
    "const_sparsity": [SCOPED],
    "filter_pruning": [
        {"pruning_init": 0.1, **ADAPTED, **SCOPED},
        *(
            {"params": {name: value}}
            for name, value in {
                "filter_importance": "L1",
                "pruning_target": 0.3,
                "pruning_steps": 5,
                "pruning_flops_target": 0.3,
                "num_init_steps": 3,
                "interlayer_ranking_type": "learned_ranking",
                "all_weights": True,
                "prune_first_conv": True,
                "prune_downsample_convs": True,
                "prune_batch_norms": False,
                "legr_params": {"generations": 3},
                "save_ranking_coeffs_path": "x",
                "load_ranking_coeffs_path": "x",
            }.items()
        ),
    ],
    "knowledge_distillation": [{"scale": 2.0, "temperature": 3.0, **SCOPED}],
}
TYPED = {"knowledge_distillation": [{"type": "mse"}, {"type": "softmax"}]}
TYPED |= {"filter_pruning": [{"params": {"schedule": kind}} for kind in ("exponential", "exponential_with_bias", "baseline")]}
SCHEDULED = [{"params": {"schedule": kind}} for kind in ("polynomial", "exponential", "adaptive", "multistep")]


def _joined(one, other):
    if isinstance(one, dict) and isinstance(other, dict):
        return one | {name: _joined(one[name], value) if name in one else value for name, value in other.items()}
    return other


def _every_key():
    for name, listed in KEYS.items():
        for kind in TYPED.get(name, [{}]):
            yield from ((name, kind, {key: value}) for one in listed for key, value in one.items())
    for name in ("magnitude_sparsity", "rb_sparsity"):
        yield from ((name, kind, {"params": {key: value}}) for kind in SCHEDULED for key, value in LEVELS.items())
    for kind in ("hawq", "manual"):
        typed = {"initializer": {"precision": {"type": kind}}}
        yield from (("quantization", typed, {"initializer": {"precision": {key: value}}}) for key, value in HAWQ.items())


@pytest.mark.parametrize(("name", "kind", "given"), _every_key(), ids=str)
def test_no_key_is_passed_over_in_silence(name, kind, given):
    usual = parse({"algorithm": name, **kind})
    try:
        asked = parse(_joined({"algorithm": name, **kind}, given))
    except ConfigError as refused:
        assert str(next(iter(given))) in str(refused)
        return
    told = set(asked.notes) - set(usual.notes)
    assert asked != usual or told
    assert asked != usual or any("ignored" in note or "take" in note for note in told)
