"""Channels that are summed over: norms, means, heads and groups that go on with those that are left."""

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from emission import in_onnxruntime, in_openvino
from shape_networks import Do, parameter
from torch import nn

import fxcompress
from fxcompress import passes
from fxcompress.execution.agreement import sqnr
from fxcompress.ir import counted_ops as counted
from fxcompress.training import Polynomial


def chain(*middle, width=8):
    return nn.Sequential(nn.Linear(5, width), *middle, nn.Linear(width, 4))


def do(function, **held):
    return chain(Do(function, **held))


def attention(m, x):
    q, k, v = m.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4).unbind(0)
    return m.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def written_attention(m, x):
    q, k, v = (layer(x).unflatten(-1, (2, 4)).transpose(1, 2) for layer in (m.q, m.k, m.v))
    return m.out(((q * 0.5) @ k.transpose(-2, -1)).softmax(-1).matmul(v).transpose(1, 2).flatten(2))


def response_norm(m, x):
    response = x.norm(dim=1, keepdim=True)
    return x + m.shift + m.scale * (x * (response / (response.mean(-1, keepdim=True) + 1e-6)))


def written_layer_norm(m, x):
    mean = x.mean(-1, keepdim=True)
    return (x - mean) * ((x - mean).square().mean(-1, keepdim=True) + 1e-6).rsqrt() * m.scale


