"""Operators without a translation of ours: torchlib's, or torch's decomposition, in both runtimes and at every batch size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F
from emission import Call, assert_same, captured, checked, in_onnxruntime, in_openvino
from torch import Tensor, nn

import fxcompress
from fxcompress.emit import decomposition, torchlib
from fxcompress.emit.onnx import to_onnx_model
from fxcompress.emit.translation import TRANSLATIONS, UntranslatableError
from fxcompress.errors import EmitError, FileWarning

ROWS = torch.randn(2, 5, 8)
RUNTIMES = (in_onnxruntime, in_openvino)

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "hsplit": lambda x: torch.hsplit(x, 5)[2],
    "logcumsumexp": lambda x: torch.logcumsumexp(x, 1),
    "logaddexp": lambda x: torch.logaddexp(x, x.flip(1)),
    "trapezoid": lambda x: torch.trapezoid(x),
    "stepped_write": lambda x: torch.slice_scatter(x, x[:, ::2] * 2, 1, 0, 5, 2),
    "cross_entropy_smoothed": lambda x: F.cross_entropy(x[:, 0], x[:, 1].argmax(1), label_smoothing=0.3),
    "cross_entropy_of_shares": lambda x: F.cross_entropy(x[:, 0], x[:, 1].softmax(1), reduction="none"),
    "cross_entropy_weighted": lambda x: F.cross_entropy(x[:, 0], x[:, 1].argmax(1), torch.linspace(1, 2, 8), ignore_index=3),
    "binary_cross_entropy": lambda x: F.binary_cross_entropy_with_logits(x, x.flip(1).sigmoid(), pos_weight=torch.arange(8.0)),
    "outer_sum": lambda x: torch.add(x.unsqueeze(1), x.unsqueeze(2)).diagonal(dim1=1, dim2=2),
    "promoted": lambda x: torch.logaddexp((x * 4).to(torch.int64).double(), x.double()).float(),
    "mse": lambda x: F.mse_loss(x, x.flip(1), reduction="none"),
    "squared_distance_of_integers": lambda x: torch.atan2((x * 4).to(torch.int64), (x.flip(1) * 4).to(torch.int64) + 20),
}


NOT_TAKEN = {  # calls that our translations leave to others
    "stepped_write": {"slice_scatter.default"},
    "unpool": {"max_pool2d_with_indices.default"},
    "pool_indices": {"max_pool2d_with_indices.default"},
    "a_mask_picks": {"index.Tensor"},
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_operators_without_a_translation_of_ours(name: str) -> None:
    assert_same(FUNCTIONS[name], ROWS, runtimes=RUNTIMES, elsewhere=NOT_TAKEN.get(name, ()))


def test_what_torchlib_would_leave_out_is_written_otherwise() -> None:
    pool = torch.ops.aten.avg_pool3d.default
    theirs = torchlib.find(pool, complex_inputs=False)
    assert theirs is not None
    for divisor, left_out in ((None, []), (3, ["divisor_override"])):
        assert torchlib._left_out(pool, theirs, (ROWS, [2, 2, 2]), {"divisor_override": divisor}) == left_out
    cubes = torch.randn(2, 3, 4, 4, 4)
    assert_same(lambda x: F.avg_pool3d(x, 2, divisor_override=3), cubes, runtimes=RUNTIMES)


def test_infinities_are_replaced() -> None:
    x = ROWS.clone()
    x[:, 0], x[:, 1], x[:, 2] = torch.nan, torch.inf, -torch.inf
    assert_same(lambda x: torch.nan_to_num(x, 1.0, 2.0, -3.0), x, runtimes=RUNTIMES)


def test_names_are_those_of_the_model() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.join = Call(lambda x: torch.logcumsumexp(x, 1) + torch.nan_to_num(x))

        def forward(self, x: Tensor) -> Tensor:
            return self.join(x)

    model = to_onnx_model(captured(Net(), ROWS))
    names = [node.name for node in model.graph]
    assert len(set(names)) == len(names)
    assert all(str(name).startswith("join_") for name in names), names


def test_a_decomposition_for_one_batch_size_is_refused() -> None:
    """What torch unrolls or fixes for the size of the example must not come into a file for every size."""
    graph = captured(Call(lambda x: x * 2), ROWS).graph
    (x,) = (node.meta["val"] for node in graph.find_nodes(op="placeholder"))
    with pytest.raises(UntranslatableError, match="sizes of the example only"), decomposition.free_sizes(x.fake_mode):
        assert int(x.shape[0]) == 2
    assert not isinstance(x.shape[0].node.maybe_as_int(), int)


@pytest.mark.parametrize("mode", ["constant", "circular", "replicate"])
def test_padding_up_to_a_multiple_is_that_of_every_length(mode: str) -> None:
    """None at all in the example, whose length is one."""
    model = Call(lambda x: F.pad(x, (x.shape[2] // 20, -x.shape[2] % 4), mode=mode))
    compiled = fxcompress.compile(model, [], example_inputs=(torch.randn(2, 3, 16),))
    serialized = ir.to_proto(to_onnx_model(compiled.lower())).SerializeToString()
    for length in 16, 15, 23, 28:
        x = torch.randn(2, 3, length)
        for run in RUNTIMES:
            np.testing.assert_array_equal(run(serialized, [x])[0], model(x).numpy())


@pytest.mark.parametrize("again", [False, True])
def test_a_translation_for_the_lengths_of_the_example_is_refused(again: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where torch has answered the same question before."""
    graph_module = captured(Call(lambda x: F.relu(x)), ROWS)

    def translate(emit: Any, x: Any) -> Any:
        return emit.Relu(x) if emit.shape(x)[0] % 2 == 0 else emit.unsupported("odd")

    def others(*arguments: Any, **options: Any) -> Any:
        return iter(())

    monkeypatch.setitem(TRANSLATIONS, torch.ops.aten.relu.default, translate)
    monkeypatch.setattr(torchlib, "find", lambda *arguments, **options: None)
    monkeypatch.setattr(decomposition, "find", others)
    for _ in range(1 + again):
        with pytest.raises(EmitError, match="the translation of it holds for the sizes of the example only"):
            to_onnx_model(graph_module)


