"""What a model does in training only: kept, or told before anybody trains."""

import copy
import os
import random
import types
import warnings

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as processes
import torch.nn.functional as F
import torch.nn.utils.prune
from torch import nn

import fxcompress
from fxcompress import passes
from fxcompress.capture import capture, training_trace
from fxcompress.data.inputs import example_inputs
from fxcompress.errors import TrainingWarning
from fxcompress.ir.training_ops import DROP_PATH

X = torch.randn(4, 6, 5, 5)
P = 0.25


def of_rows(x, training):
    if not training:
        return x
    noise = x.new_empty((x.shape[0],) + (1,) * (x.dim() - 1)).bernoulli_(1 - P)
    return x * noise.div_(1 - P)


def of_rows_by_rounding(x, training):
    if not training:
        return x
    noise = (1 - P + torch.rand((x.shape[0],) + (1,) * (x.dim() - 1), dtype=x.dtype, device=x.device)).floor_()
    return x.div(1 - P) * noise


def of_rows_by_comparison(x, training):
    return x * (torch.rand(x.shape[0], 1, 1, 1) > P).to(x.dtype) / (1 - P) if training else x


def of_rows_unscaled(x, training):
    return x * torch.bernoulli(torch.full((x.shape[0], 1, 1, 1), 1 - P)) if training else x


def of_rows_by_where(x, training):
    if not training:
        return x
    return torch.where(torch.empty(x.shape[0], 1, 1, 1).uniform_(0, 2) < 2 * P, torch.zeros_like(x), x / (1 - P))


def of_batches(x, training):
    return x * torch.empty(1, 1, 1, 1).bernoulli_(1 - P) / (1 - P) if training else x


def of_channels(x, training):
    return x * x.new_empty(x.shape[0], x.shape[1], 1, 1).bernoulli_(1 - P) / (1 - P) if training else x


def of_elements(x, training):
    return x * torch.bernoulli(torch.ones_like(x) * (1 - P)) / (1 - P) if training else x


class Residual(nn.Module):
    """A branch that is dropped, in a residual block of twice the same form."""

    def __init__(self, drop):
        super().__init__()
        self.drop, self.gamma = drop, nn.Parameter(torch.ones(6, 1, 1))
        self.first, self.second = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 1)

    def forward(self, x):
        x = x + self.drop(self.gamma * self.first(x), self.training)
        return x + self.drop(self.gamma * self.second(x), self.training)


@pytest.fixture
def silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error", TrainingWarning)
        yield


DROPS = {  # the dimensions that are drawn along, and the factor of what is kept
    of_rows: ([0], 1 / (1 - P)),
    of_rows_by_rounding: ([0], 1 / (1 - P)),
    of_rows_by_comparison: ([0], 1 / (1 - P)),
    of_rows_unscaled: ([0], 1.0),
    of_rows_by_where: ([0], 1 / (1 - P)),
    of_batches: ([], 1 / (1 - P)),
    of_channels: ([0, 1], 1 / (1 - P)),
    of_elements: ([0, 1, 2, 3], 1 / (1 - P)),
}


@pytest.mark.parametrize(("drop", "form"), DROPS.items(), ids=[one.__name__ for one in DROPS])
def test_what_is_dropped_at_random_stays_dropped_however_it_is_written(drop, form, silent):
    model = Residual(drop)
    compiled = fxcompress.compile(model, [passes.Sparsify(level=0.2)], example_inputs=X)
    found = compiled.graph.find_nodes(op="call_function", target=DROP_PATH)
    dims, scale = form
    assert [(node.args[1], node.args[2], node.args[3]) for node in found] == [
        (pytest.approx(P), dims, pytest.approx(scale))
    ] * 2
    assert torch.equal(compiled.eval()(X), compiled(X))
    assert not torch.equal(compiled.train()(X), compiled(X))


