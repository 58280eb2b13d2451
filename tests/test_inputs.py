"""Where example inputs come from, and what a batch of data must look like."""

from __future__ import annotations

import itertools
import logging
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fxcompress
from fxcompress import passes
from fxcompress.data.inputs import ExampleInputs, example_inputs, peek
from fxcompress.errors import CaptureError, InputError


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, x, y, scale=None):
        return self.linear(x + y)


X, Y, LABEL = torch.randn(3, 4), torch.randn(3, 4), torch.zeros(3, dtype=torch.long)
EXAMPLE = ExampleInputs((X,))


def test_given_as_a_tensor_a_tuple_or_by_name():
    assert example_inputs(Pair(), X).args == (X,)
    assert example_inputs(Pair(), (X, Y)).args == (X, Y)
    assert example_inputs(Pair(), [X, Y]).args == (X, Y)
    assert example_inputs(Pair(), {"x": X, "y": Y}).kwargs == {"x": X, "y": Y}
    assert example_inputs(Pair(), EXAMPLE) is EXAMPLE


def test_from_data_as_many_as_forward_requires():
    assert example_inputs(Pair(), data=[(X, Y, LABEL)]).args == (X, Y)
    assert example_inputs(nn.Linear(4, 2), data=[(X, LABEL)]).args == (X,)
    assert example_inputs(nn.Linear(4, 2), data=[X]).args == (X,)
    assert example_inputs(Pair(), data=[{"x": X, "y": Y, "label": LABEL}]).kwargs.keys() == {"x", "y"}


def test_from_conventions():
    hugging_face, lightning, timm = nn.Linear(4, 2), nn.Linear(4, 2), nn.Linear(4, 2)
    hugging_face.dummy_inputs = {"input": X}
    lightning.example_input_array = X
    timm.pretrained_cfg = {"input_size": (3, 5, 7)}
    assert example_inputs(hugging_face).kwargs == {"input": X}
    assert example_inputs(lightning).args == (X,)
    assert example_inputs(timm).args[0].shape == (1, 3, 5, 7)
    timm.pretrained_cfg = SimpleNamespace(input_size=(1, 2, 2))
    assert example_inputs(timm).args[0].shape == (1, 1, 2, 2)


def test_from_an_exported_program():
    program = torch.export.export(nn.Linear(4, 2), (X,), strict=False)
    assert torch.equal(example_inputs(program).args[0], X)


def test_without_any_the_error_shows_what_to_write():
    with pytest.raises(InputError, match=r"example_inputs=\(torch\.randn\(1, 3, 224, 224\),\)"):
        example_inputs(nn.Linear(4, 2))


@pytest.mark.parametrize("useless", [(), {}, "picture.png", 3, {1: X}, (1, 2)])
def test_useless_example_inputs(useless):
    with pytest.raises(InputError, match="example"):
        example_inputs(nn.Linear(4, 2), useless)


def test_example_inputs_on_another_device():
    with pytest.raises(InputError, match=r"inputs\[0\] is on meta, but the model is on cpu"):
        example_inputs(nn.Linear(4, 2), X.to("meta"))


def test_too_few_items_in_a_batch():
    with pytest.raises(InputError, match="holds 1 items, but forward of Pair requires 2"):
        example_inputs(Pair(), data=[(X,)])


@pytest.mark.parametrize("empty", [[], (), iter([]), (x for x in ()), DataLoader(TensorDataset(X[:0]), sampler=[])])
def test_empty_data(empty):
    with pytest.raises(InputError, match="data is empty"):
        peek(empty)


@pytest.mark.parametrize("single", [X, {"x": X}, 5, "folder"])
def test_data_that_is_no_iterable_of_batches(single):
    with pytest.raises(InputError, match="wrap a single batch"):
        peek(single)


@given(st.lists(st.integers(), min_size=1), st.booleans())
def test_peek_loses_nothing(items, once):
    first, data = peek(iter(items) if once else items)
    assert first == items[0]
    assert list(data) == items
    assert list(data) == items, "it can be read again"


@given(st.integers(1, 9), st.integers(1, 9))
def test_an_iterator_is_read_no_further_than_need_be(wanted, again):
    source = iter(range(10))
    _, data = peek(source)
    assert list(itertools.islice(data, wanted)) == list(range(wanted))
    assert list(itertools.islice(data, again)) == list(range(again))
    assert next(source) == max(wanted, again)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.randn(0, 8), "holds no samples"),
        (torch.randn(4, 8).to_sparse(), "is sparse_coo, not dense"),
        (torch.randn(4, 8, device="meta"), "is on (the meta device|meta)"),
    ],
)
@pytest.mark.parametrize("as_data", [False, True])
def test_tensors_of_which_nothing_can_be_seen_are_refused(batch, message, as_data):
    how = {"data": [batch]} if as_data else {"example_inputs": (batch,)}
    with pytest.raises(InputError, match=message):
        fxcompress.compile(nn.Linear(8, 4), None if as_data else [], **how)


def test_inputs_that_the_model_does_not_take_are_told_without_a_traceback(monkeypatch):
    printed = []
    monkeypatch.setattr(logging.getLogger("torch._subclasses.fake_tensor"), "callHandlers", printed.append)
    with pytest.raises(CaptureError, match="does not run on the example inputs .*cannot be multiplied"):
        fxcompress.compile(nn.Linear(4, 3), [], example_inputs=torch.randn(1, 3, 8))
    assert not printed


def test_a_type_that_the_model_does_not_take_is_told_as_the_model_tells_it():
    with pytest.raises(CaptureError, match="does not run on the example inputs .*same dtype"):
        fxcompress.compile(nn.Linear(8, 4), data=[torch.ones(4, 8, dtype=torch.long)])


@pytest.mark.parametrize("form", ["list", "dict", "inside"])
@pytest.mark.parametrize("as_data", [False, True])
def test_what_holds_itself_is_refused(form, as_data):
    held = {"x": torch.randn(2, 8)} if form == "dict" else [torch.randn(2, 8)]
    held.update(again=held) if form == "dict" else held.append(held)
    batch = (held,) if form == "inside" else held
    data = [{"input": held}] if as_data else [torch.randn(2, 8)]
    with pytest.raises(InputError, match="holds itself"):
        fxcompress.compile(
            nn.Linear(8, 4),
            [passes.Quantize(), passes.Calibrate()],
            example_inputs={"input": torch.randn(2, 8)} if as_data else batch,
            data=data,
        )