def test_what_torchlib_leaves_without_a_type_is_of_the_type_of_what_reads_it() -> None:
    """A cache that is written at places, and transposed by the translation of attention."""

    def attend(x: Tensor) -> Tensor:
        keys = x.new_zeros(x.shape[0], 2, 9, 4)
        keys[:, :, torch.arange(5)] = x.unflatten(2, (2, 4)).transpose(1, 2)
        return F.scaled_dot_product_attention(keys, keys, keys)

    assert_same(attend, ROWS, runtimes=RUNTIMES, elsewhere={"index_put.default"})


TABLE = torch.randn(10, 4)
LAYERS: dict[str, tuple[nn.Module, tuple[Tensor, ...]]] = {
    "bag_sum": (nn.EmbeddingBag(10, 4, mode="sum"), (torch.randint(0, 10, (2, 5)),)),
    "bag_mean": (nn.EmbeddingBag(10, 4), (torch.randint(0, 10, (2, 5)),)),
    "bag_max": (nn.EmbeddingBag(10, 4, mode="max"), (torch.randint(0, 10, (2, 5)),)),
    "bag_of_all_offsets": (
        Call(lambda x: F.embedding_bag(x[0], TABLE, torch.tensor([0, 2, 5]), mode="sum", include_last_offset=True)),
        (torch.randint(0, 10, (2, 5)),),
    ),
    "bag_padded": (nn.EmbeddingBag(10, 4, padding_idx=2), (torch.randint(0, 10, (2, 5)),)),
    "bag_padded_max": (nn.EmbeddingBag(10, 4, padding_idx=2, mode="max"), (torch.tensor([[2, 2, 3], [2, 2, 2]]),)),
    "group_norm_of_rows": (nn.GroupNorm(4, 8), (torch.randn(2, 8),)),
    "unpool": (Call(lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2)), (torch.randn(2, 3, 8, 6),)),
    "unpool_1d": (Call(lambda x: F.max_unpool1d(*F.max_pool1d(x, 2, return_indices=True), 2)), (torch.randn(2, 3, 8),)),
    "pool_indices": (Call(lambda x: F.max_pool2d(x, 3, 2, 1, return_indices=True)), (torch.randn(2, 3, 8, 6),)),
    "distances": (Call(lambda x: torch.cdist(x, x.flip(1) * 2)), (ROWS,)),
    "distances_in_blocks": (Call(lambda x: torch.cdist(x, x.flip(1) * 2, p=1.0)), (ROWS,)),
    "a_mask_picks": (Call(lambda x: x[x > 0]), (ROWS,)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str) -> None:
    layer, inputs = LAYERS[name]
    assert_same(layer, *inputs, runtimes=RUNTIMES, elsewhere=NOT_TAKEN.get(name, ()))