@pytest.mark.parametrize(
    "drop",
    [F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout],
    ids=lambda drop: drop.__name__,
)
@pytest.mark.parametrize("where", ["beside", "before and after", "twice", "in place", "in place of a part", "behind a write"])
def test_what_reads_a_value_beside_a_dropout_reads_it_undropped(drop, where, silent):
    """An idle dropout returns its input itself, and a trace may take the one for the other from there on."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 1)

        def forward(self, x):
            x = self.first(x)
            if where == "beside":
                return x + self.second(drop(x, P, self.training))
            if where == "behind a write":  # which another name sees, so that torch's own way replaces it
                seen = x.flatten(1)
                x.add_(1)
                return seen, self.second(drop(x, P, self.training))
            if where == "in place":
                return self.second(drop(x, P, self.training, True)) + x
            if where == "in place of a part":
                drop(x[:, :3], P, self.training, True)
                return x + self.second(x)
            if where == "twice":
                return drop(x, P, self.training) * x + self.second(drop(x, P, self.training))
            return x.relu(), self.second(drop(x, P, self.training)), x.sigmoid()

    model = Net()
    x = X
    if drop in (F.dropout1d, F.dropout3d):  # of inputs of other ranks
        kind = nn.Conv1d if drop is F.dropout1d else nn.Conv3d
        model.first, model.second = kind(6, 6, 3, padding=1), kind(6, 6, 1)
        x = X.flatten(2) if drop is F.dropout1d else X.unsqueeze(2)
    compiled = fxcompress.compile(model, [], example_inputs=x)
    outputs = []
    for one in (model.train(), compiled.train()):
        torch.manual_seed(3)
        outputs.append(one(x))
    torch.testing.assert_close(*outputs)


def test_another_value_read_in_training_is_told():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 1)

        def forward(self, x):
            y = self.first(x).relu()
            return self.second(x if self.training else y) + y

    with pytest.warns(TrainingWarning, match="in training it reads something else for conv2d"):
        fxcompress.compile(Net(), fxcompress.defaults.training(), data=[X])


def test_samples_are_dropped_as_often_as_in_the_model(silent):
    model = Residual(of_rows)
    compiled = fxcompress.compile(model, [], example_inputs=X)
    x, torch_share = X[:1].expand(4000, -1, -1, -1), []
    for one in (model, compiled):
        with torch.no_grad():
            outputs = one.train()(x).flatten(1)
        values, counts = torch.unique(outputs.round(decimals=3), dim=0, return_counts=True)
        assert len(values) == 4
        torch_share.append(sorted((counts / 4000).tolist()))
    assert torch_share[0] == pytest.approx(torch_share[1], abs=0.05)


def test_the_file_has_no_drops_and_the_same_integers(tmp_path, silent):
    """Quantizers stand where they would without drops."""
    torch.manual_seed(0)
    with_drops = Residual(of_rows)
    without = Residual(lambda x, training: x)
    without.load_state_dict(with_drops.state_dict())
    lowered = [fxcompress.compile(m, fxcompress.defaults.training(), data=[X]).lower() for m in (with_drops, without)]
    assert [str(n.target) for n in lowered[0].graph.nodes] == [str(n.target) for n in lowered[1].graph.nodes]
    assert torch.equal(lowered[0](X), lowered[1](X))


class Attention(nn.Module):
    def __init__(self, need_weights):
        super().__init__()
        self.attention, self.need_weights = nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True), need_weights

    def forward(self, x):
        return self.attention(x, x, x, need_weights=self.need_weights)[0]


@pytest.mark.parametrize("need_weights", [True, False])
def test_attention_drops_its_probabilities(need_weights, silent):
    x = torch.randn(2, 5, 8)
    compiled = fxcompress.compile(Attention(need_weights), [], example_inputs=x)
    assert not torch.equal(compiled.train()(x), compiled(x))
    assert torch.equal(compiled.eval()(x), compiled(x))


class Body(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.norm, self.drop = nn.Conv2d(6, 6, 3), nn.BatchNorm2d(6), nn.Dropout(0.5)
        self.head, self.last = nn.Conv2d(6, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x):
        return self.last(self.head(self.drop(self.norm(self.layer(x)))))


class Frozen(Body):
    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()
        return self


def by_hand():
    model = Body().train()
    model.norm.eval()
    return model


@pytest.mark.parametrize("make", [Frozen, lambda: Frozen().eval(), by_hand], ids=["train", "train, in inference", "eval"])
@pytest.mark.parametrize("in_place", [False, True])
def test_frozen_norms_stay_frozen(make, in_place, silent):
    model = make()
    stack = [passes.Sparsify(level=0.2), *fxcompress.defaults.training()]
    if in_place:
        fxcompress.compress(model, stack, data=[X])
        compiled = model
        compiled.train()
        if not isinstance(model, Frozen):
            model.norm.eval()
    else:
        compiled = fxcompress.compile(model, stack, data=[X]).train()
        assert any("stay in inference mode" in note for row in compiled.report.rows for note in row.notes)
    before = {name: value.clone() for name, value in compiled.state_dict().items() if "running" in name}
    compiled(X)
    moved = {name for name, value in before.items() if not torch.equal(value, compiled.state_dict()[name])}
    assert moved == {"last.running_mean", "last.running_var"}


class FixedInForward(Body):
    """A mode that the code of forward says, which no `train()` changes."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.last.track_running_stats = how != "statistics that stay"

    def forward(self, x):
        x = self.layer(x)
        if self.how == "norm":
            x = F.batch_norm(x, self.norm.running_mean, self.norm.running_var, self.norm.weight, self.norm.bias)
        elif self.how == "eval":
            x = self.norm.eval()(x)
        elif self.how == "dropout":
            x = F.rrelu(F.alpha_dropout(torch.dropout(x, 0.5, False), 0.5))
        return self.last(self.head(x))


