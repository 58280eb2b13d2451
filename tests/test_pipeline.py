"""Planning, and what the verifier says of a pass that does not keep its promise."""

import contextlib
import math
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch import nn

import fxcompress
from fxcompress import Effect, Pass, QuantizationOptions, QuantizationSpec, op, passes, rewrite, var
from fxcompress.driver import verify
from fxcompress.driver.plan import plan
from fxcompress.errors import PlanError, VerificationError
from fxcompress.execution.agreement import outputs
from fxcompress.report.rows import Report, Row
from fxcompress.rewrite.rule import Replacement
from fxcompress.training import Polynomial

x, w, b = var("x w b")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        x = torch.relu(self.first(x))
        x = torch.sigmoid(self.second(x))
        return torch.tanh(self.third(x))


def compile_with(*chosen, model=None, **options):
    torch.manual_seed(0)
    return fxcompress.compile(model or Net(), list(chosen), example_inputs=torch.randn(3, 4), **options)


def rules_pass(name, effect, *rules):
    """A pass class called `name` that applies `rules`."""

    def run(self, graph_module, context):
        return context.apply(rules, graph_module)

    return type(name, (Pass,), {"effect": effect, "run": run})()


def test_an_unmet_need_names_the_pass_that_provides_it():
    with pytest.raises(PlanError, match="Calibrate needs 'quantized'.*add CompressWeights or Quantize before it"):
        compile_with(passes.Calibrate())


def test_a_pass_listed_too_early_is_told_where_it_goes():
    with pytest.raises(PlanError, match="list Quantize before Calibrate"):
        compile_with(passes.Calibrate(), passes.Quantize())


@pytest.mark.parametrize("wrong", [passes.Quantize, "quantize", None])
def test_only_passes_can_be_listed(wrong):
    with pytest.raises(PlanError, match=r"passes\[0\] is .*not a Pass"):
        plan([wrong])


@pytest.mark.parametrize("wrong", [passes.Quantize(), "Quantize", passes.Quantize, iter([passes.FoldBatchNorm()])])
def test_passes_come_in_a_list(wrong):
    with pytest.raises(PlanError, match=r"passes come in a list, such as \[Quantize\(\), Calibrate\(\)\], not as "):
        fxcompress.compile(Net(), wrong, example_inputs=torch.randn(3, 4))


def test_a_name_is_no_pass():
    with pytest.raises(PlanError, match=r"passes\[0\] is 'quantize', which is not a Pass \(did you mean 'Quantize\(\)'"):
        plan(["quantize"])


def test_a_pass_must_declare_its_effect():
    with pytest.raises(PlanError, match="declares no effect"):
        plan([type("Silent", (Pass,), {})()])


def test_a_wrong_rule_is_caught_and_named():
    @rewrite(op.sigmoid(x))
    def mistake_sigmoid(new, x):
        return new.tanh(x)

    with pytest.raises(VerificationError) as caught:
        compile_with(rules_pass("Tidy", Effect.EXACT, mistake_sigmoid))
    message = str(caught.value)
    assert "Tidy promised the same bits" in message
    assert "'mistake_sigmoid'" in message and "'sigmoid'" in message
    assert "test_pipeline.py" in message and "torch.sigmoid(self.second(x))" in message


def test_of_many_rewrites_the_wrong_one_is_found():
    @rewrite(op.linear(x, w, b))
    def spell_linear(new, x, w, b):
        if new.shape(b)[0] == 2:
            return new.matmul(x, new.transpose(w, 0, 1))  # forgets the bias
        return new.add(new.matmul(x, new.transpose(w, 0, 1)), b)

    with pytest.raises(VerificationError) as caught:
        compile_with(rules_pass("Spell", Effect.ROUNDING, spell_linear))
    assert "at least 80 dB" in str(caught.value) and "'third'" in str(caught.value)


def test_a_wrong_pass_without_rules_is_caught():
    @dataclass(frozen=True, kw_only=True)
    class DropLast(Pass):
        effect: ClassVar[Effect] = Effect.ROUNDING

        def run(self, graph_module, context):
            last = graph_module.graph.output_node().args[0][0]
            last.replace_all_uses_with(last.args[0])
            return []

    with pytest.raises(VerificationError, match="DropLast promised at least 80 dB, but .* Correct DropLast.run"):
        compile_with(DropLast())