def test_bags_between_offsets() -> None:
    class Bags(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bag = nn.EmbeddingBag(10, 4)

        def forward(self, indices: Tensor, offsets: Tensor) -> Tensor:
            return self.bag(indices, offsets)

    inputs = torch.randint(0, 10, (7,)), torch.tensor([0, 2, 2, 5])
    model = Bags().eval()
    serialized = checked(to_onnx_model(captured(model, *inputs)))
    for runtime in RUNTIMES:
        torch.testing.assert_close(torch.from_numpy(runtime(serialized, inputs)[0]), model(*inputs))


def test_numbers_from_the_models_own_tensors_are_constants() -> None:
    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("strides", torch.tensor([8.0, 16.0]))
            self.register_buffer("count", torch.tensor(3))

        def forward(self, x: Tensor) -> Tensor:
            rows, columns = (torch.arange(size).type_as(x) + 0.5 for size in x.shape[2:])
            grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).flatten(0, 1)
            stride = torch.full((len(grid), 1), self.strides[1]) * torch.arange(self.count.item()).sum()
            return x.flatten(2).transpose(1, 2) * (grid * stride)

    graph = captured(Head(), torch.randn(2, 2, 4, 5))
    assert sum("is a constant of the graph" in note for note in graph.meta["capture_notes"]) == 2
    counts = assert_same(Head(), torch.randn(2, 2, 4, 5), runtimes=RUNTIMES)
    assert set(counts) == {"Reshape", "Transpose", "Mul"}, counts


def test_missing_operators_are_known_at_capture_all_at_once() -> None:
    taken = []

    def batches() -> Iterator[Tensor]:
        for _ in range(2):
            taken.append(0)
            yield torch.rand(2, 3) + 0.1

    def function(x: Tensor) -> Tensor:
        return torch.digamma(x) + torch.special.i0(x)

    with pytest.warns(FileWarning, match=r"(?s)2 node.*digamma.*i0"):
        compiled = fxcompress.compile(nn.Sequential(nn.Linear(3, 3), Call(function)), [], data=batches())
    assert "digamma" in compiled.report.rows[0].notes[-1] and len(taken) < 2


READ: dict[str, Callable[[Tensor], Any]] = {
    "a factor": lambda x: x * x.sum().item(),
    "a limit": lambda x: x.clamp(min=-x.abs().mean().item()),
    "computed with": lambda x: x * (x.sum().item() * 2 + 1) / (3 - x.abs().amax().reshape(1).item()),
    "a power": lambda x: x * x.abs().sum().item() ** 0.5,
    "a filling": lambda x: x + torch.full((8,), x.sum().item()),
    "a count": lambda x: x + (x > 0).sum().item(),
}


@pytest.mark.parametrize("function", READ.values(), ids=READ)
def test_numbers_that_are_read_from_tensors(function: Callable[[Tensor], Any]) -> None:
    module, serialized = Call(function).eval(), checked(to_onnx_model(captured(Call(function).eval(), ROWS)))
    for run in RUNTIMES:
        np.testing.assert_allclose(run(serialized, (ROWS,))[0], module(ROWS), rtol=1e-4, atol=1e-4)


def test_pieces_at_constant_indices_and_the_first_values() -> None:
    split = lambda x: torch.tensor_split(x, torch.tensor([1, 4, 9]), dim=1)  # noqa: E731
    assert_same(lambda x: tuple(one.sum(1) for one in split(x)), ROWS, runtimes=RUNTIMES)
    x = torch.randn(4, 3, 5)
    serialized = checked(to_onnx_model(captured(Call(lambda x: x.clone().resize_(2, 3, 5) + 1).eval(), x)))
    for run in RUNTIMES:
        np.testing.assert_allclose(run(serialized, (x,))[0], x[:2] + 1)