@pytest.mark.parametrize("how", ["norm", "eval", "dropout", "statistics that stay"])
@pytest.mark.filterwarnings("ignore::fxcompress.errors.FileWarning")
def test_a_mode_that_forward_fixes_stays(how, silent):
    model = FixedInForward(how).train()
    compiled = fxcompress.compile(model, [passes.Sparsify(level=0.0)], example_inputs=X).train()
    for _ in range(2):
        torch.testing.assert_close(compiled(X), model(X))
    states = [{n: v for n, v in one.state_dict().items() if "running" in n} for one in (model, compiled)]
    torch.testing.assert_close(*states)


def test_weights_that_hooks_of_torch_compute_are_no_losses(silent):
    model = Body()
    torch.nn.utils.prune.l1_unstructured(model.layer, "weight", 0.3)
    fxcompress.compile(model, [passes.Sparsify(level=0.2)], example_inputs=X)


def test_norms_beside_what_is_told_are_not():
    model = Body()
    torch.nn.utils.parametrizations.spectral_norm(model.head)
    told = "; ".join(capture(model, example_inputs(model, X)).meta["lost_in_training"])
    assert "_u" in told and "running_mean" not in told


def test_what_the_model_given_has_in_inference_mode_stays_there_whatever_it_is(silent):
    model = Body().train()
    model.drop.eval()
    compiled = fxcompress.compile(model, [], example_inputs=X).train()
    assert torch.equal(compiled(X), compiled(X))
    assert not torch.equal(compiled(X), compiled.eval()(X))


def test_the_norms_of_a_frozen_part_stay_frozen_where_the_whole_cannot_be_traced(silent):
    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = Body()

        def train(self, mode=True):
            super().train(mode)
            self.body.norm.eval()
            return self

        def forward(self, x):
            return self.body(x) if x.sum() > -1e9 else x

    compiled = fxcompress.compile(Whole(), [], example_inputs=X, submodules=["body"]).train()
    before = compiled.model.body.state_dict()["norm.running_mean"].clone()
    compiled(X)
    assert torch.equal(compiled.model.body.state_dict()["norm.running_mean"], before)