y, z = var("y z")


@rewrite(op.sub(op.sub(x, y), z))
def subtract_once(new, x, y, z):
    return new.sub(x, new.add(y, z))


def test_the_last_bit_before_a_rounding_breaks_no_promise():
    """1 - e - e is 1 in float32 and 1 - (e + e) is less, and just so much decides between 2 and 1."""

    class Rounded(nn.Module):
        def forward(self, x):
            return (x[:, 0] - x[:, 1] - x[:, 2]).mul(1.5).round()

    numbers = torch.tensor([[1.0, 2.0**-25, 2.0**-25]]).expand(2, 3)
    once = rules_pass("SubtractOnce", Effect.ROUNDING, subtract_once)
    compiled = fxcompress.compile(Rounded(), [once], example_inputs=numbers)
    assert compiled(numbers).tolist() == [1, 1] and Rounded()(numbers).tolist() == [2, 2]
    assert compiled.report.rows[-1].decibels == float("inf")


def regrouped(factor):
    """A pass that adds the same numbers in another order, as another kernel of a library would, times a factor."""

    @rewrite(op.sum(x, [1]))
    def add_backwards(new, x):
        return new.select(new.cumsum(new.mul(new.flip(x, [1]), factor), 1), 1, -1)

    return rules_pass("Regroup", Effect.EXACT, add_backwards)


class Sum(nn.Module):
    def forward(self, x):
        return x.sum(1)


def test_the_order_of_a_sum_is_no_fault_and_its_last_bit_is():
    torch.manual_seed(0)
    numbers = torch.randn(8, 3001)
    assert not torch.equal(numbers.sum(1), numbers.flip(1).sum(1))
    compiled = fxcompress.compile(Sum(), [regrouped(1.0)], example_inputs=numbers)
    assert compiled.report.rows[-1].decibels == float("inf")
    with pytest.raises(VerificationError, match="Regroup promised the same bits"):
        fxcompress.compile(Sum(), [regrouped(1 + 2**-23)], example_inputs=numbers)


def test_weights_that_are_off_by_the_last_bit_are_a_fault():
    class Jolt(Pass):
        effect = Effect.EXACT

        def run(self, graph_module, context):
            node = graph_module.graph.find_nodes(op="get_attr")[0]
            value = graph_module.get_parameter(node.target).detach().clone()
            graph_module.register_buffer("jolted", torch.nextafter(value, torch.tensor(9.0)))
            node.target = "jolted"
            return [Replacement.at(node)]

    with pytest.raises(VerificationError, match="Jolt promised the same bits"):
        compile_with(Jolt(), model=nn.Linear(4, 4))


def test_an_invalid_graph_is_the_passes_fault():
    class Method(Pass):
        effect = Effect.EXACT

        def run(self, graph_module, context):
            last = graph_module.graph.output_node().args[0][0]
            with graph_module.graph.inserting_after(last):
                last.replace_all_uses_with(clone := graph_module.graph.call_method("clone", (last,)))
            clone.args = (last,)
            return []

    with pytest.raises(VerificationError, match="Method left an invalid graph behind.*call_method 'clone'"):
        compile_with(Method())


def test_verification_can_be_left_out():
    @rewrite(op.sigmoid(x))
    def mistake_sigmoid(new, x):
        return new.tanh(x)

    compiled = compile_with(rules_pass("Tidy", Effect.EXACT, mistake_sigmoid), verify=False)
    assert compiled.report.rows[-1].decibels is None


def test_the_report_has_a_row_a_pass():
    compiled = compile_with(passes.FoldBatchNorm(), passes.CanonicalizeActivations())
    assert [row.name for row in compiled.report.rows] == ["Capture", "FoldBatchNorm()", "CanonicalizeActivations()"]
    text = str(compiled.report)
    for word in ("effect", "nodes", "rewrites", "weights", "dB", "ms", "same bits"):
        assert word in text


