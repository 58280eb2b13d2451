"""Branches on masks, which how a model is called decides: one file, of the way that the example takes."""

import pytest
import torch
from torch import nn

import fxcompress
from fxcompress.errors import BranchWarning, PartialCaptureWarning


class Marked(nn.Module):
    """Another layer where some place is marked with a two, as those that attend to everything are."""

    def __init__(self):
        super().__init__()
        self.table, self.local, self.everywhere = nn.Embedding(20, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, tokens, mask):
        marked = ((mask - 1.0) > 0).flatten().any().item()
        x = self.table(tokens) * mask[..., None].clamp(max=1)
        if marked:
            x = self.everywhere(x)
        for _ in range(2):  # the same line asks twice
            x = self.local(x) if (mask == 0).any() else x + 1
        return x


class Large(nn.Module):
    """A branch on what it computed."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x, mask):
        x = self.first(x * mask)
        return self.second(x) if (x > 0).any() else x


@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_a_branch_on_a_mask_goes_as_in_the_example(marked, padded):
    def inputs(samples, length):
        mask = torch.ones(samples, length, dtype=torch.int64)
        mask[0, 0] += int(marked)
        mask[0, -1] -= int(padded)
        return torch.randint(0, 20, (samples, length)), mask

    torch.manual_seed(0)
    model = Marked()
    with pytest.warns(BranchWarning, match="whatever comes: .*compile it once for each answer"):
        compiled = fxcompress.compile(model, [], example_inputs=inputs(4, 6))
    assert isinstance(compiled, fxcompress.Compiled)
    told = [note for note in compiled.report.rows[0].notes if "a question about masks or flags" in note]
    assert [("True" in note, "local" in note or "marked" in note) for note in told] == [(marked, True), (padded, True)]
    for sizes in (4, 6), (3, 9), (2, 5):
        given = inputs(*sizes)
        torch.testing.assert_close(compiled(*given), model(*given))


class SetUp(nn.Module):
    """Branches on a schedule that it keeps in a buffer, as it stands after training."""

    def __init__(self, *chances):
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.chances = nn.Buffer(torch.tensor(chances))

    def forward(self, x):
        for chance in range(2):
            if self.training or self.chances[chance] > 0:
                x = self.layer(x)
        return x


@pytest.mark.parametrize("chances", [(1.0, 0.0), (0.0, 0.5)])
def test_a_branch_on_a_buffer_goes_as_the_buffer_says(chances):
    torch.manual_seed(0)
    model = SetUp(*chances).eval()
    with pytest.warns(BranchWarning, match="whatever comes: .*self.chances"):
        compiled = fxcompress.compile(model, [], example_inputs=(torch.randn(4, 8),))
    assert isinstance(compiled, fxcompress.Compiled)
    x = torch.randn(3, 8)
    torch.testing.assert_close(compiled(x), model(x))


def test_a_branch_on_what_is_computed_stays_outside():
    with pytest.warns(PartialCaptureWarning, match="data-dependent"):
        compiled = fxcompress.compile(Large(), [], example_inputs=(torch.randn(4, 8), torch.ones(4, 8, dtype=torch.int64)))
    assert compiled.parts.keys() == {"first", "second"}


class UntilTheEnd(Large):
    """A branch on tokens."""

    def forward(self, x, tokens):
        x = self.first(x)
        return self.second(x) if (tokens == 7).any() else x


def test_a_branch_on_tokens_stays_outside():
    with pytest.warns(PartialCaptureWarning, match="data-dependent"):
        compiled = fxcompress.compile(UntilTheEnd(), [], example_inputs=(torch.randn(4, 8), torch.arange(8).expand(4, 8)))
    assert compiled.parts.keys() == {"first", "second"}


class Drawing(Large):
    """A branch on chance."""

    def forward(self, x, mask):
        x = self.first(x * mask)
        return self.second(x) if torch.rand(()) > 0.5 else x


@pytest.mark.parametrize("seed", range(4))
def test_chance_decides_nothing(seed):
    torch.manual_seed(seed)
    with pytest.warns(PartialCaptureWarning, match="data-dependent"):
        fxcompress.compile(Drawing(), [], example_inputs=(torch.randn(4, 8), torch.ones(4, 8, dtype=torch.int64)))


class Causal(nn.Module):
    """An encoder that torch would ask whether the mask that it gets is the causal one, to choose a kernel."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def forward(self, x):
        hidden = torch.ones(x.shape[1], x.shape[1]).triu(1)
        return self.encoder(x, torch.zeros_like(hidden).masked_fill(hidden == 1, -torch.inf))


@pytest.mark.filterwarnings("error::fxcompress.errors.BranchWarning")
def test_a_mask_of_an_encoder_decides_nothing():
    torch.manual_seed(0)
    model = Causal().eval()
    compiled = fxcompress.compile(model, [], example_inputs=(torch.randn(4, 6, 8),), dynamic_shapes="auto")
    for x in torch.randn(4, 6, 8), torch.randn(2, 9, 8):
        torch.testing.assert_close(compiled(x), model(x))
