"""Every operation with a kernel that reads parameters is treated by a pass over weights, or named with the reason."""

import pytest
import torch
from torch import nn

import fxcompress
from fxcompress.passes import CompressWeights, LearnSparsity, PruneFilters, Quantize, Sparsify

PASSES = [Quantize(), CompressWeights(), PruneFilters(multiple=1), Sparsify(), LearnSparsity()]


class OneOfAll(nn.Module):
    """An ordinary linear layer, and every other way to hold weights, one after the other; `positions` are no kernel's."""

    def __init__(self):
        super().__init__()
        self.plain, self.last = nn.Linear(8, 8), nn.Linear(8, 8)
        self.normalized = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
        self.adapted, self.down, self.up = nn.Linear(8, 8), nn.Parameter(torch.randn(2, 8)), nn.Parameter(torch.randn(8, 2))
        self.recurrent = nn.LSTM(8, 8, batch_first=True)
        self.pair = nn.Bilinear(8, 8, 8)
        self.mixed = nn.Parameter(torch.randn(2, 3, 8, 8))
        self.positions = nn.Parameter(torch.randn(3, 8))

    def forward(self, x):
        x = torch.relu(self.plain(x)) + self.positions
        x = self.normalized(x)
        x = nn.functional.linear(x, self.adapted.weight + self.up @ self.down)
        x, _ = self.recurrent(x)
        x = self.pair(x, x)
        return self.last(torch.einsum("btd,btde->bte", x, self.mixed))


@pytest.mark.parametrize("one", PASSES, ids=lambda one: one.name)
def test_what_a_pass_leaves_is_named(one):
    compiled = fxcompress.compile(OneOfAll().eval(), [one], example_inputs=torch.randn(2, 3, 8))
    told = [note.partition(": ")[2] for note in compiled.report.notes if " stay" in note]
    for name in ("recurrent", "pair", *(() if one.name == "PruneFilters" else ("einsum",))):
        naming = [
            note for note in told if name in note.split(" stay")[0].removeprefix("the filters of ").replace(",", "").split()
        ]
        assert len(naming) == 1, (name, told)
    treated = ("add", "positions", "normalized", "linear_1")
    assert not any(name in note.split(" stay")[0] for note in told for name in treated)
    if one.name != "PruneFilters":
        assert not any("plain" in note.split(" stay")[0] for note in told)


@pytest.mark.parametrize("one", [Sparsify(), Quantize()], ids=lambda one: one.name)
def test_nothing_is_named_where_everything_is_treated(one):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8, 4)).eval()
    compiled = fxcompress.compile(model, [one], example_inputs=torch.randn(1, 3, 3, 3))
    assert not any(" stay" in note for note in compiled.report.notes)


def test_a_reader_of_a_treated_weight_is_not_named():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.head = nn.Embedding(16, 8), nn.Linear(8, 16, bias=False)
            self.head.weight = self.table.weight

        def forward(self, ids):
            return self.head(self.table(ids))

    compiled = fxcompress.compile(Tied().eval(), [Sparsify()], example_inputs=torch.zeros(1, 3, dtype=torch.long))
    assert not any(" stay" in note for note in compiled.report.notes)


def test_embeddings_that_are_not_asked_for_are_named():
    model = nn.Sequential(nn.Embedding(16, 8), nn.Linear(8, 4)).eval()
    ids = torch.zeros(1, 3, dtype=torch.long)
    compiled = fxcompress.compile(model, [Quantize(embeddings=False)], example_inputs=ids)
    assert any("_0 stays in float: embeddings are not to be quantized" in note for note in compiled.report.notes)
