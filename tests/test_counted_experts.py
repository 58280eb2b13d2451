"""Mixtures of experts as authors write them for inference: loops over how many tokens each expert gets, counted in NumPy."""

import numpy as np
import onnxruntime
import openvino
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxcompress

WIDTH, COUNT, CHOSEN = 8, 4, 2


class Marked(nn.Module):
    """Tokens sorted by expert, computed part by part, and put together again: as long as all parts are."""

    def __init__(self):
        super().__init__()
        self.router = nn.Linear(WIDTH, COUNT)
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(COUNT))

    def forward(self, x):
        tokens = x.view(-1, WIDTH)
        shares, chosen = self.router(tokens).softmax(-1).topk(CHOSEN, -1)
        return self.mixed(tokens, shares, chosen).view(x.shape)

    def counts(self, chosen):
        marks = chosen.new_zeros(chosen.shape[0], COUNT)
        marks.scatter_(1, chosen, 1)
        return marks.sum(dim=0).cpu().numpy()

    @torch.no_grad()
    def mixed(self, tokens, shares, chosen):
        order, parts, start = chosen.view(-1).argsort(), [], 0
        by_expert = tokens[order // CHOSEN]
        for place, count in enumerate(self.counts(chosen)):
            end = start + count
            if count == 0:
                continue
            parts.append(self.experts[place](by_expert[start:end]))
            start = end
        together = torch.cat(parts) if len(parts) else by_expert.new_empty(0)
        back = torch.empty_like(together)
        back[order] = together
        return (back.view(*chosen.shape, -1) * shares[..., None]).sum(1)


class OneHot(Marked):
    def counts(self, chosen):
        return F.one_hot(chosen, COUNT).sum((0, 1)).tolist()


class Binned(Marked):
    """Ends of parts, of as many experts as got any; the model has a longer list as well, of something else."""

    def __init__(self):
        super().__init__()
        self.others = nn.ModuleList(nn.Identity() for _ in range(COUNT + 2))

    @torch.no_grad()
    def mixed(self, tokens, shares, chosen):
        mixed, order = torch.zeros_like(tokens), chosen.view(-1).argsort()
        ends = chosen.view(-1).bincount().cpu().numpy().cumsum(0)
        for place, end in enumerate(ends):
            start = 0 if place == 0 else ends[place - 1]
            if start == end:
                continue
            found = order[start:end] // CHOSEN
            part = self.experts[place](tokens[found]).mul_(shares.view(-1, 1)[order[start:end]])
            mixed.scatter_add_(0, found.view(-1, 1).repeat(1, WIDTH), part)
        return mixed


class Missed(Marked):
    """Does something where an expert gets nothing, as none does with the example."""

    def mixed(self, tokens, shares, chosen):
        y = tokens
        for place, count in enumerate(self.counts(chosen)):
            y = y - self.experts[place].bias if count == 0 else y + 1
        return y


def built(kind):
    torch.manual_seed(0)
    return kind().eval(), [torch.randn(4, 6, WIDTH) for _ in range(3)]


@pytest.mark.parametrize("kind", [Marked, OneHot, Binned])
def test_experts_get_as_many_tokens_as_are_counted(kind, tmp_path):
    model, data = built(kind)
    compiled = fxcompress.compile(model, [], data=data)
    assert not any("fixed" in note for row in compiled.report.rows for note in row.notes)
    path = compiled.to_onnx(tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for batch, length in ((1, 1), (3, 9)):
        x = torch.randn(batch, length, WIDTH)
        wanted = model(x).detach().numpy()
        for found in (session.run(None, {session.get_inputs()[0].name: x.numpy()})[0], compiled([x.numpy()])[0]):
            np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_what_is_done_for_an_expert_without_tokens_is_not_left_out():
    model, data = built(Missed)
    with pytest.warns(fxcompress.errors.PartialCaptureWarning):
        fxcompress.compile(model, [], data=data)