# ------------------------------------------------------------------------------------------------- what is told


class Lost(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.other = nn.Linear(6, 6), nn.Linear(6, 6)
        self.register_buffer("mean", torch.zeros(6))


class Noise(Lost):
    def forward(self, x):
        x = self.layer(x)
        return self.other(x + torch.randn_like(x) if self.training else x)


class NoiseOfItsShape(Lost):
    def forward(self, x):
        x = self.layer(x)
        return self.other(x + torch.randn(x.shape) if self.training else x)


class Gumbel(Lost):
    def forward(self, x):
        gates = self.layer(x)
        chosen = F.gumbel_softmax(gates, hard=True) if self.training else F.one_hot(gates.argmax(-1), 6).float()
        return self.other(x * chosen)


class Auxiliary(Lost):
    def forward(self, x):
        x = self.layer(x)
        return (x.relu(), self.other(x)) if self.training else x.relu()


class Moving(Lost):
    def forward(self, x):
        if self.training:
            self.mean.mul_(0.9).add_(0.1 * x.mean(0))
        return self.layer(x - self.mean)


class ByChance(Lost):
    def forward(self, x):
        return self.other(self.layer(x)) if self.training and torch.rand(()) > 0.5 else self.layer(x)


class ByPythonsChance(Lost):
    def forward(self, x):
        return self.layer(x * random.choice([1.0])) if self.training else self.layer(x)


class Skipping(Lost):
    def forward(self, x):
        x = self.layer(x)
        return x if self.training else x.softmax(-1)


class Shifting(Lost):
    def forward(self, x):
        return self.layer(x.roll(1, -1) if self.training else x)


class NotTraced(Lost):
    def forward(self, x):
        x = self.layer(x)
        return self.other(x + 1 if self.training and not torch.compiler.is_compiling() else x)


class NotExported(Lost):
    def forward(self, x):
        return self.other(self.layer(x) * (3 if self.training and not torch.compiler.is_exporting() else 1))


class OtherOrder(Lost):
    def forward(self, x):
        return self.layer(x) - self.other(x) if self.training else self.other(x) - self.layer(x)


class OtherLayersFirst(Lost):
    def forward(self, x):
        return self.layer(self.other(x)) if self.training else self.other(self.layer(x))


class OtherResultsFirst(Lost):
    def forward(self, x):
        x, y = self.layer(x), self.other(x)
        return (x, y) if self.training else (y, x)


class Balanced(Lost):
    """As experts have it: a loss that a training loop adds is left in an attribute."""

    def forward(self, x):
        gates = self.layer(x)
        self.balance = gates.softmax(-1).mean(0).square().sum()
        return self.other(gates)


class Squared(Lost):
    """The same of an operator that Python code of torch wraps."""

    def forward(self, x):
        gates = self.layer(x)
        self.balance = (gates**2).mean()
        return self.other(gates)


class Routed(Lost):
    """The same of as many rows as the values say, which a run without values cannot know."""

    def forward(self, x):
        gates = self.layer(x)
        self.balance = gates[gates.sum(-1) > 0].square().sum()
        return self.other(gates)


class Held(Lost):
    """The same in an object that is no container."""

    def __init__(self):
        super().__init__()
        self.held = types.SimpleNamespace()

    def forward(self, x):
        x = self.layer(x)
        self.held.loss = x.square().mean()
        return self.other(x)


class Hooked(Lost):
    """Features for a loss of the training loop, collected by a hook in a place of its own."""

    def __init__(self):
        super().__init__()
        features = {}
        self.layer.register_forward_hook(lambda module, args, output: features.update(of=output))

    def forward(self, x):
        return self.other(self.layer(x))


class Freezing(Lost):
    def forward(self, x):
        self.layer.requires_grad_(not self.training)
        return self.other(self.layer(x))


class Collecting(Lost):
    def __init__(self):
        super().__init__()
        self.losses = {"of": []}

    def forward(self, x):
        x = self.layer(x)
        self.losses["of"].append(x.square().mean())
        return self.other(x)


class Counting(Lost):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return self.layer(x) * min(1.0, self.calls / 100)


class CountingOnly(Lost):
    """For a loop that looks at the count."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        return self.layer(x)


class Averaging(Lost):
    """Statistics in a plain attribute, no buffer."""

    def __init__(self):
        super().__init__()
        self.average = torch.zeros(6)

    def forward(self, x):
        x = self.layer(x)
        self.average = 0.9 * self.average + 0.1 * x.detach().mean(0)
        return x - self.average


class Clamping(Lost):
    """As critics of Wasserstein GANs clamp their weights."""

    def forward(self, x):
        self.layer.weight.data.clamp_(-0.1, 0.1)
        return self.layer(x)


class Replacing(Lost):
    def forward(self, x):
        self.layer.weight.data = self.layer.weight.data.clamp(-0.1, 0.1)
        return self.layer(x)


class Merging(Lost):
    """An adapter that is merged into its layer by `eval`, and split off by `train` (Hu et al., arXiv 2106.09685)."""

    merged = False

    def train(self, mode=True):
        super().train(mode)
        if mode == self.merged:
            sign = -1 if mode else 1
            self.layer.weight.data += sign * self.other.weight.data
            self.merged = not mode
        return self

    def forward(self, x):
        return self.layer(x) if self.merged else self.layer(x) + x @ self.other.weight.T


class HookedParameter(Lost):
    def __init__(self):
        super().__init__()
        self.layer.weight.register_hook(lambda gradient: gradient.clamp(-1, 1))

    def forward(self, x):
        return self.other(self.layer(x))


class OfAnothersMode(Lost):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        x = self.drop(self.layer(x))
        return self.other(x + torch.randn_like(x) if self.drop.training else x)


class OwnDropout(nn.Dropout):
    def forward(self, x):
        return x + torch.randn_like(x) if self.training else x


class OfALayerDerivedFromTorchs(Lost):
    def __init__(self):
        super().__init__()
        self.drop = OwnDropout(0.5)

    def forward(self, x):
        return self.other(self.drop(self.layer(x)))


LOST = {
    OfAnothersMode: "randn_like",
    OfALayerDerivedFromTorchs: "randn_like",
    NotTraced: "agree with the model's to .* dB only",
    NotExported: "agree with the model's to .* dB only",
    OtherOrder: "also runs sub",
    OtherLayersFirst: "reads something else for linear",
    OtherResultsFirst: "returns other values",
    Balanced: "leaves tensors in 'balance'",
    Squared: "leaves tensors in 'balance'",
    Routed: "leaves tensors in 'balance'",
    Held: "leaves tensors in 'held'",
    Hooked: "keeps the result of addmm",
    Freezing: "sets requires_grad of 'layer.weight', 'layer.bias'",
    Collecting: "leaves tensors in 'losses'",
    Counting: "changes 'calls' from call to call",
    CountingOnly: "changes 'calls' from call to call, which stays",
    Averaging: "changes 'average' from call to call",
    Clamping: "writes to 'layer.weight'.* do not train it",
    Replacing: "writes to 'layer.weight'.* do not train it",
    Merging: "also runs linear|also runs matmul",
    HookedParameter: "hooks on the parameters 'layer.weight'",
    Noise: "randn_like",
    NoiseOfItsShape: "randn",
    Gumbel: "gumbel_softmax|one_hot|softmax",
    Auxiliary: "returns 2 tensors",
    Moving: "writes to 'mean'",
    ByChance: "could not be traced",
    ByPythonsChance: "`random`",
    Skipping: "does not run softmax",
    Shifting: "roll",
}


@pytest.mark.parametrize(("kind", "words"), LOST.items(), ids=[kind.__name__ for kind in LOST])
def test_what_training_would_lose_is_told_before_anybody_trains(kind, words):
    x = torch.randn(3, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("error", TrainingWarning)
        compiled = fxcompress.compile(kind(), [passes.FoldBatchNorm()], example_inputs=x)
    assert any("training" in note or "while it runs" in note or "hooks" in note for note in compiled.report.rows[0].notes)
    with pytest.warns(TrainingWarning, match=words):
        compiled.train()
    with pytest.warns(TrainingWarning, match=words):
        fxcompress.compile(kind(), [passes.Sparsify(level=0.5)], example_inputs=x)
    if kind is Auxiliary:  # in parts it trains as it is
        compression = fxcompress.compress(kind(), [passes.FoldBatchNorm()], example_inputs=x)
        assert list(compression.compiled.parts) == ["layer"]
        return
    with pytest.warns(TrainingWarning, match=words):
        fxcompress.compress(kind(), [passes.FoldBatchNorm()], example_inputs=x)


class Remembering(Lost):
    """Keeps the grid of the last size, as detectors do, and its input, for those who look at it."""

    size, grid, seen = None, None, None

    def forward(self, x):
        if self.size != x.shape[-1]:
            self.size, self.grid = x.shape[-1], torch.arange(x.shape[-1]) / 6
        self.seen = x.detach()
        return self.layer(x + self.grid)


def test_what_is_made_once_and_read_again_is_nothing_to_tell(silent):
    compiled = fxcompress.compile(Remembering(), [passes.Sparsify(level=0.5)], example_inputs=torch.randn(3, 6)).train()
    assert any("leaves 'seen' in the model to be looked at" in note for note in compiled.report.rows[0].notes)


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.filterwarnings("ignore::fxcompress.errors.TrainingWarning")
def test_what_train_and_forward_write_stays_out_of_the_users_weights(mode, in_place):
    for kind in (Merging, Clamping, Replacing):
        model, x = kind().train(mode), torch.randn(3, 6)
        wanted = copy.deepcopy(model)(x)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        compiled = (fxcompress.compress if in_place else fxcompress.compile)(model, [], example_inputs=x)
        assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
        if not in_place:
            torch.testing.assert_close(compiled.eval()(x), wanted)
            torch.testing.assert_close(model(x), wanted)


def test_what_forward_keeps_in_attributes_is_as_it_was():
    for kind in (Counting, Averaging, Collecting, Balanced):
        model, x = kind(), torch.randn(3, 6)
        before = copy.deepcopy(vars(model))
        fxcompress.compile(model, [], example_inputs=x)
        assert vars(model).keys() == before.keys()
        assert model.calls == 0 if kind is Counting else True
        assert model.losses == {"of": []} if kind is Collecting else True
        assert torch.equal(model.average, before["average"]) if kind is Averaging else True


def test_what_stays_random_in_inference_mode_is_left_to_the_model():
    class Sampling(Body):
        """Dropout that `eval` leaves on (Gal and Ghahramani, arXiv 1506.02142)."""

        def train(self, mode=True):
            super().train(mode)
            self.drop.train()
            return self

    with pytest.warns(fxcompress.errors.PartialCaptureWarning, match="randomness"):
        compiled = fxcompress.compile(Sampling(), [], example_inputs=X).eval()
    assert not torch.equal(compiled(X), compiled(X))


@pytest.mark.parametrize("alone", [True, False])
def test_a_model_whose_layers_alone_read_the_mode_is_run_no_more(alone, monkeypatch):
    runs = []
    monkeypatch.setattr(training_trace, "calls_of", lambda *_: runs.append(None))
    last = nn.InstanceNorm2d(4) if alone else nn.SyncBatchNorm(4)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), last)
    capture(model, example_inputs(model, torch.randn(3, 3, 8, 8)))
    assert bool(runs) != alone


class TwoAttentions(nn.Module):
    def __init__(self, first, second):
        super().__init__()
        self.layers, self.drops = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)]), (first, second)

    def forward(self, x):
        for layer, drop in zip(self.layers, self.drops):
            x = F.scaled_dot_product_attention(x, layer(x), x, None, drop if self.training else 0.0)
        return x


@pytest.mark.parametrize("drops, is_traced_again", [((0.0, 0.0), False), ((0.25, 0.25), False), ((0.25, 0.5), True)])
def test_attentions_drop_as_theirs_do(drops, is_traced_again, monkeypatch):
    traces, trace = [], training_trace.Alignment.of
    monkeypatch.setattr(training_trace.Alignment, "of", lambda *given: traces.append(None) or trace(*given))
    model = TwoAttentions(*drops)
    graph = capture(model, example_inputs(model, torch.randn(3, 2, 6, 8))).graph
    attentions = graph.find_nodes(op="call_function", target=torch.ops.aten.scaled_dot_product_attention.default)
    assert tuple(one.meta.get("dropout_p", 0.0) for one in attentions) == drops
    assert bool(traces) == is_traced_again


def test_what_is_told_names_the_users_line():
    found = capture(Noise(), example_inputs(Noise(), torch.randn(3, 6)))
    (told,) = found.meta["lost_in_training"]
    assert "test_training_behaviour.py" in told and "torch.randn_like(x) if self.training" in told


def multiplied(x):
    return x * torch.rand(len(x), 1)


def chosen(x):
    """As many rows as chance says."""
    return x + x[x.sum(-1) > torch.rand(len(x))].sum(0)


class Noisy(nn.Module):
    def __init__(self, noise):
        super().__init__()
        self.layer, self.noise = nn.Linear(6, 6), noise

    def forward(self, x):
        y = self.layer(x)
        return self.noise(y) if self.training else y


@pytest.mark.parametrize("noise", [multiplied, chosen])
def test_noise_that_drops_nothing_is_told(noise):
    model = Noisy(noise)
    found = capture(model, example_inputs(model, torch.randn(3, 6)))
    assert len(found.meta["lost_in_training"]) == 1
    assert not found.graph.find_nodes(op="call_function", target=DROP_PATH)


def test_the_model_is_left_as_it_is():
    model = by_hand()
    modes, state = [m.training for m in model.modules()], {k: v.clone() for k, v in model.state_dict().items()}
    fxcompress.compile(model, [], example_inputs=X)
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


# --------------------------------------------------------------------------------------------- several processes


def _synchronized():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(6, 4, 1), nn.SyncBatchNorm(4, momentum=0.3), nn.ReLU())
    return fxcompress.compile(layers, [], example_inputs=X)


def _process(rank, port, folder):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    compiled = _synchronized().train()
    torch.manual_seed(1)
    x = torch.randn(6, 6, 5, 5)
    mine = (x[:2] if rank == 0 else x[2:]).requires_grad_()  # of two sizes
    outputs = compiled(mine)
    outputs.square().sum().backward()
    torch.save([outputs.detach(), mine.grad, compiled.state_dict()], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_synchronized_norms_see_the_samples_of_all_processes(tmp_path, silent):
    port = 20000 + os.getpid() % 20000
    processes.spawn(_process, (port, str(tmp_path)), nprocs=2)
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    alone = _synchronized().train()
    torch.manual_seed(1)
    x = torch.randn(6, 6, 5, 5, requires_grad=True)
    outputs = alone(x)
    outputs.square().sum().backward()
    torch.testing.assert_close(torch.cat([part[0] for part in parts]), outputs.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.cat([part[1] for part in parts]), x.grad, rtol=1e-4, atol=1e-5)
    for part in parts:
        for name in ("1.running_mean", "1.running_var"):
            torch.testing.assert_close(part[2][name], alone.state_dict()[name])
