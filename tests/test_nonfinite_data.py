"""NaN and infinity in calibration data: which input of which sample has them is told where they come to harm."""

import pytest
import torch
from torch import nn

import fxcompress
from fxcompress import passes
from fxcompress.data.batch import Batch
from fxcompress.data.nonfinite import NonFinite
from fxcompress.errors import CalibrationError, InputError
from fxcompress.measure.sensitivity import sensitivity
from fxcompress.training import adapt_batch_norm

RANGES = [passes.Quantize(), passes.Calibrate()]


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)

    def forward(self, x, mask=None, scale=2.0):
        y = self.norm(self.first(x))
        return self.last((y if mask is None else y + mask).softmax(-1))


def batches(bad=0.0, sample=7, key="x"):
    tensors = {"x": torch.randn(12, 4), "mask": torch.zeros(12, 4)}
    tensors[key][sample, 2] = bad
    return [{name: tensor[at : at + 4] for name, tensor in tensors.items()} for at in range(0, 12, 4)]


def one_input(bad):
    return [batch["x"] for batch in batches(bad)]


@pytest.mark.parametrize("sample", [0, 7])
@pytest.mark.parametrize("key, stack", [("x", RANGES), ("mask", RANGES), ("x", [passes.AdaptBatchNorm()])])
def test_the_input_and_the_sample_with_nan_are_named(key, stack, sample):
    with pytest.raises(CalibrationError, match=f"the first NaN in the data is in {key} of sample {sample}, counted from 0$"):
        fxcompress.compile(Masked(), stack, data=batches(torch.nan, sample, key))


def test_infinities_of_a_mask_do_no_harm_and_are_told_where_they_do():
    assert fxcompress.compile(Masked(), RANGES, data=batches(-torch.inf, key="mask"))
    with pytest.raises(CalibrationError, match="the first infinity in the data is in x of sample 7"):
        fxcompress.compile(Masked(), RANGES, data=batches(torch.inf))


CHANGES = [
    passes.CorrectBias(samples=8, judging=4),
    passes.RoundWeights(samples=8, judging=4),
    passes.LearnRounding(samples=8, judging=4),
    passes.ReconstructOutputs(samples=8, judging=4, epochs=1),
    passes.RestorePrecision(min_decibels=80),
]


@pytest.mark.parametrize("kind, bad", [("NaN", torch.nan), ("infinity", torch.inf)])
@pytest.mark.parametrize("change", CHANGES, ids=lambda one: one.name)
def test_every_pass_that_reads_them_tells_so(change, kind, bad):
    stack = [passes.Quantize(), passes.Calibrate(samples=4), change]
    compiled = fxcompress.compile(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)), stack, data=one_input(bad))
    told = [row.name for row in compiled.report.rows for note in row.notes if note.startswith(f"the first {kind} in the data")]
    assert told == [str(change)]


def test_an_infinity_is_told_once_of_all_passes():
    stack = [*RANGES, passes.CorrectBias()]
    compiled = fxcompress.compile(Masked(), stack, data=batches(-torch.inf, key="mask"))
    told = [note for row in compiled.report.rows for note in row.notes if "infinity" in note]
    assert told == ["the first infinity in the data is in mask of sample 7, counted from 0"]


def test_sensitivity_warns_of_nan():
    compiled = fxcompress.compile(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 4)), RANGES, data=one_input(0.0))
    with pytest.warns(UserWarning, match=r"the first NaN in the data is in inputs\[0\] of sample 7"):
        sensitivity(compiled, one_input(torch.nan))


def test_samples_are_counted_where_they_lie():
    found = NonFinite()
    second = torch.zeros(3, 5)
    new = found.look(
        [torch.ones(2), second, 1, None, torch.ones(2, dtype=torch.int64)], list("abcde"), Batch((None, 1, None, None, None)), 0
    )
    assert not list(new)
    second[2, 3] = second[0, 4] = torch.nan
    assert len(list(found.look([torch.tensor([1.0, torch.inf]), second], ["a", "b"], Batch((None, 1)), 5))) == 2
    assert not list(found.look([torch.full((2, 2), 3e38), second], ["a", "b"], Batch((None, 1)), 8))
    assert str(found) == (
        "the first infinity in the data is in a of the batch that begins with sample 5, counted from 0; "
        "the first NaN in the data is in b of sample 8, counted from 0"
    )


def test_norms_of_a_compiled_model_keep_their_statistics():
    compiled = fxcompress.compile(Masked(), [], data=batches())
    before = compiled.state_dict()["norm.running_mean"].clone()
    with pytest.raises(CalibrationError, match="norm in 'norm'.* would take statistics .*NaN in the data is in x of sample 7"):
        adapt_batch_norm(compiled, batches(torch.nan))
    assert torch.equal(compiled.state_dict()["norm.running_mean"], before)
    assert adapt_batch_norm(compiled, batches(), samples=5) == 8 and adapt_batch_norm(compiled, batches()) == 12
    huge = [{"x": torch.full((4, 4), 1e38), "mask": torch.zeros(4, 4)}]
    with pytest.raises(CalibrationError, match="look for an overflow in front of it"):
        adapt_batch_norm(compiled, huge)


def test_nan_that_was_taken_for_a_constant_is_the_same_as_nan():
    data = [{"x": torch.randn(4, 4), "scale": float("nan")} for _ in range(2)]
    assert fxcompress.compile(Masked(), data=data)
    with pytest.raises(InputError, match="scale of a batch of data: nan was taken for a constant, and is 1.0 here"):
        fxcompress.compile(Masked(), data=[*data, {"x": torch.randn(4, 4), "scale": 1.0}])


def test_an_index_that_no_table_has_is_told_with_its_place():
    model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 4))
    with pytest.raises(InputError, match="_0 in '0'.* cannot be computed for some of the data: index out of range"):
        fxcompress.compile(model, data=[torch.zeros(4, 5, dtype=torch.int64), torch.full((4, 5), 10)])


@pytest.mark.parametrize(
    "problem, is_told",
    [
        (IndexError("index out of range"), True),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (2)"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"), False),
        (torch.OutOfMemoryError("out of memory"), False),
        (NotImplementedError("not implemented for 'Half'"), False),
    ],
)
def test_only_what_values_can_cause_is_said_to_be_of_the_data(monkeypatch, problem, is_told):
    def fails(*_):
        raise problem

    monkeypatch.setattr("fxcompress.execution.precision.Arithmetic.call", fails)
    with pytest.raises(InputError if is_told else type(problem)) as raised:
        fxcompress.compile(nn.Sequential(nn.Linear(4, 8)), RANGES, data=one_input(0.0))
    assert isinstance(raised.value, InputError) == is_told