def patches(m, x):
    """The channels of places that are next to each other, and back: as mobile transformers cut images."""
    n, c, h, w = x.shape
    cut = x.reshape(n * c * (h // 2), 2, w // 2, 2).transpose(1, 2).reshape(n, c, h * w // 4, 4).transpose(1, 3)
    cut = m.mix(cut.reshape(n * 4, h * w // 4, c)).view(n, 4, h * w // 4, c).transpose(1, 3)
    return cut.reshape(n * c * (h // 2), w // 2, 2, 2).transpose(1, 2).reshape(n, c, h, w)


def convolutions(*middle, width=8):
    return nn.Sequential(nn.Conv2d(3, width, 1), *middle, nn.Conv2d(width, 4, 1))


CASES = {  # a model, the shape of its input, and the sizes of constants that are left
    "a layer norm": (chain(nn.LayerNorm(8)), (2, 3, 5), {"0.weight": (4, 5), "1.weight": (4,), "2.weight": (4, 4)}),
    "one without weights": (chain(nn.LayerNorm(8, elementwise_affine=False)), (2, 5), {"0.weight": (4, 5)}),
    "a norm of roots": (chain(nn.RMSNorm(8), nn.RMSNorm(8, elementwise_affine=False)), (2, 3, 5), {"1.weight": (4,)}),
    "one group": (convolutions(nn.GroupNorm(1, 8)), (2, 3, 4, 4), {"0.weight": (4, 3, 1, 1), "1.weight": (4,)}),
    "two groups of vectors": (chain(nn.GroupNorm(2, 8)), (2, 5), {"0.weight": (4, 5), "1.bias": (4,)}),
    "a layer norm of images": (
        convolutions(Do(lambda m, x: m.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), norm=nn.LayerNorm(8))),
        (2, 3, 4, 4),
        {"0.weight": (4, 3, 1, 1), "2.weight": (4, 4, 1, 1)},
    ),
    "a written layer norm": (do(written_layer_norm, scale=parameter(8)), (2, 3, 5), {"0.weight": (4, 5), "1.scale": (4,)}),
    "a response norm": (do(response_norm, scale=parameter(8), shift=parameter(8)), (2, 3, 5), {"0.weight": (4, 5)}),
    "a gate by the mean": (do(lambda m, x: x * x.sigmoid().mean(-1, keepdim=True)), (2, 5), {"2.weight": (4, 4)}),
    "a sum of what is not zero": (do(lambda m, x: x / x.sigmoid().sum(-1, keepdim=True)), (2, 5), {"2.weight": (4, 4)}),
    "a unit vector": (do(lambda m, x: F.normalize(x.exp(), dim=-1)), (2, 5), {"2.weight": (4, 4)}),
    "a mean over channels and places": (
        convolutions(Do(lambda m, x: x * x.sigmoid().mean((1, 2, 3), keepdim=True))), (2, 3, 4, 4), {"0.weight": (4, 3, 1, 1)},
    ),
    "the inside of heads": (
        chain(Do(attention, qkv=nn.Linear(8, 24), out=nn.Linear(8, 8))),
        (2, 3, 5),
        {"1.qkv.weight": (12, 4), "1.out.weight": (4, 4)},
    ),
    "that of a written attention": (
        chain(Do(written_attention, **{name: nn.Linear(8, 8) for name in ("q", "k", "v", "out")})),
        (2, 3, 5),
        {"1.q.weight": (4, 4), "1.v.weight": (4, 4)},
    ),
    "a product of two": (
        do(lambda m, x: x.sigmoid() @ x.sigmoid().mT @ x), (2, 3, 5), {"0.weight": (4, 5), "2.weight": (4, 4)},
    ),
    "the same channels of every group": (
        convolutions(nn.Conv2d(8, 8, 3, padding=1, groups=2)), (2, 3, 4, 4), {"1.weight": (4, 2, 3, 3)},
    ),
    "cut into patches": (
        convolutions(Do(patches, mix=nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8)))),
        (2, 3, 4, 6),
        {"0.weight": (4, 3, 1, 1), "1.mix.1.weight": (4, 4)},
    ),
}  # fmt: skip


def prune(**options):
    return passes.PruneFilters(**{"amount": 0.5, "multiple": 1, "summed": True} | options)


@pytest.mark.parametrize("kind", CASES)
def test_what_is_left_computes_what_the_masked_model_does(kind, tmp_path):
    torch.manual_seed(0)
    model, shape, sizes = CASES[kind]
    x, other = torch.randn(shape), torch.randn(7, *shape[1:])
    masked = fxcompress.compile(model.eval(), [prune()], example_inputs=(x,))
    removed = fxcompress.compile(model.eval(), [prune(), passes.RemoveFilters()], example_inputs=(x,))
    state = removed.state_dict()
    assert {name: tuple(state[name].shape) for name in sizes} == sizes
    assert not any("counted" in str(node.target) for node in removed.graph.nodes)
    assert not any("counts" in name for name in state)
    assert sqnr(masked(other), removed(other)) > 90
    for run in (in_onnxruntime, in_openvino):
        file = masked.to_onnx(tmp_path / "m.onnx").read_bytes()
        assert sqnr(masked(other), torch.from_numpy(np.array(run(file, [other])[0]))) > 90


@pytest.mark.parametrize("kind", ["a layer norm", "one group", "a response norm", "a product of two"])
def test_by_default_they_stay(kind):
    model, shape, _ = CASES[kind]
    kept = prune(summed=False)
    compiled = fxcompress.compile(model.eval(), [kept, passes.RemoveFilters()], example_inputs=(torch.randn(shape),))
    assert compiled.state_dict()["0.weight"].shape == model[0].weight.shape


def test_with_all_channels_left_nothing_changes():
    model, shape, _ = CASES["a layer norm"]
    plain = fxcompress.compile(model.eval(), [], example_inputs=(torch.randn(shape),))
    pruned = fxcompress.compile(model, [prune(ignored=["0"])], example_inputs=(torch.randn(shape),))
    assert [node.target for node in pruned.graph.nodes] == [node.target for node in plain.graph.nodes]


def test_masks_grow_in_training_and_the_quantized_file_has_the_channels_left(tmp_path):
    torch.manual_seed(0)
    model = chain(nn.LayerNorm(16), nn.Linear(16, 16), nn.GELU(), nn.LayerNorm(16), width=16)
    data = list(torch.randn(8, 4, 3, 5))
    stack = [prune(schedule=Polynomial(epochs=2)), *fxcompress.defaults.training()]
    trained = fxcompress.compile(model.eval(), stack, data=data)
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.01)
    for _ in range(3):
        trained.controller.scheduler.epoch_step()
        trained.train()
        for x in data:
            trained.controller.scheduler.step()
            trained(x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    trained.eval()
    path = trained.to_onnx(tmp_path / "m.onnx")
    x = torch.randn(6, 3, 5)
    (answer,) = onnxruntime.InferenceSession(path).run(
        None, {onnxruntime.InferenceSession(path).get_inputs()[0].name: x.numpy()}
    )
    assert sqnr(trained(x), torch.from_numpy(answer)) > 30
    again = fxcompress.compile(model, stack, data=data)
    again.load_checkpoint(trained.checkpoint())
    assert torch.equal(again.eval()(x), trained(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("count", [1, 3, 8])
def test_the_operations_are_those_of_the_channels_that_count(count, dtype):
    """By definition: on the channels that count, what ATen computes of them alone; with all of them that operation."""
    torch.manual_seed(count)
    x, weight, bias = torch.randn(5, 8, 3).to(dtype), torch.randn(8).to(dtype), torch.randn(8).to(dtype)
    counts = (torch.arange(8) < count).float()
    kept, last = slice(count), x.transpose(1, 2)
    close = {"rtol": 0.02, "atol": 0.02} if dtype is torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-5}
    result = counted.COUNTED_LAYER_NORM(last, [8], weight, bias, 1e-5, counts)[..., kept]
    torch.testing.assert_close(result, F.layer_norm(last[..., kept], [count], weight[kept], bias[kept]), **close)
    result = counted.COUNTED_RMS_NORM(last, [8], weight, None, counts)[..., kept]
    torch.testing.assert_close(result, F.rms_norm(last[..., kept], [count], weight[kept]), **close)
    result = counted.COUNTED_GROUP_NORM(x, 1, weight, bias, 1e-5, counts)[:, kept]
    torch.testing.assert_close(result, F.group_norm(x[:, kept], 1, weight[kept], bias[kept]), **close)
    result = counted.COUNTED_MEAN(x, [1, 2], True, counts, -2)
    torch.testing.assert_close(result, x[:, kept].mean((1, 2), keepdim=True), **close)
    assert torch.equal(counted.COUNTED(x, counts, 1)[:, kept], x[:, kept])
    assert not counted.COUNTED(x, counts, 1)[:, count:].any()
