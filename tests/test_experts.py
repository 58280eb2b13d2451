"""Mixtures of experts, whose tokens are divided by numbers that the data gives: one file, of any number of tokens, or none."""

import functools

import numpy as np
import onnxruntime
import openvino
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxcompress
from fxcompress import passes
from fxcompress.capture.selected import LoopsOverAllPlaces

WIDTH, COUNT = 8, 4


class Split(nn.Module):
    """Tokens sorted by their expert and split into as many as each gets."""

    def __init__(self):
        super().__init__()
        self.router = nn.Linear(WIDTH, COUNT)
        self.weight = nn.Parameter(torch.randn(COUNT, WIDTH, WIDTH))

    def forward(self, x):
        tokens = x.reshape(-1, WIDTH)
        best = self.router(tokens).argmax(-1)
        sizes, order = F.one_hot(best, COUNT).sum(0).tolist(), best.argsort()
        parts = [F.linear(part, weight) for part, weight in zip(tokens[order].split(sizes), self.weight)]
        return torch.zeros_like(tokens).index_add(0, order, torch.cat(parts), alpha=0.5).view(x.shape)


class Narrow(Split):
    """The same, each expert's tokens cut out by where they begin."""

    def forward(self, x):
        tokens = x.reshape(-1, WIDTH)
        best = self.router(tokens).argmax(-1)
        sizes, order = F.one_hot(best, COUNT).sum(0), best.argsort()
        parts, start, sorted_tokens = [], 0, tokens[order]
        for weight, size in zip(self.weight, sizes.tolist()):
            torch._check(start + size <= tokens.shape[0])
            parts.append(F.linear(sorted_tokens.narrow(0, start, size), weight))
            start = start + size
        return torch.cat(parts)[order.argsort()].view(x.shape)


class Counted(Split):
    """The same, counted by `bincount`, where experts are asked whether they get any."""

    def forward(self, x):
        tokens = x.reshape(-1, WIDTH)
        best = self.router(tokens).argmax(-1)
        result, order, start = torch.zeros_like(tokens), best.argsort(), 0
        for weight, size in zip(self.weight, torch.bincount(best, minlength=COUNT).tolist()):
            if size == 0:
                continue
            places = order[start : start + size]
            result[places] = F.linear(tokens[places], weight)
            start += size
        return result.view(x.shape)


class Hit(nn.Module):
    """A loop over those experts that any token goes to."""

    def __init__(self):
        super().__init__()
        self.router = nn.Linear(WIDTH, COUNT)
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(COUNT))

    def forward(self, x):
        tokens = x.reshape(-1, WIDTH)
        shares, best = self.router(tokens).softmax(-1).topk(2, -1)
        mask = F.one_hot(best, COUNT).permute(2, 1, 0)
        result = torch.zeros_like(tokens)
        for expert in torch.greater(mask.sum((-1, -2)), 0).nonzero():
            rank, token = torch.where(mask[expert].squeeze(0))
            found = self.experts[int(expert[0])](tokens[None, token].reshape(-1, WIDTH)) * shares[token, rank, None]
            result.index_add_(0, token, found)
        return result.view(x.shape)


class Skipped(Hit):
    """The same, where an expert is asked again, and some of the places have no expert: `Dbrx` and `LongcatFlash` do so."""

    def forward(self, x):
        tokens = x.reshape(-1, WIDTH)
        shares, best = self.router(tokens).softmax(-1).topk(2, -1)
        mask = F.one_hot(best, COUNT + 2).permute(2, 1, 0)
        result = torch.zeros_like(tokens)
        for expert in torch.greater(mask.sum((-1, -2)), 0).nonzero():
            rank, token = torch.where(mask[expert].squeeze(0))
            if token.numel() == 0:
                continue
            found = list(self.experts)[int(expert[0])](tokens[token]) * shares[token, rank, None]
            result.index_add_(0, token, found)
        return result.view(x.shape)


class Named(Hit):
    """The same, where experts are found by name, and the router is moved to where it is."""

    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleDict({f"expert_{place}": expert for place, expert in enumerate(self.experts)})

    def forward(self, x):
        tokens = x.reshape(-1, WIDTH)
        self.router = self.router.to(torch.float32)
        shares, best = self.router(tokens).softmax(-1).topk(1, -1)
        mask = F.one_hot(best, COUNT).permute(2, 1, 0)
        result = torch.zeros_like(tokens)
        for expert in torch.greater(mask.sum((-1, -2)), 0).nonzero():
            rank, token = torch.where(mask[expert].squeeze(0))
            found = self.experts[f"expert_{expert[0]}"](tokens[token]) * shares[token, rank, None]
            result.index_add_(0, token, found)
        return result.view(x.shape)