def test_options_print_as_they_are_written():
    four_bits = QuantizationOptions(weights=QuantizationSpec(bits=4, signed=True))
    quantize = passes.Quantize(overrides={"fc": four_bits})
    written = "Quantize(overrides={'fc': QuantizationOptions(weights=QuantizationSpec(bits=4, signed=True))})"
    assert str(quantize) == written
    assert str(passes.Sparsify(schedule=Polynomial(epochs=2))) == "Sparsify(schedule=Polynomial(epochs=2))"


def test_long_options_are_not_said_again_with_every_note():
    name = "Quantize(overrides={'fc': QuantizationOptions(weights=QuantizationSpec(bits=4))})"
    long = Row(name, "lossy", nodes_before=1, nodes_after=1, rewrites=0, bytes=0, decibels=None, milliseconds=0.0)
    report = Report([replace(long, notes=("this",)), replace(long, name="Calibrate()", notes=("that",))])
    assert report.notes == ["Quantize(...): this", "Calibrate(): that"]


def test_a_pass_may_be_listed_twice():
    compile_with(passes.FoldBatchNorm(), passes.FoldBatchNorm())


def test_passes_print_their_options():
    assert str(passes.Quantize(ignored=("first",))) == "Quantize(ignored=['first'])"
    assert str(passes.FoldBatchNorm()) == "FoldBatchNorm()"


def test_a_pass_that_changes_a_weight_in_place_and_says_nothing_is_caught():
    class Nudge(Pass):
        effect = Effect.EXACT

        def run(self, graph_module, context):
            with torch.no_grad():
                graph_module.get_parameter("first.weight").add_(0.1)
            return []

    with pytest.raises(VerificationError, match="Nudge promised the same bits"):
        compile_with(Nudge())


def test_a_pass_that_replaces_a_module_and_says_nothing_is_caught():
    class Insert(Pass):
        effect = Effect.EXACT

        def run(self, graph_module, context):
            graph_module.add_submodule("act", nn.Identity())
            last = graph_module.graph.output_node().args[0][0]
            with graph_module.graph.inserting_after(last):
                node = graph_module.graph.call_module("act", (last,))
            node.meta["created_by"] = self.name
            last.replace_all_uses_with(node, delete_user_cb=lambda user: user is not node)
            return []

    class Replace(Pass):
        effect = Effect.EXACT

        def run(self, graph_module, context):
            graph_module.set_submodule("act", nn.ReLU())
            return []

    with pytest.raises(VerificationError, match="Replace promised the same bits"):
        compile_with(Insert(), Replace())


def test_a_pass_that_changes_nothing_is_not_run_through_again(monkeypatch):
    runs = []
    monkeypatch.setattr(verify, "outputs_by_rows", lambda model, example: runs.append(model) or outputs(model, example))
    compile_with(passes.RemoveDropout(), passes.RemoveDropout())
    assert len(runs) == 1  # the graph before the passes


@pytest.mark.parametrize(
    ("effect", "decibels", "kept"),
    [
        (Effect.EXACT, math.inf, True),
        (Effect.EXACT, 300.0, False),
        (Effect.EXACT, 80.0, False),
        (Effect.ROUNDING, 80.0, True),
        (Effect.ROUNDING, 79.99, False),
        (Effect.ROUNDING, math.inf, True),
        (Effect.LOSSY, -math.inf, True),
    ],
)
def test_what_an_effect_allows(effect, decibels, kept):
    assert effect.kept(decibels) is kept


@pytest.mark.parametrize(
    ("factor", "effect", "fine"),
    [(1 + 2**-20, Effect.EXACT, False), (1 + 2**-20, Effect.ROUNDING, True), (1 + 2**-10, Effect.ROUNDING, False)],
)
def test_a_promise_is_held_to_its_decibels_and_not_to_those_of_another(factor, effect, fine):
    """A millionth is 120 dB, a thousandth 60."""

    @rewrite(op.tanh(x))
    def spell_tanh(new, x):
        return new.mul(new.add(new.mul(new.sigmoid(new.mul(x, 2.0)), 2.0), -1.0), factor)

    with contextlib.nullcontext() if fine else pytest.raises(VerificationError, match="Spell promised"):
        compile_with(rules_pass("Spell", effect, spell_tanh))
