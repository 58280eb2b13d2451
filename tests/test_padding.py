"""Padding: what capture takes for it, and that calibration does without it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import fxcompress
from fxcompress import passes
from fxcompress.capture import capture
from fxcompress.data.batch import Batch
from fxcompress.data.inputs import ExampleInputs
from fxcompress.data.padding import Padding
from fxcompress.data.samples import packed

WORDS, WIDTH = 20, 8


class Reader(nn.Module):
    """A text and its mask, ``[batch, length]`` each, to ``[batch, 3]``; `by` is how padding is kept out."""

    def __init__(self, by: str = "mask"):
        super().__init__()
        torch.manual_seed(0)
        self.by = by
        self.words, self.kinds = nn.Embedding(WORDS, WIDTH), nn.Embedding(2, WIDTH)
        self.mixing, self.answer = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, words, kinds, mask):
        x = self.words(words) + self.kinds(kinds)
        away = {"nothing": 0.0, "a little": -7.0}.get(self.by, float("-inf"))
        scores = (x @ x.mT).masked_fill(mask[:, None] == 0, away)
        x = self.mixing(scores.softmax(-1) @ x)
        if self.by == "each place":
            return self.answer(x)
        if self.by == "most":
            return self.answer(x.amax(1))
        weights = mask if self.by == "mask" else torch.ones_like(mask)
        return self.answer((x * weights[..., None]).sum(1) / weights.sum(1, keepdim=True))


def texts(*lengths, places=12):
    random = torch.Generator().manual_seed(1)
    words, kinds = (torch.randint(0, high, (len(lengths), places), generator=random) for high in (WORDS, 2))
    return words, kinds, (torch.arange(places) < torch.tensor(lengths)[:, None]).long()


def captured(model, inputs):
    return capture(model.eval(), ExampleInputs(inputs), dynamic_shapes="auto")


@pytest.mark.parametrize("lengths", [(12, 12), (12, 3), (4, 12), (1, 1)])
def test_a_mask_is_found_by_what_it_does(lengths):
    assert Padding.of(captured(Reader(), texts(*lengths)).graph) == Padding((1, 1, 1), mask=2)


@pytest.mark.parametrize("by", ["nothing", "a little", "each place", "most", "the mean"])
def test_what_reaches_an_output_is_no_padding(by):
    assert Padding.of(captured(Reader(by), texts(12, 7)).graph) is None


@settings(max_examples=30)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=80), st.integers(1, 12), st.integers(1, 30))
def test_each_sample_comes_once_and_gives_what_it_gave(lengths, size, given):
    model = Reader().eval()
    graph = captured(model, texts(12, 7)).graph
    samples = texts(*lengths)
    whole = list(Batch.of(graph).split(samples, given))

    seen = [(model(*leaves), leaves[0].shape[1], count) for leaves, count in packed(graph, whole, size)]

    found, expected = torch.cat([outputs for outputs, _, _ in seen]), model(*samples)
    order, wanted = (torch.cat([x, x.sum(1, keepdim=True)], 1).sort(0).values for x in (found, expected))
    torch.testing.assert_close(order, wanted, rtol=1e-4, atol=1e-5)
    assert max(count for _, _, count in seen) <= min(size, 8)
    assert sum(places * count for _, places, count in seen) <= 12 * len(lengths)


def test_calibration_does_without_padding():
    """Whatever it holds, and whether texts were filled up or came as long as they are."""
    lengths = [1 + 5 * i % 12 for i in range(40)]
    words, kinds, mask = texts(*lengths)
    other = torch.where(mask == 0, (words + 7) % WORDS, words)
    single = [tuple(x[i : i + 1, : lengths[i]] for x in (words, kinds, mask)) for i in range(40)]
    example = texts(12, 7)

    def ranges(data):
        every = [
            passes.Quantize(),
            passes.RoundWeights(precision="float32"),
            passes.Calibrate(estimator="output_error", precision="float32"),
        ]
        compiled = fxcompress.compile(Reader(), every, data=data, example_inputs=example)
        assert any("40 samples, float32 forward, without padding" in note for note in compiled.report.notes)
        return {name: tensor for name, tensor in compiled.state_dict().items() if tensor.is_floating_point()}

    padded = ranges([(words, kinds, mask)])
    for data in ([(other, kinds, mask)], single):
        for name, tensor in ranges(data).items():
            torch.testing.assert_close(tensor, padded[name], rtol=1e-5, atol=1e-6, msg=name)


class Scored(Reader):
    """With a loss over places, whose labels are of another number than the places that are left when padding is tried."""

    def forward(self, words, kinds, mask, labels):
        places = self.answer(self.words(words))
        return nn.functional.cross_entropy(places.flatten(0, 1), labels.flatten()), super().forward(words, kinds, mask)


def test_a_loss_that_refuses_other_lengths_does_not_stop_capture():
    mask = torch.ones(2, 8, dtype=torch.long)
    mask[0, 5:] = 0
    words = torch.randint(WORDS, (2, 8))
    graph = fxcompress.compile(Scored(), [], example_inputs=(words, mask, mask, torch.randint(3, (2, 8)))).graph
    assert len(graph.find_nodes(op="placeholder")) == 4