class Asked(Hit):
    """A loop over all experts, which asks of each whether any token goes to it, in one of the ways of `ASKING`."""

    def __init__(self, how="any"):
        super().__init__()
        self.has_none = ASKING[how]

    def forward(self, x):
        tokens = x.reshape(-1, WIDTH)
        shares, best = self.router(tokens).softmax(-1).topk(2, -1)
        result = torch.zeros_like(tokens)
        for number, expert in enumerate(self.experts):
            mask = best == number
            token, rank = torch.where(mask)
            if self.has_none(mask, token):
                continue
            result.index_add_(0, token, expert(tokens[token]) * shares[token, rank, None])
        return result.view(x.shape)


ASKING = {
    "any": lambda mask, token: not mask.any(),
    "item": lambda mask, token: not torch.any(mask).item(),
    "length": lambda mask, token: token.shape[0] == 0,
    "numel": lambda mask, token: not token.numel(),
    "fewer": lambda mask, token: len(token) < 1,
    "sum": lambda mask, token: mask.sum() == 0,
    "count": lambda mask, token: not mask.sum() > 0,
    "number": lambda mask, token: mask.sum().item() == 0,
    "several": lambda mask, token: torch.sym_max(token.shape[0], mask.nonzero().shape[0]) == 0,
}


class Filled(Asked):
    """The same, where a mask takes out the rows and puts them back."""

    def forward(self, x):
        tokens = x.reshape(-1, WIDTH)
        share, best = self.router(tokens).softmax(-1).max(-1)
        result = torch.zeros_like(tokens)
        for number, expert in enumerate(self.experts):
            if (mask := best == number).any():
                result[mask] += share[mask, None] * expert(tokens[mask])
        return result.view(x.shape)


def runs(path):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    name = session.get_inputs()[0].name
    return [lambda x: session.run(None, {name: x})[0], lambda x: compiled([x])[0]]


def built(kind, biases=(0.0, 0.0, 0.0, 0.0)):
    torch.manual_seed(0)
    model = kind().eval()
    with torch.no_grad():
        model.router.bias.copy_(torch.tensor(biases))
    return model, [torch.randn(4, 6, WIDTH) for _ in range(3)]


ASKED = [functools.partial(Asked, how) for how in ASKING]


@pytest.mark.parametrize(
    "kind",
    [Split, Narrow, Counted, Hit, Skipped, Named, Filled, *ASKED],
    ids=["split", "narrow", "counted", "hit", "skipped", "named", "filled", *ASKING],
)
def test_any_number_of_tokens_goes_to_any_expert(kind, tmp_path):
    model, data = built(kind)
    run = runs(fxcompress.compile(model, [], data=data).to_onnx(tmp_path / "m.onnx"))
    for batch, length in ((1, 1), (3, 9), (2, 40)):
        x = torch.randn(batch, length, WIDTH)
        wanted = model(x).detach().numpy()
        for runtime in run:
            np.testing.assert_allclose(runtime(x.numpy()), wanted, atol=1e-5)


@pytest.mark.parametrize("kind", [Split, Hit])
def test_an_expert_that_no_data_reaches_stays_in_float(kind, tmp_path):
    model, data = built(kind, biases=(0.0, 0.0, -90.0, 0.0))
    compiled = fxcompress.compile(model, data=data)
    notes = [note for row in compiled.report.rows for note in row.notes]
    left = [note for note in notes if note.startswith("no value of the data came to what is left in float, 1 in all")]
    assert bool(left) == (kind is Hit)  # of the others one quantizer serves all experts, in front of the split
    assert any("quantizer" in str(node.target) for node in compiled.graph.nodes)
    x = torch.randn(3, 5, WIDTH)
    wanted = compiled(x).detach().numpy()
    onnx, vino = runs(compiled.to_onnx(tmp_path / "m.onnx", verify="strict"))
    np.testing.assert_allclose(vino(x.numpy()), wanted, atol=1e-4)
    assert np.abs(onnx(x.numpy()) - wanted).max() < 0.1 * np.abs(wanted).max()  # a rounding that falls the other way


@pytest.mark.parametrize("mend", [passes.LearnRounding(), passes.CorrectBias(), passes.RoundWeights(sequential=True)])
def test_experts_that_get_other_tokens_once_quantized_stay_as_they_are(mend):
    model, data = built(Hit, biases=(0.0, 0.0, -90.0, 0.0))
    few = fxcompress.QuantizationSpec(bits=3, symmetric=False)
    compiled = fxcompress.compile(model, [passes.Quantize(activations=few), passes.Calibrate(), mend], data=data)
    assert all(value.isfinite().all() for value in compiled.state_dict().values() if isinstance(value, torch.Tensor))


