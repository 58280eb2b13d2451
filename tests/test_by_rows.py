"""Graphs with large weights in integers run a few rows at a time, to the same values as in one piece."""

import onnx_ir as ir
import pytest
import torch
from torch import nn

import fxcompress
from fxcompress import defaults, passes
from fxcompress.data.inputs import ExampleInputs
from fxcompress.emit.onnx import to_onnx_model
from fxcompress.emit.translate import quantization
from fxcompress.execution.agreement import agreement, outputs
from fxcompress.quantization import by_rows
from fxcompress.quantizers.ops import unpack
from fxcompress.quantizers.quantizer import Quantizer


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.inner, self.head = nn.Embedding(51, 24), nn.Linear(24, 35), nn.Linear(35, 51)
        self.out = nn.Linear(51, 24, bias=False)

    def forward(self, tokens):
        x = self.head(self.inner(self.table(tokens)).relu())
        return self.out(x), x


OPTIONS = [{}, {"group_size": 5}, {"symmetric": True}, {"bits": 8, "group_size": None}, {"head": 4}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_large_weights_are_run_by_rows(options, monkeypatch):
    model, tokens = Tied().eval(), torch.randint(0, 51, (3, 7))
    stack = [passes.CompressWeights(**{"group_size": 12, **options}), passes.StoreIntegers()]
    compiled = fxcompress.compile(model, stack, example_inputs=tokens)
    monkeypatch.setattr(by_rows, "_LARGE", 200)
    monkeypatch.setattr(by_rows, "_PIECE", 100)
    whole = outputs(compiled, ExampleInputs((tokens,)))
    rounded = fxcompress.compile(model, stack[:1], example_inputs=tokens)
    assert len(by_rows.ByRows(rounded).rounded) == 4
    assert agreement(whole, by_rows.outputs_by_rows(rounded, ExampleInputs((tokens,)))) > 130
    interpreter = by_rows.ByRows(compiled)
    assert len(interpreter.later) == (4 if options.get("head") != 4 else 2)  # rows of an odd width begin within a byte
    assert agreement(whole, by_rows.outputs_by_rows(compiled, ExampleInputs((tokens,)))) > 130


@pytest.mark.parametrize("options", [{}, {"group_size": 5}, {"group_size": None}], ids=str)
def test_rows_of_a_table_are_rounded_as_the_table_is(options, monkeypatch):
    """By passes that run layers one by one, which never round all of it."""
    tokens = torch.randint(0, 51, (3, 7))
    stack = [passes.CompressWeights(**{"group_size": 12, **options})]
    compiled = fxcompress.compile(Tied().eval(), stack, example_inputs=tokens)
    (lookup,) = (node for node in compiled.graph.nodes if node.target is by_rows.EMBEDDING)
    wanted = compiled.get_submodule(lookup.args[0].target)(compiled.table.weight)[tokens]
    monkeypatch.delattr(Quantizer, "forward")

    execution = by_rows.LookingUp(compiled, [tokens])
    execution.advance(lookup)
    execution.run(lookup)

    assert torch.equal(execution.value(lookup), wanted)


def test_a_file_is_checked_by_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(by_rows, "_LARGE", 200)
    monkeypatch.setattr(by_rows, "_PIECE", 100)
    tokens = torch.randint(0, 51, (3, 7))
    compiled = fxcompress.compile(Tied().eval(), defaults.weights_only(), example_inputs=tokens)
    assert all(row.decibels > 100 for row in compiled.report.rows if row.effect == "exact")
    compiled.to_onnx(tmp_path / "m.onnx")
    assert compiled.report.rows[-1].decibels > 80 and "computes something else" not in " ".join(compiled.report.rows[-1].notes)


def test_a_file_is_laid_out_without_its_integers(monkeypatch):
    """Those of 4 bits are unpacked when they are written, one weight after the other, and not to learn a shape."""
    tokens, computed = torch.randint(0, 51, (3, 7)), []
    compiled = fxcompress.compile(Tied().eval(), defaults.weights_only(), example_inputs=tokens)
    monkeypatch.setattr(quantization, "unpack", lambda *given: computed.append(given) or unpack(*given))
    model = to_onnx_model(compiled.lower())
    assert not computed
    packed = [one.const_value for one in model.graph.initializers.values() if one.dtype == ir.DataType.UINT4]
    assert packed and all(tensor.tobytes() for tensor in packed) and computed


@pytest.mark.parametrize(("count", "width", "rows"), [(10, 30, 3), (9, 30, 3), (4, 100, 1), (3, 250, 1), (2, 10, 10)])
def test_pieces_are_small_and_each_row_is_in_one(count, width, rows, monkeypatch):
    """More at a time would take the memory that they are there to save."""
    monkeypatch.setattr(by_rows, "_PIECE", 100)
    weight = torch.arange(float(count * width)).reshape(count, width)
    pieces = list(by_rows._pieces(weight))
    assert torch.equal(torch.cat([piece for _, _, piece in pieces]), weight)
    assert all(torch.equal(weight[start:stop], piece) and stop <= count for start, stop, piece in pieces)
    assert [len(piece) for _, _, piece in pieces[:-1]] == [rows] * (len(pieces) - 1) and len(pieces[-1][2]) <= rows
