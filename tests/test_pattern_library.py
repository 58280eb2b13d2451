"""The pattern library: each rule against its own examples, each pattern against networks that have it."""

from __future__ import annotations

import importlib
import math
import pkgutil

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

import fxcompress.patterns
from fxcompress.capture import capture
from fxcompress.data.inputs import ExampleInputs
from fxcompress.ir.modes import set_training
from fxcompress.pattern.matcher import find
from fxcompress.patterns.activation import gelu, hardswish, quick_gelu, tanh_gelu
from fxcompress.patterns.attention import attention, composed_attention
from fxcompress.patterns.conv import FOLD_BATCH_NORM, conv_activation, conv_bn, conv_bn_activation
from fxcompress.patterns.linear import linear_activation
from fxcompress.patterns.norm import batch_norm, layer_norm, rms_norm
from fxcompress.patterns.residual import add_relu, conv_add_activation, squeeze_excite
from fxcompress.rewrite.example import Example
from fxcompress.rewrite.rule import Rule, apply

MODULES = [importlib.import_module(f"fxcompress.patterns.{m.name}") for m in pkgutil.iter_modules(fxcompress.patterns.__path__)]
RULES = {name: rule for module in MODULES for name, rule in vars(module).items() if isinstance(rule, Rule)}


def _captured(example: Example) -> tuple[nn.Module, fx.GraphModule]:
    module = example.module()
    graph_module = capture(module, ExampleInputs(example.inputs(), {}))
    set_training(graph_module, example.training)
    return module, graph_module


def _cases(kind: str) -> list:
    return [
        pytest.param(rule, example, id=f"{name}-{index}")
        for name, rule in RULES.items()
        for index, example in enumerate(getattr(rule, kind))
    ]


def test_every_rule_has_examples_of_both_kinds() -> None:
    assert [name for name, rule in RULES.items() if not rule.accept or not rule.reject] == []


@pytest.mark.parametrize("rule, example", _cases("accept"))
def test_a_rule_rewrites_what_it_accepts_and_keeps_the_outputs(rule: Rule, example: Example) -> None:
    module, graph_module = _captured(example)
    state = dict(graph_module.state_dict())
    assert apply(rule, graph_module, created_by="Test").counts[rule.name] > 0
    graph_module.graph.lint()
    assert all(graph_module.state_dict()[key] is not None for key in state)
    with torch.no_grad():
        torch.testing.assert_close(graph_module(*example.inputs()), module(*example.inputs()), rtol=1e-5, atol=1e-5)
    assert not apply(rule, graph_module, created_by="Test"), "applied again, it finds nothing more"


@pytest.mark.parametrize("rule, example", _cases("reject"))
def test_a_rule_leaves_alone_what_it_rejects(rule: Rule, example: Example) -> None:
    _, graph_module = _captured(example)
    before = str(graph_module.graph)
    assert not apply(rule, graph_module, created_by="Test")
    assert str(graph_module.graph) == before


# Patterns in networks


def _count(pattern, program, *shapes) -> int:
    return len(find(pattern, _captured(Example(program, *shapes))[1].graph))


def _block(activation: type[nn.Module] = nn.ReLU) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), activation())


class _Residual(nn.Module):
    def __init__(self, norm: bool = True):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3) if norm else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x + self.norm(self.conv(x)))


class _SqueezeExcite(nn.Module):
    def __init__(self, gate=torch.sigmoid, pool=lambda x: F.adaptive_avg_pool2d(x, 1)):
        super().__init__()
        self.down, self.up, self.gate, self.pool = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1), gate, pool

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gate(self.up(F.relu(self.down(self.pool(x))))) * x


class _Attention(nn.Module):
    """Self-attention written out; `scores` of q and k, before the softmax."""

    def __init__(self, scores, dim: int = -1):
        super().__init__()
        self.q, self.k, self.v, self.dropout = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6), nn.Dropout(0.1)
        self.scores, self.dim = scores, dim

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = self.scores(self.q(x), self.k(x))
        return self.dropout(scores.softmax(self.dim)) @ self.v(x)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.ReLU6, nn.Hardswish, nn.SiLU, nn.GELU, nn.LeakyReLU, nn.Sigmoid])
def test_convolution_norm_and_activation(activation: type[nn.Module]) -> None:
    assert _count(conv_bn_activation, lambda: _block(activation), (2, 3, 8, 8)) == 1
    assert _count(conv_bn, lambda: _block(activation), (2, 3, 8, 8)) == 1
    assert _count(conv_activation, lambda: _block(activation), (2, 3, 8, 8)) == 0
    assert _count(batch_norm, lambda: _block(activation), (2, 3, 8, 8)) == 1