def test_a_loop_over_those_that_are_hit_is_told():
    model, data = built(Hit)
    (row, *_) = fxcompress.compile(model, [], data=data).report.rows
    assert any("a loop over the places of 4 that are set goes over all of them" in note for note in row.notes)


class Counting(nn.Module):
    """Counts in a loop that never runs with the example."""

    def __init__(self):
        super().__init__()
        self.router, self.experts = nn.Linear(WIDTH, COUNT), nn.ModuleList([nn.Linear(WIDTH, WIDTH)])

    def forward(self, x):
        y = self.experts[0](self.router(x).repeat(1, 1, 2))
        for _ in (x.sum((0, 1)) > 1e9).nonzero():
            y = y + 1
        return y


class Biased(Hit):
    """An expert that some token goes to, as all are with the example, gives all tokens its bias as well."""

    def forward(self, x):
        result = super().forward(x)
        for expert in torch.greater(F.one_hot(self.router(x).argmax(-1), COUNT).sum((0, 1)), 0).nonzero():
            result = result + self.experts[int(expert[0])].bias
        return result


@pytest.mark.parametrize("kind", [Counting, Biased])
def test_a_loop_that_does_something_where_nothing_is_set_is_not_compiled_as_a_whole(kind):
    model, data = built(kind)
    with pytest.warns(fxcompress.errors.PartialCaptureWarning):
        compiled = fxcompress.compile(model, [], data=data)
    assert {f"experts.{place}" for place in range(len(model.experts))} <= set(compiled.parts)
    x = torch.randn(1, 1, WIDTH)
    torch.testing.assert_close(compiled(x), model(x))


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_slices_are_added_along_any_axis(dim, tmp_path):
    class Add(nn.Module):
        def forward(self, x, y, places):
            return x.index_add(dim, places, y, alpha=2)

    shape = [3, 4, 5]
    more = [6 if axis == dim % 3 else size for axis, size in enumerate(shape)]
    given = torch.randn(shape), torch.randn(more), torch.randint(0, 3, (6,))
    path = fxcompress.compile(Add(), [], example_inputs=given, dynamic_shapes="batch").to_onnx(
        tmp_path / "m.onnx", verify=False
    )
    wanted = Add()(*given).numpy()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feed = {one.name: value.numpy() for one, value in zip(session.get_inputs(), given)}
    np.testing.assert_allclose(session.run(None, feed)[0], wanted, atol=1e-5)
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    np.testing.assert_allclose(compiled(list(feed.values()))[0], wanted, atol=1e-5)


class Otherwise(nn.Module):
    """Something else where nothing is found; `how` is a way of finding it, and what is done then."""

    def __init__(self, how):
        super().__init__()
        self.first, self.second, self.how = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), how

    def forward(self, x):
        x = self.first(x)
        return self.how(self.second, x, x.mean(-1) > 0)


def added_to_rows(layer, x, found):
    rows = torch.where(found.flatten())[0]
    return x if rows.shape[0] == 0 else x.flatten(0, 1).index_add(0, rows, layer(x.flatten(0, 1)[rows]) + 1).view(x.shape) + 1


def until_a_place(layer, x, found):
    start = x[:, : found[0].float().argmax().item()]
    return x if start.shape[1] == 0 else layer(x)


def done_to_others(layer, x, found):
    if not found.any():
        return x
    others = x.mean(-1) > 0.2
    y = x.clone()
    y[others] = layer(x[others])
    return y


OTHERWISE = {
    "others": done_to_others,
    "slice": until_a_place,
    "all rows": lambda layer, x, found: layer(x) if found.any() else x,
    "more": added_to_rows,
    "two": lambda layer, x, found: layer(x) if found.sum() > 1 else x,
    "many": lambda layer, x, found: layer(x) if x[found].shape[0] > 2 else x,
}


@pytest.mark.parametrize("how", OTHERWISE.values(), ids=OTHERWISE)
def test_a_question_whose_answer_changes_more_than_what_is_found_is_not_in_a_graph(how):
    torch.manual_seed(0)
    model, x = Otherwise(how).eval(), torch.randn(4, 6, WIDTH)
    assert (model.first(x).mean(-1) > 0).sum() > 2
    with pytest.warns(fxcompress.errors.PartialCaptureWarning, match="data-dependent"):
        compiled = fxcompress.compile(model, [], example_inputs=(x,))
    assert compiled.parts.keys() == {"first", "second"}


@pytest.mark.parametrize("left_by", ["break", "its end"])
def test_a_loop_over_places_that_is_behind_is_not_made_shorter(left_by):
    with LoopsOverAllPlaces({}) as places:
        for place in torch.ones(3).nonzero():
            if left_by == "break" and int(place):
                break
        torch.ones(1)
    assert not places.shortened()
