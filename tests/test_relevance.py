"""Tokens that count: those that the outputs depend on, and what passes make of that."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import fxcompress
from fxcompress import passes
from fxcompress.capture import capture
from fxcompress.data.inputs import ExampleInputs
from fxcompress.driver.interface import Context
from fxcompress.execution.gradients import CHUNK, samples_a_pass
from fxcompress.execution.relevance import relevant_inputs
from fxcompress.ir.cost import value_bytes
from fxcompress.quantization.patches import LINEAR
from fxcompress.targets import OPENVINO_CPU

SEEDS = st.integers(0, 2**32 - 1)


class Padded(nn.Module):
    """Two layers on each token, and the mean over the tokens that `mask` names."""

    def __init__(self, channels: int = 6) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(channels, 8), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        counted = mask.unsqueeze(-1).to(x.dtype)
        return (self.down(self.up(x).tanh()) * counted).sum(1) / counted.sum(1).clamp(min=1.0)


class FirstToken(nn.Module):
    """Attention between all tokens, whose first one is the answer: `last` reads all, and only one of its rows counts."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        return self.last(nn.functional.scaled_dot_product_attention(x, x, x))[:, 0]


class Labels(nn.Module):
    """Its answers are integers."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x).argmax(-1)


def _seen(model: nn.Module, *inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    """The relevant inputs of each linear layer, by name."""
    example = ExampleInputs(tuple(x[:2] for x in inputs))
    graph_module = capture(model.eval(), example)
    layers = graph_module.graph.find_nodes(op="call_function", target=LINEAR)
    found: dict[str, list[torch.Tensor]] = {}
    context = Context(example, OPENVINO_CPU, data=[inputs])
    for node, rows in relevant_inputs(graph_module, context, layers, samples=None, enough=10**9, precision="float32"):
        found.setdefault(node.name, []).append(rows)
    return {name: torch.cat(parts) for name, parts in found.items()}


@given(SEEDS, st.integers(1, CHUNK + 2), st.integers(1, 7))
def test_rows_that_are_masked_are_left_out_and_no_others(seed, samples, tokens):
    random = torch.Generator().manual_seed(seed)
    samples = max(samples, 2)
    x = torch.randn(samples, tokens, 6, generator=random)
    mask = torch.randint(0, 2, (samples, tokens), generator=random)
    seen = _seen(Padded(), x, mask)
    assert torch.equal(seen["up"], x[mask.bool()])
    assert len(seen["down"]) == mask.sum()


def test_where_one_token_is_the_answer_only_its_row_of_the_last_layer_counts():
    x = torch.randn(3, 4, 6)
    seen = _seen(FirstToken(), x)
    assert torch.equal(seen["first"], x.flatten(0, 1))
    assert len(seen["last"]) == 3


def test_all_rows_count_where_no_output_has_a_gradient():
    x = torch.randn(3, 4, 6)
    assert torch.equal(_seen(Labels(), x)["fc"], x.flatten(0, 1))


def test_all_rows_count_of_what_a_layer_reads_that_is_the_same_for_all_samples():
    class Positions(nn.Module):
        """A bias computed from a table of places, as that of Swin V2."""

        def __init__(self):
            super().__init__()
            self.register_buffer("places", torch.randn(1, 4, 6))
            self.bias, self.fc = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x):
            return self.fc(x + self.bias(self.places))

    model, x = Positions().eval(), torch.randn(3, 4, 6)
    assert torch.equal(_seen(model, x)["bias"], model.places[0])
    stack = [passes.SmoothActivations(), passes.Quantize(), passes.RoundWeights()]
    assert fxcompress.compile(model, stack, data=[x])(x).shape == x.shape


def _batches(padding: float) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Samples of 2 to 5 tokens, and behind them rows of `padding`."""
    random = torch.Generator().manual_seed(1)
    x = torch.randn(96, 5, 6, generator=random) @ torch.randn(6, 6, generator=random)
    mask = torch.arange(5) < torch.randint(2, 6, (96, 1), generator=random)
    return list(zip(x.where(mask[..., None], torch.tensor(padding)).split(6), mask.long().split(6)))


@pytest.mark.parametrize(
    "changed", [passes.RoundWeights(), passes.SmoothActivations()], ids=["RoundWeights", "SmoothActivations"]
)
def test_what_padding_holds_changes_nothing(changed):
    """Within the range of the data, which is for all tokens."""
    model = Padded().eval()
    stack = [passes.Quantize(), changed] if isinstance(changed, passes.RoundWeights) else [changed, passes.Quantize()]
    one, other = (fxcompress.compile(model, stack, data=_batches(padding)) for padding in (0.1, -0.2))
    assert one.report.rows[stack.index(changed) + 1].rewrites > 0
    for ours, theirs in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_weights_are_rounded_for_the_tokens_that_count():
    """The padding here is far stronger than the tokens, and points elsewhere."""
    model, grid = Padded().eval(), fxcompress.QuantizationSpec(bits=4, signed=True, narrow=True)
    batches = _batches(padding=30.0)
    nearest, rounded = (
        fxcompress.compile(model, [passes.Quantize(weights=grid), *after], data=batches)
        for after in ([], [passes.RoundWeights(damping=0.1)])
    )
    with torch.no_grad():
        before, after = (sum((c(*b) - model(*b)).square().sum() for b in batches) for c in (nearest, rounded))
    assert after < before


def test_in_inference_mode_all_tokens_count():
    stack = [passes.SmoothActivations(), passes.Quantize(), passes.RoundWeights()]
    with torch.inference_mode():
        compiled = fxcompress.compile(Padded().eval(), stack, data=_batches(0.1))
    assert compiled.report.rows[-1].rewrites == 2


def test_all_rows_count_where_an_operation_has_no_derivative():
    model = Padded().eval()
    x, mask = torch.randn(3, 4, 6), torch.zeros(3, 4, dtype=torch.long)
    mask[:, 0] = 1
    assert len(_seen(model, x, mask)["up"]) == 3
    assert len(_seen(Stepped(model), x, mask)["model_up"]) == 12


class Stepped(nn.Module):
    """0 or 1 for each answer of `model`; torch has no derivative of the step."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        y = self.model(x, mask)
        return torch.heaviside(y, y)


def test_the_outputs_that_have_a_gradient_change_with_the_layers_that_are_asked_for():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(1, 3), nn.Linear(6, 1)

        def forward(self, x):
            rows = self.first(x[:, [0, 0]])
            return rows.flatten(2), self.second(rows.flatten(2))

    for parameter in (model := Net().eval()).parameters():
        parameter.requires_grad_(False)
    data = [(torch.randn(5, 1, 2, 1),) for _ in range(4)]
    compiled = fxcompress.compile(model, [passes.SmoothActivations(tokens=16)], data=data)
    assert len(compiled(*data[0])) == 2


def test_as_many_samples_go_back_together_as_there_is_memory_for(monkeypatch):
    """Of texts, by their length, whatever that of the example was."""
    graph_module = capture(Padded().eval(), ExampleInputs((torch.randn(2, 5, 6), torch.ones(2, 5))), dynamic_shapes="auto")
    one = [torch.randn(1, 5, 6), torch.ones(1, 5)]
    monkeypatch.setattr("fxcompress.execution.gradients.MEMORY", 3 * value_bytes(graph_module.graph, one))
    assert samples_a_pass(graph_module.graph, one) == 3
    for tokens, room in ((1, CHUNK), (15, 1), (100, 1)):
        assert samples_a_pass(graph_module.graph, [torch.randn(4, tokens, 6), torch.ones(4, tokens)]) == room
