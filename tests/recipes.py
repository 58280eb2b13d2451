"""Random small networks as printable recipes: branches, residuals, shared values, near misses, every spelling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

# An activation in every spelling. A spelling makes a module, or is a function of a tensor.
ACTIVATIONS: dict[str, dict[str, Callable[..., Any]]] = {
    "relu": {
        "module": lambda: nn.ReLU(),
        "module in place": lambda: nn.ReLU(inplace=True),
        "F": F.relu,
        "F in place": lambda x: F.relu(x, inplace=True),
        "F.relu_": F.relu_,
        "torch": torch.relu,
        "torch.relu_": torch.relu_,
        "method": lambda x: x.relu(),
        "method in place": lambda x: x.relu_(),
        "clamp_min": lambda x: x.clamp_min(0),
        "clamp": lambda x: torch.clamp(x, min=0),
        "clamp in place": lambda x: x.clamp_(min=0.0),
        "clip": lambda x: torch.clip(x, 0),
        "threshold": lambda x: F.threshold(x, 0.0, 0.0),
        "threshold module": lambda: nn.Threshold(0, 0),
        "hardtanh to infinity": lambda x: F.hardtanh(x, 0.0, float("inf")),
    },
    "relu6": {
        "module": lambda: nn.ReLU6(),
        "module in place": lambda: nn.ReLU6(inplace=True),
        "F": F.relu6,
        "hardtanh": lambda x: F.hardtanh(x, 0.0, 6.0),
        "hardtanh module": lambda: nn.Hardtanh(0, 6, inplace=True),
        "clamp": lambda x: x.clamp(0, 6),
        "clamp in place": lambda x: x.clamp_(0, 6.0),
        "clip": lambda x: torch.clip(x, min=0, max=6),
    },
    "hardswish": {
        "module": lambda: nn.Hardswish(),
        "module in place": lambda: nn.Hardswish(inplace=True),
        "F": F.hardswish,
    },
    "hardsigmoid": {
        "module": lambda: nn.Hardsigmoid(),
        "module in place": lambda: nn.Hardsigmoid(inplace=True),
        "F": F.hardsigmoid,
    },
    "silu": {
        "module": lambda: nn.SiLU(),
        "module in place": lambda: nn.SiLU(inplace=True),
        "F": F.silu,
        "F in place": lambda x: F.silu(x, inplace=True),
    },
    "gelu": {"module": lambda: nn.GELU(), "F": F.gelu},
    "gelu tanh": {"module": lambda: nn.GELU("tanh"), "F": lambda x: F.gelu(x, approximate="tanh")},
    "sigmoid": {
        "module": lambda: nn.Sigmoid(),
        "F": F.sigmoid,
        "torch": torch.sigmoid,
        "method": lambda x: x.sigmoid(),
        "method in place": lambda x: x.sigmoid_(),
        "special": torch.special.expit,
    },
    "tanh": {
        "module": lambda: nn.Tanh(),
        "F": F.tanh,
        "torch": torch.tanh,
        "method": lambda x: x.tanh(),
        "method in place": lambda x: x.tanh_(),
    },
    "leaky_relu": {
        "module": lambda: nn.LeakyReLU(0.1),
        "module in place": lambda: nn.LeakyReLU(0.1, inplace=True),
        "F": lambda x: F.leaky_relu(x, 0.1),
        "F in place": lambda x: F.leaky_relu_(x, 0.1),
    },
    "elu": {
        "module": lambda: nn.ELU(),
        "module in place": lambda: nn.ELU(inplace=True),
        "F": F.elu,
        "F in place": lambda x: F.elu_(x),
    },
    "mish": {"module": lambda: nn.Mish(), "module in place": lambda: nn.Mish(inplace=True), "F": F.mish},
}

# Sums in every spelling, and products; an operand may be a number.
ADDITIONS: dict[str, Callable[[Any, Any], Tensor]] = {
    "+": lambda x, y: x + y,
    "torch.add": torch.add,
    "method": lambda x, y: x.add(y),
    "in place": lambda x, y: x.add_(y),
    "alpha 1": lambda x, y: torch.add(x, y, alpha=1),
}
PRODUCTS: dict[str, Callable[[Any, Any], Tensor]] = {
    "*": lambda x, y: x * y,
    "torch.mul": torch.mul,
    "torch.multiply": torch.multiply,
    "method": lambda x, y: x.mul(y),
    "in place": lambda x, y: x.mul_(y),
}
FLATTENINGS: dict[str, Callable[..., Any]] = {
    "torch": lambda x: torch.flatten(x, 1),
    "method": lambda x: x.flatten(1),
    "module": lambda: nn.Flatten(),
    "view": lambda x: x.view(x.size(0), -1),
    "reshape": lambda x: x.reshape(x.shape[0], -1),
}


@dataclass(frozen=True)
class Step:
    """One line of a recipe: an operation on earlier values, in one spelling, with its options."""

    operation: str
    sources: tuple[int, ...]
    spelling: str = ""
    options: tuple[tuple[str, int], ...] = ()

    def __str__(self) -> str:
        arguments = [f"v{source}" for source in self.sources] + [f"{name}={value}" for name, value in self.options]
        return f"{self.operation}({', '.join(arguments)})" + (f"  as {self.spelling}" if self.spelling else "")

    def __getitem__(self, name: str) -> int:
        return dict(self.options)[name]


@dataclass(frozen=True)
class Recipe:
    """A network for images of 3 x `size` x `size`: each step makes the next value, and the last one is classified."""

    steps: tuple[Step, ...]
    channels: tuple[int, ...]
    size: int = 8
    seed: int = 0
    flattening: str = "torch"
    pooled: int = 1

    def __repr__(self) -> str:
        lines = [f"v{position} = {step}" for position, step in enumerate(self.steps, 1)]
        return "\n    ".join(
            [
                f"Recipe of 3x{self.size}x{self.size}, seed {self.seed}",
                *lines,
                f"flatten {self.pooled}x{self.pooled} as {self.flattening}",
            ]
        )

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # what hypothesis shows of a failing example
        printer.text(repr(self))

    def build(self) -> nn.Module:
        """The network in inference mode, its weights and batch norm statistics random but the same each time."""
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            network = Network(self)
            for module in network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    for tensor in (module.weight, module.running_var):
                        nn.init.uniform_(tensor, 0.5, 1.5)
                    for tensor in (module.bias, module.running_mean):
                        nn.init.normal_(tensor, 0, 0.2)
        return network.eval()

    def inputs(self, batch: int) -> Tensor:
        """`batch` normal random images, the same ones each time."""
        return torch.randn(batch, 3, self.size, self.size, generator=torch.Generator().manual_seed(self.seed))


class Network(nn.Module):
    """The network of a recipe. Step `n` owns the module ``step<n>``, if it needs one."""

    def __init__(self, recipe: Recipe):
        super().__init__()
        self.recipe = recipe
        for position, step in enumerate(recipe.steps, 1):
            module = _module_of(step, recipe)
            if module is not None:
                self.add_module(f"step{position}", module)
        self.flatten = FLATTENINGS["module"]()
        self.head = nn.Linear(recipe.channels[-1] * recipe.pooled**2, 5)

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for position, step in enumerate(self.recipe.steps, 1):
            sources = [values[source] for source in step.sources]
            values.append(_run(step, getattr(self, f"step{position}", None), sources))
        pooled = F.adaptive_avg_pool2d(values[-1], self.recipe.pooled)
        flat = self.flatten(pooled) if self.recipe.flattening == "module" else FLATTENINGS[self.recipe.flattening](pooled)
        return self.head(flat)


class SqueezeExcite(nn.Module):
    """``x * sigmoid(conv(pool(x)))``."""

    def __init__(self, channels: int, spelling: str):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)
        self.spelling = spelling

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean((2, 3), keepdim=True) if self.spelling == "mean" else F.adaptive_avg_pool2d(x, 1)
        return x * self.conv(pooled).sigmoid()


def _module_of(step: Step, recipe: Recipe) -> nn.Module | None:
    channels = recipe.channels[step.sources[0]]
    if step.operation == "conv":
        out, kernel, groups = (
            step["channels"],
            step["kernel"],
            channels if step["depthwise"] else dict(step.options).get("groups", 1),
        )
        padding: Any = "same" if step.spelling == "same" else kernel // 2
        return nn.Conv2d(channels, out, kernel, padding=padding, groups=groups, bias=bool(step["bias"]))
    if step.operation == "batch_norm":
        return nn.BatchNorm2d(channels)
    if step.operation == "squeeze_excite":
        return SqueezeExcite(channels, step.spelling)
    if step.operation == "dropout":
        return nn.Dropout(0.3)
    if step.operation in ACTIVATIONS and "module" in step.spelling:
        return ACTIVATIONS[step.operation][step.spelling]()
    return None


def _run(step: Step, module: nn.Module | None, sources: list[Tensor]) -> Tensor:
    if module is not None:
        functional = step.operation == "conv" and step.spelling == "F"
        return (
            F.conv2d(sources[0], module.weight, module.bias, 1, module.padding, 1, module.groups)
            if functional
            else module(*sources)
        )
    if step.operation in ACTIVATIONS:
        return ACTIVATIONS[step.operation][step.spelling](sources[0])
    return _FUNCTIONS[step.operation](step, *sources)


_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "add": lambda step, x, y: ADDITIONS[step.spelling](x, y),
    "add scaled": lambda step, x, y: torch.add(x, y, alpha=2),
    "mul": lambda step, x, y: PRODUCTS[step.spelling](x, y),
    "scale": lambda step, x: PRODUCTS[step.spelling](x, 0.5),
    "shift": lambda step, x: ADDITIONS[step.spelling](x, 1),
    "cat": lambda step, x, y: torch.cat([x, y], dim=1 if step.spelling == "front" else -3),
    "half": lambda step, x: x.chunk(2, 1)[0] if step.spelling == "chunk" else x[:, : (x.shape[1] + 1) // 2],
    "max_pool": lambda step, x: F.max_pool2d(x, 3, 1, 1),
    "avg_pool": lambda step, x: F.avg_pool2d(x, 3, 1, padding=1),
    "clamp": lambda step, x: x.clamp(-0.5, 5.0),
    "write": lambda step, x: _write(x, step.spelling),
    "gate": lambda step, x: _gate(*x.chunk(2, 1)),
    "shuffle": lambda step, x: _shuffle(x, step.spelling),
    "widen": lambda step, x: torch.cat([x[:, 1:], x], 1),
}


def _gate(x: Tensor, y: Tensor) -> Tensor:
    """Half of the channels, each weighed by one of the other half; the odd one out is left alone."""
    return x[:, : y.shape[1]] * y.sigmoid()


def _shuffle(x: Tensor, spelling: str) -> Tensor:
    """The channels of two halves in turn."""
    if spelling == "op":
        return F.channel_shuffle(x, 2)
    return x.reshape(x.size(0), 2, x.size(1) // 2, *x.shape[2:]).transpose(1, 2).flatten(1, 2)


def _write(x: Tensor, spelling: str) -> Tensor:
    """A change of part of `x` by another name: what is hardest to make functional."""
    x = x * 1.5
    if spelling == "slice":
        x[:, :1].add_(1)
    else:
        x.view(x.size(0), -1).mul_(0.5)
    return x


# ---------------------------------------------------------------------------------------------------------- strategy

_IN_PLACE = ("in place", "relu_")


@st.composite
def recipes(draw: st.DrawFn, max_steps: int = 8, in_place: bool = True, size: int = 8, regrouping: bool = False) -> Recipe:
    """Recipes of one to `max_steps` steps after a first convolution; `in_place` admits in-place spellings.

    With `regrouping` there are also channels in groups, shuffled, shifted and gated, and heads that read 2 x 2 places.
    """
    channels = [3]
    steps: list[Step] = []

    def add(step: Step, out: int) -> None:
        steps.append(step)
        channels.append(out)

    add(_conv(draw, 0, 3, depthwise=False), steps[-1]["channels"] if steps else 0)
    channels[1] = steps[0]["channels"]
    for _ in range(draw(st.integers(1, max_steps))):
        source = draw(st.integers(max(0, len(channels) - 3), len(channels) - 1).filter(lambda v: v > 0))
        odd = regrouping and draw(st.integers(0, 2)) == 0
        step = _regrouping(draw, source, channels[source]) if odd else _step(draw, source, channels, in_place)
        add(step, _channels_of(step, channels))
    pooled = draw(st.sampled_from([1, 2])) if regrouping else 1
    flattening = draw(st.sampled_from(sorted(FLATTENINGS)))
    return Recipe(tuple(steps), tuple(channels), size, draw(st.integers(0, 99)), flattening, pooled)


def _regrouping(draw: st.DrawFn, source: int, channels: int) -> Step:
    if channels % 2:
        return Step("widen", (source,))
    name = draw(st.sampled_from(["conv", "gate", "shuffle", "widen"]))
    if name == "conv":
        return _conv(draw, source, channels, depthwise=False, groups=2)
    return Step(name, (source,), draw(st.sampled_from(["op", "reshape"])) if name == "shuffle" else "")


def _step(draw: st.DrawFn, source: int, channels: list[int], in_place: bool) -> Step:
    kind = draw(st.sampled_from(["conv", "conv", "batch_norm", "activation", "activation", "join", "join", "other"]))
    if kind == "conv":
        return _conv(draw, source, channels[source], depthwise=draw(st.booleans()))
    if kind == "batch_norm":
        return Step("batch_norm", (source,))
    if kind == "activation":
        name = draw(st.sampled_from(["relu", "relu", *sorted(ACTIVATIONS)]))
        return Step(name, (source,), _spelling(draw, ACTIVATIONS[name], in_place))
    if kind == "join":
        return _join(draw, source, channels, in_place)
    name = draw(st.sampled_from(sorted(_OTHERS if in_place else set(_OTHERS) - {"write"})))
    table = {"scale": PRODUCTS, "shift": ADDITIONS}.get(name)
    return Step(name, (source,), _spelling(draw, table, in_place) if table else draw(st.sampled_from(_OTHERS[name])))


_OTHERS: dict[str, tuple[str, ...]] = {
    "scale": (),
    "shift": (),
    "half": ("chunk", "slice"),
    "max_pool": ("",),
    "avg_pool": ("",),
    "clamp": ("",),
    "dropout": ("",),
    "squeeze_excite": ("mean", "pool"),
    "write": ("slice", "view"),
}


def _join(draw: st.DrawFn, source: int, channels: list[int], in_place: bool) -> Step:
    partners = [v for v in range(1, len(channels)) if channels[v] == channels[source]]
    other = draw(st.sampled_from(partners))
    name = draw(st.sampled_from(["add", "add", "mul", "add scaled", "cat"]))
    if name == "cat":
        return Step("cat", (source, other), draw(st.sampled_from(["front", "back"])))
    table = {"add": ADDITIONS, "mul": PRODUCTS}.get(name)
    return Step(name, (source, other), _spelling(draw, table, in_place) if table else "")


def _conv(draw: st.DrawFn, source: int, channels: int, depthwise: bool, groups: int = 1) -> Step:
    out = channels if depthwise else draw(st.sampled_from([4, 6, 8]))
    options = {
        "channels": out,
        "kernel": draw(st.sampled_from([1, 3, 3, 2 if source else 3])),
        "depthwise": int(depthwise),
        "bias": draw(st.integers(0, 1)),
    }
    if groups > 1:
        options["groups"] = groups
    spelling = "same" if options["kernel"] == 2 else draw(st.sampled_from(["module", "F", "same"]))
    return Step("conv", (source,), spelling, tuple(options.items()))


def _spelling(draw: st.DrawFn, table: dict[str, Any], in_place: bool) -> str:
    return draw(st.sampled_from([s for s in table if in_place or not s.endswith(_IN_PLACE)]))


def _channels_of(step: Step, channels: list[int]) -> int:
    first = channels[step.sources[0]]
    if step.operation == "conv":
        return step["channels"]
    if step.operation == "cat":
        return first + channels[step.sources[1]]
    sizes = {"half": (first + 1) // 2, "gate": first // 2, "widen": 2 * first - 1}
    return sizes.get(step.operation, first)
