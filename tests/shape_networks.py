"""Random networks of layers and every operation that moves, cuts or joins axes, on tensors of two to five dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

from fxcompress.execution.agreement import sqnr

STEPS: dict[str, Callable] = {}
"""What a network may do next: (draw, x) to a module of one input, or None where it cannot be done to `x`."""

MAX_VALUES = 3000


def step(function: Callable) -> Callable:
    STEPS[function.__name__] = function
    return function


class Do(nn.Module):
    """`function` of itself, with the modules and parameters given by name, and its input."""

    def __init__(self, function, **held):
        super().__init__()
        self.function = function
        for name, one in held.items():
            setattr(self, name, one)

    def forward(self, x):
        return self.function(self, x)


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape) / 2)


def axis(draw, x: Tensor) -> int:
    """An axis other than the batch."""
    return draw(st.integers(1, x.dim() - 1))


# ------------------------------------------------------------------------------------------------ layers with weights


@step
def linear(draw, x):
    return nn.Linear(x.shape[-1], draw(st.integers(3, 9)), bias=draw(st.booleans()))


@step
def transposed_linear(draw, x):
    """The layer's filters come to another axis."""
    if x.dim() > 2:
        d = axis(draw, x)
        layer = nn.Linear(x.shape[d], draw(st.integers(3, 9)))
        return Do(lambda m, x: m.layer(x.transpose(d, -1)).transpose(d, -1), layer=layer)