def test_linear_and_activation() -> None:
    assert _count(linear_activation, lambda: nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 3)), (2, 3)) == 1


@pytest.mark.parametrize("norm", [True, False])
def test_residual_sum(norm: bool) -> None:
    assert _count(add_relu, lambda: _Residual(norm), (2, 3, 8, 8)) == 1
    assert _count(conv_add_activation, lambda: _Residual(norm), (2, 3, 8, 8)) == 1


def test_a_residual_sum_with_a_factor_is_none() -> None:
    assert _count(add_relu, lambda x, y: torch.relu(torch.add(x, y, alpha=2)), (2, 3), (2, 3)) == 0


@pytest.mark.parametrize("gate", [torch.sigmoid, F.hardsigmoid])
@pytest.mark.parametrize("pool", [lambda x: F.adaptive_avg_pool2d(x, 1), lambda x: x.mean((2, 3), keepdim=True)])
def test_squeeze_and_excitation(gate, pool) -> None:
    assert _count(squeeze_excite, lambda: _SqueezeExcite(gate, pool), (2, 4, 6, 6)) == 1


def test_squeeze_and_excitation_needs_the_mean_of_what_it_gates() -> None:
    assert _count(squeeze_excite, lambda: _SqueezeExcite(pool=lambda x: F.adaptive_avg_pool2d(x + 1, 1)), (2, 4, 6, 6)) == 0
    assert _count(squeeze_excite, lambda: _SqueezeExcite(pool=lambda x: F.adaptive_avg_pool2d(x, 2)), (2, 4, 2, 2)) == 0


@pytest.mark.parametrize(
    "scores",
    [
        lambda q, k: q @ k.transpose(-1, -2),
        lambda q, k: q @ k.mT / math.sqrt(6),
        lambda q, k: torch.matmul(q * 0.4, k.permute(0, 2, 1)),
        lambda q, k: (q * 0.5) @ (k.transpose(1, 2) * 0.5),
        lambda q, k: torch.bmm(q, k.transpose(2, 1)) * 0.4 + torch.ones(5, 5).tril().log(),
        lambda q, k: (q @ k.transpose(-2, -1)).masked_fill(torch.ones(5, 5).triu(1).bool(), -1e9),
    ],
)
def test_attention_in_every_spelling(scores) -> None:
    assert _count(composed_attention, lambda: _Attention(scores), (2, 5, 6)) == 1


def test_what_is_not_attention() -> None:
    assert _count(attention, lambda: _Attention(lambda q, k: q @ k.transpose(-1, -2), dim=1), (2, 5, 6)) == 0
    assert _count(attention, lambda: _Attention(lambda q, k: torch.relu(q @ k.transpose(-1, -2))), (2, 5, 6)) == 0
    assert _count(attention, lambda q, k, v: q @ k.transpose(1, 2) @ v, (3, 4, 4), (3, 4, 4), (3, 4, 4)) == 0


def test_attention_as_one_operation() -> None:
    sdpa = F.scaled_dot_product_attention
    assert _count(attention, lambda q, k, v: sdpa(q, k, v, is_causal=True), *[(2, 2, 5, 4)] * 3) == 1


def test_norms_spelled_out() -> None:
    def rms(x: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        return g * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))

    assert _count(rms_norm, rms, (2, 5, 6), (6,)) == 1
    assert _count(layer_norm, lambda: nn.LayerNorm(6), (2, 5, 6)) == 1


def test_activations_match_as_one_operation_too() -> None:
    assert _count(hardswish, lambda x: F.hardswish(x), (2, 3)) == 1
    assert _count(gelu, lambda x: F.gelu(x), (2, 3)) == 1
    assert _count(gelu, lambda x: F.gelu(x, approximate="tanh"), (2, 3)) == 0
    assert _count(tanh_gelu, lambda x: F.gelu(x, approximate="tanh"), (2, 3)) == 1
    assert _count(quick_gelu, lambda x: x * torch.sigmoid(1.702 * x), (2, 3)) == 1
    assert _count(quick_gelu, lambda x: x * torch.sigmoid(1.7 * x), (2, 3)) == 0


def test_folding_keeps_every_key_of_the_users_state() -> None:
    module, graph_module = _captured(Example(_block, (2, 3, 8, 8)))
    keys = set(graph_module.state_dict())
    apply(FOLD_BATCH_NORM, graph_module, created_by="FoldBatchNorm")
    assert keys <= set(graph_module.state_dict())
    assert set(graph_module.state_dict()) - keys == {"0.weight_folded", "0.bias_folded"}
    assert torch.equal(graph_module.state_dict()["0.weight"], module.state_dict()["0.weight"])
