"""What cannot be written is said in one error, with where it comes from; and how a user adds what is missing."""

from __future__ import annotations

import pytest
import torch
from emission import Call, assert_same, captured
from torch import Tensor, fx, nn

import fxcompress
from fxcompress.emit.onnx import to_onnx_model, translation
from fxcompress.emit.translation import TRANSLATIONS
from fxcompress.errors import EmitError, InputError


def training(module: fx.GraphModule) -> fx.GraphModule:
    """`module` with its dropouts active."""
    for node in module.graph.find_nodes(op="call_function", target=torch.ops.aten.dropout.default):
        node.args = (*node.args[:2], True)
    return module


def test_all_missing_operators_are_in_one_error() -> None:
    def function(x: Tensor) -> Tensor:
        y = torch.special.i0(x)
        return torch.digamma(torch.relu(y)) + torch.special.i0(y)

    with pytest.raises(EmitError) as caught:
        to_onnx_model(captured(Call(function), torch.randn(2, 3)))
    message = str(caught.value)
    assert message.startswith("3 node(s) cannot be written in ONNX:")
    assert "aten.special_i0.default has no translation" in message and "aten.digamma.default" in message
    assert "emission.py" in message or "test_emit_errors.py" in message  # the user's own line
    assert "@translation(torch.ops.aten.digamma.default)" in message  # the remedy


def test_unsupported_forms_join_the_error() -> None:
    with pytest.raises(EmitError, match=r"(?s)2 node.*training mode.*no translation"):
        to_onnx_model(training(captured(nn.Sequential(nn.Dropout(0.5), Call(torch.digamma)), torch.randn(2, 3))))


@pytest.mark.parametrize("given", [None, torch.full((2, 3, 2), 0.5)], ids=["random", "given samples"])
def test_a_fractional_max_pool_is_refused_with_what_to_put_in_its_place(given: Tensor | None) -> None:
    model = nn.FractionalMaxPool2d(2, output_size=(4, 4), _random_samples=given)
    with pytest.raises(EmitError, match="drawn at random for each sample and channel; put nn.AdaptiveMaxPool2d"):
        to_onnx_model(captured(model, torch.randn(2, 3, 9, 9)))


def test_training_mode_is_refused() -> None:
    module = training(captured(nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)), torch.randn(2, 3)))
    with pytest.raises(EmitError, match=r"call eval\(\)"):
        to_onnx_model(module)


def test_modules_of_passes_must_be_lowered_first() -> None:
    module = captured(nn.Linear(3, 3), torch.randn(2, 3))
    (weight,) = [node for node in module.graph.nodes if str(node.target).endswith("weight")]
    module.add_submodule("weight_quantizer", nn.Identity())
    with module.graph.inserting_after(weight):
        quantizer = module.graph.call_module("weight_quantizer", (weight,))
    quantizer.meta |= {"val": weight.meta.get("val"), "created_by": "Quantize"}
    weight.replace_all_uses_with(quantizer, delete_user_cb=lambda user: user is not quantizer)
    with pytest.raises(EmitError, match="weight_quantizer' is not lowered"):
        to_onnx_model(module)


def test_wrong_number_of_names() -> None:
    module = captured(nn.Linear(3, 3), torch.randn(2, 3))
    with pytest.raises(InputError, match="input_names has 2 names, the model has 1 inputs"):
        to_onnx_model(module, input_names=["a", "b"])
    with pytest.raises(InputError, match="output_names has 0 names"):
        to_onnx_model(module, output_names=[])


def test_a_registered_translation_is_used() -> None:
    digamma = torch.ops.aten.special_entr.default

    @translation(digamma)
    def entr(emit, x):
        return emit.Neg(emit.Mul(x, emit.Log(x)))

    try:
        operators = assert_same(torch.special.entr, torch.rand(2, 3) + 0.1)
        assert operators == {"Log": 1, "Mul": 1, "Neg": 1}
    finally:
        del TRANSLATIONS[digamma]


def test_a_broken_translation_is_named_with_its_node() -> None:
    digamma = torch.ops.aten.digamma.default
    translation(digamma)(lambda emit: emit.Relu(None))  # takes no operand
    try:
        with pytest.raises(EmitError, match=r"translation of aten.digamma.default failed with TypeError.*digamma"):
            to_onnx_model(captured(Call(torch.digamma), torch.rand(2, 3)))
    finally:
        del TRANSLATIONS[digamma]


def test_a_translation_gets_the_arguments_of_the_call() -> None:
    renorm = torch.ops.aten.renorm.default

    @translation(renorm)
    def translate(emit, x, p, dim, maxnorm):
        axes = [axis for axis in range(emit.rank(x)) if axis != dim]
        norm = emit.ReduceL2(x, axes, keepdims=1)
        return emit.Mul(x, emit.Min(emit.Div(emit.constant(torch.tensor(maxnorm)), norm), 1.0))

    try:
        assert_same(lambda x: torch.renorm(x, 2, 1, 0.7), torch.randn(2, 3, 4), tolerance=1e-4)
    finally:
        del TRANSLATIONS[renorm]


@pytest.mark.parametrize("kind", ["half", "double", "bfloat16"])
def test_a_model_that_was_converted_since_it_was_compiled_is_not_written(kind: str) -> None:
    compiled = fxcompress.compile(nn.Linear(4, 4), fxcompress.defaults.training(), data=[torch.randn(2, 4)])
    getattr(compiled, kind)()
    with pytest.raises(InputError, match="and was float32 when the model was compiled"):
        compiled.lower()
    assert compiled.float().lower().meta["report"].rows