def _convolution(draw, x, transposed):
    dimensions = x.dim() - 2
    if dimensions < 1:
        return None
    kernel = tuple(draw(st.integers(1, min(3, size))) for size in x.shape[2:])
    groups = draw(st.sampled_from([g for g in range(1, x.shape[1] + 1) if x.shape[1] % g == 0]))
    name = f"{'ConvTranspose' if transposed else 'Conv'}{dimensions}d"
    outputs = groups * draw(st.integers(1 if groups > 1 else 3, max(8 // groups, 4)))
    stride = draw(st.integers(1, 2))
    return getattr(nn, name)(x.shape[1], outputs, kernel, stride=stride, groups=groups, bias=draw(st.booleans()))


@step
def convolution(draw, x):
    return _convolution(draw, x, transposed=False)


@step
def transposed_convolution(draw, x):
    return _convolution(draw, x, transposed=True)


@step
def product_with_a_constant(draw, x):
    if x.dim() > 2:
        return draw(st.sampled_from([
            Do(lambda m, x: x @ m.w, w=parameter(x.shape[-1], 5)),
            Do(lambda m, x: m.w @ x, w=parameter(5, x.shape[-2])),
            Do(lambda m, x: x.matmul(m.w), w=parameter(x.shape[-1])),
        ]))  # fmt: skip


@step
def einsum(draw, x):
    letters = "bcdef"[: x.dim()]
    d = axis(draw, x)
    other = letters.replace(letters[d], "k")
    w = parameter(x.shape[d], 5)
    return Do(lambda m, x: torch.einsum(f"{letters},{letters[d]}k->{other}", x, m.w), w=w)


@step
def products_of_activations(draw, x):
    if x.dim() > 2:
        return draw(st.sampled_from([
            Do(lambda m, x: x @ x.transpose(-1, -2)),
            Do(lambda m, x: x.transpose(-1, -2) @ x.sigmoid()),
            Do(lambda m, x: (x @ x.mT).softmax(-1) @ x),
        ]))  # fmt: skip


@step
def attention(draw, x):
    if x.dim() == 3 and x.shape[-1] % 2 == 0:

        def attend(m, x):
            q, k, v = m.qkv(x).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
            return m.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

        size = x.shape[-1]
        return Do(attend, qkv=nn.Linear(size, 3 * size), out=nn.Linear(size, 6))


@step
def recurrent(draw, x):
    if x.dim() == 3:
        kind = draw(st.sampled_from([nn.LSTM, nn.GRU, nn.RNN]))
        layer = kind(x.shape[-1], 3, batch_first=True, num_layers=draw(st.integers(1, 2)), bidirectional=draw(st.booleans()))
        states = layer.num_layers * (1 + layer.bidirectional)

        def run(m, x):
            state = x[:, :1, :1].transpose(0, 1).expand(states, -1, 3) * 0
            return m.layer(x, (state, state) if kind is nn.LSTM else state)[0]

        return Do(run, layer=layer)


@step
def learned_scale(draw, x):
    shape = [size if draw(st.booleans()) else 1 for size in x.shape[1:]]
    return draw(st.sampled_from([Do(lambda m, x: x * m.p, p=parameter(*shape)), Do(lambda m, x: x + m.p, p=parameter(*shape))]))


# --------------------------------------------------------------------------------------------------------------- norms


@step
def batch_norm(draw, x):
    norm = getattr(nn, f"BatchNorm{max(x.dim() - 2, 1)}d")(x.shape[1])
    for one in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(one)
    return norm


@step
def instance_norm(draw, x):
    if x.dim() > 2 and math.prod(x.shape[2:]) > 1:
        return getattr(nn, f"InstanceNorm{x.dim() - 2}d")(x.shape[1], affine=draw(st.booleans()))


@step
def group_norm(draw, x):
    groups = draw(st.sampled_from([g for g in range(1, x.shape[1] + 1) if x.shape[1] % g == 0]))
    if x[0].numel() > groups:
        return nn.GroupNorm(groups, x.shape[1])


@step
def layer_norm(draw, x):
    last = draw(st.integers(1, x.dim() - 1))
    return draw(st.sampled_from([nn.LayerNorm(x.shape[-last:]), nn.RMSNorm(x.shape[-last:])]))


# ----------------------------------------------------------------------------------- elementwise, pools and reductions


@step
def elementwise(draw, x):
    return draw(st.sampled_from([nn.SiLU(), nn.Softplus(), nn.Sigmoid(), nn.Tanh(), Do(lambda m, x: x * 2 - 0.5)]))


@step
def slopes(draw, x):
    return nn.PReLU(x.shape[1])


@step
def pool(draw, x):
    dimensions = x.dim() - 2
    if 1 <= dimensions <= 3:
        kind = draw(st.sampled_from(["MaxPool", "AvgPool", "AdaptiveAvgPool", "AdaptiveMaxPool"]))
        size = draw(st.integers(1, min(2, *x.shape[2:], 2)))
        return getattr(nn, f"{kind}{dimensions}d")(size)


@step
def resized(draw, x):
    if 3 <= x.dim() <= 5:
        return nn.Upsample(scale_factor=2)


@step
def reduction(draw, x):
    d, keep = axis(draw, x), draw(st.booleans())
    if x.dim() > 2 or keep:
        return draw(st.sampled_from([
            Do(lambda m, x: x.mean(d, keepdim=keep)), Do(lambda m, x: x.amax(d, keepdim=keep)),
            Do(lambda m, x: x.norm(dim=d, keepdim=keep)), Do(lambda m, x: x.max(d, keepdim=keep)[0]),
            Do(lambda m, x: x.logsumexp(d, keepdim=keep)),
        ]))  # fmt: skip


@step
def gate(draw, x):
    d = axis(draw, x)
    return Do(lambda m, x: x * x.mean(d, keepdim=True).sigmoid())


@step
def mixed(draw, x):
    d = axis(draw, x)
    return draw(st.sampled_from([
        Do(lambda m, x: x.softmax(d)), Do(lambda m, x: x.cumsum(d)), Do(lambda m, x: F.normalize(x, dim=d)),
        Do(lambda m, x: x.sort(d)[0]), Do(lambda m, x: x.topk(1, d)[0]), Do(lambda m, x: x.log_softmax(d)),
    ]))  # fmt: skip


# ------------------------------------------------------------------------------------------------- moved, cut and joined


@step
def permuted(draw, x):
    order = [0, *draw(st.permutations(range(1, x.dim())))]
    return Do(lambda m, x: x.permute(order))


@step
def flattened(draw, x):
    if x.dim() > 2:
        first = draw(st.integers(1, x.dim() - 2))
        last = draw(st.integers(first + 1, x.dim() - 1))
        return Do(lambda m, x: x.flatten(first, last))


@step
def unflattened(draw, x):
    d = axis(draw, x)
    factors = [f for f in range(2, x.shape[d]) if x.shape[d] % f == 0]
    if factors and x.dim() < 5:
        f = draw(st.sampled_from(factors))
        return Do(lambda m, x: x.unflatten(d, (f, -1)))


@step
def reshaped(draw, x):
    size = x[0].numel()
    factors = [f for f in range(2, size) if size % f == 0]
    if factors:
        f = draw(st.sampled_from(factors))
        return Do(lambda m, x: x.reshape(x.shape[0], f, -1))


@step
def with_the_batch(draw, x):
    """An axis lies with the batch in one dimension while something is done."""
    if x.dim() > 2:
        n = x.shape[1]
        inner = draw(st.sampled_from([nn.Linear(x.shape[-1], 5), nn.Softmax(-1), nn.Tanh()]))
        return Do(lambda m, x: m.inner(x.flatten(0, 1)).unflatten(0, (-1, n)), inner=inner)


@step
def stretched(draw, x):
    d = axis(draw, x)
    n = draw(st.integers(2, 3))
    if x.shape[d] == 1:
        sizes = [n if one == d else -1 for one in range(x.dim())]
        return Do(lambda m, x: x.expand(sizes))
    if x.dim() < 5:
        sizes = [n if one == d else -1 for one in range(x.dim() + 1)]
        return Do(lambda m, x: x.unsqueeze(d).expand(sizes))


@step
def squeezed(draw, x):
    ones = [d for d in range(1, x.dim()) if x.shape[d] == 1]
    if ones and x.dim() > 2:
        d = draw(st.sampled_from(ones))
        return Do(lambda m, x: x.squeeze(d))


@step
def repeated(draw, x):
    d, n = axis(draw, x), draw(st.integers(2, 3))
    counts = [n if one == d else 1 for one in range(x.dim())]
    return draw(st.sampled_from([
        Do(lambda m, x: x.repeat(counts)), Do(lambda m, x: x.tile(counts[1:])), Do(lambda m, x: x.repeat_interleave(n, d)),
    ]))  # fmt: skip


@step
def turned(draw, x):
    d = axis(draw, x)
    return draw(st.sampled_from([Do(lambda m, x: x.flip(d)), Do(lambda m, x: x.roll(1, d))]))


@step
def joined(draw, x):
    d = axis(draw, x)
    shape = list(x.shape[1:])
    shape[d - 1] = draw(st.integers(1, 3))
    return draw(st.sampled_from([
        Do(lambda m, x: torch.cat([x, x.tanh()], d)),
        Do(lambda m, x: torch.cat([m.p.expand(x.shape[0], *m.p.shape), x], d), p=parameter(*shape)),
        Do(lambda m, x: torch.stack([x, x.tanh()], d) if x.dim() < 5 else x),
        Do(lambda m, x: torch.cat([m.p.sigmoid().expand(x.shape[0], *m.p.shape), x], d), p=parameter(*shape)),
    ]))  # fmt: skip


@step
def cut(draw, x):
    d = axis(draw, x)
    size = x.shape[d]
    if size > 1:
        start = draw(st.integers(0, size - 2))
        end = draw(st.integers(start + 1, size))
        every = draw(st.integers(1, 2))
        choices = [
            Do(lambda m, x: x.narrow(d, start, end - start)),
            Do(lambda m, x: x.movedim(d, 0)[start:end:every].movedim(0, d)),
            Do(lambda m, x: x.index_select(d, m.i), i=nn.Buffer(torch.tensor([0, size - 1]))),
            Do(lambda m, x: torch.cat(x.split([start + 1, size - start - 1], d)[::-1], d)),
        ]
        if x.dim() > 2:
            choices += [Do(lambda m, x: x.select(d, start)), Do(lambda m, x: x.unbind(d)[start])]
        if size % 2 == 0:
            choices += [Do(lambda m, x: x.chunk(2, d)[0] * x.chunk(2, d)[1]), nn.GLU(d)]
        return draw(st.sampled_from(choices))


@step
def written_to(draw, x):
    d = axis(draw, x)
    size = x.shape[d]
    if size > 1:
        n = draw(st.integers(1, size - 1))

        def write(m, x):
            y = x.tanh().movedim(d, 0)
            y[size - n :] = x.movedim(d, 0)[:n] * 2
            return y.movedim(0, d)

        return Do(write)


@step
def padded(draw, x):
    d = axis(draw, x)
    amounts = [0, 0] * (x.dim() - 1 - d) + [draw(st.integers(0, 2)), 1]
    value = draw(st.sampled_from([0.0, 1.5]))
    return Do(lambda m, x: F.pad(x, amounts, value=value))


@step
def channels_and_places(draw, x):
    if x.dim() == 4:
        choices = [Do(lambda m, x: F.unfold(x, 1)), Do(lambda m, x: F.unfold(x, tuple(min(2, s) for s in x.shape[2:])))]
        if x.shape[1] % 4 == 0:
            choices.append(nn.PixelShuffle(2))
        if x.shape[2] % 2 == x.shape[3] % 2 == 0:
            choices.append(nn.PixelUnshuffle(2))
        if x.shape[1] % 2 == 0:
            choices.append(nn.ChannelShuffle(2))
        return draw(st.sampled_from(choices))


@step
def residual(draw, x):
    d = axis(draw, x)
    layer = nn.Linear(x.shape[d], x.shape[d])
    return Do(lambda m, x: x + m.layer(x.transpose(d, -1)).transpose(d, -1).tanh(), layer=layer)


# ---------------------------------------------------------------------------------------------------------- a network


@dataclass(frozen=True)
class Network:
    model: nn.Sequential
    shape: tuple[int, ...]
    names: tuple[str, ...]

    def inputs(self, batch: int) -> Tensor:
        return torch.randn(batch, *self.shape)


@st.composite
def networks(draw, least: int = 2, most: int = 8) -> Network:
    """Networks that begin with a layer; their outputs are finite."""
    torch.manual_seed(draw(st.integers(0, 999)))
    rank = draw(st.integers(2, 5))
    shape = tuple(draw(st.integers(3, 8 if rank < 4 else 5)) for _ in range(rank - 1))
    x, modules, names = torch.randn(2, *shape), [], []
    chosen = [draw(st.sampled_from(["linear", "convolution", "transposed_linear"]))]
    chosen += draw(st.lists(st.sampled_from(sorted(STEPS)), min_size=least, max_size=most))
    for name in chosen:
        module = STEPS[name](draw, x)
        if module is None:
            continue
        module.eval()
        with torch.no_grad():
            y = module(x)
        if y[0].numel() > MAX_VALUES or y.dim() > 5 or y.dim() < 2 or not y.isfinite().all():
            continue
        x = y
        modules.append(module)
        names.append(name)
    return Network(nn.Sequential(*modules).eval(), shape, tuple(names))


ROUNDING = 1e-12
"""Values of double precision as small as this are what is left of zero: a norm of values that are all the same has no other."""


def agree(wanted: Tensor, found: Tensor, decibels: float) -> bool:
    """Whether the outputs of a network are the same, to `decibels` or, where they are zero, to its rounding."""
    return sqnr(wanted, found) >= decibels or bool((wanted - found).abs().max() <= ROUNDING)
